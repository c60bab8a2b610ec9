"""Queues: one for each model, served in order, named by kind or in full."""

from __future__ import annotations

import pytest

from shared.dispatch import (
    QUEUES,
    kind_of_queue,
    models_of_queues,
    queues,
    queues_from_names,
    render_queue,
)

MODELS = ["riffarm-mini", "sd-1.5", "sd-1.5.x"]


def test_each_model_has_a_queue_of_its_own() -> None:
    """A worker takes no work of a model it does not have."""
    assert render_queue("riffarm-mini") == "render.riffarm-mini"
    assert len({render_queue(model) for model in MODELS}) == len(MODELS)


def test_what_is_nearly_finished_goes_first() -> None:
    """Deliveries, then sound, then the models in their order."""
    assert queues(["a", "b"]) == ["deliver", "sound", "render.a", "render.b"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("sound", ["sound"]),
        ("render", queues(MODELS)[2:]),
        ("sound, deliver", ["sound", "deliver"]),
        ("render,deliver", [*(f"render.{model}" for model in MODELS), "deliver"]),
        ("render.sd-1.5", ["render.sd-1.5"]),
        ("render.sd-1.5,render", [f"render.{model}" for model in ("sd-1.5", MODELS[0], MODELS[2])]),
    ],
)
def test_names_stand_for_queues_in_their_order_each_once(names: str, expected: list[str]) -> None:
    """A kind is all of its queues; a name that begins like another is not that one."""
    assert queues_from_names(names, MODELS) == expected


def test_without_names_all_queues_are_served() -> None:
    """In the usual order."""
    assert queues_from_names(None, MODELS) == queues(MODELS)


@pytest.mark.parametrize("names", ["", "rendering", "render.", "render.other", "sound,,deliver", "normal"])
def test_a_queue_that_is_not_there_is_refused_with_those_that_are(names: str) -> None:
    """Also one of a model that the worker does not have: its work would wait for ever."""
    with pytest.raises(ValueError, match=r"there is no queue .*; there are deliver, sound, render"):
        queues_from_names(names, MODELS)


def test_kinds_and_models_are_found_again_in_the_names() -> None:
    """What heartbeats and readiness speak of."""
    assert [*dict.fromkeys(map(kind_of_queue, queues(MODELS)))] == [*QUEUES]
    assert models_of_queues(queues(MODELS)) == MODELS
    assert models_of_queues(["sound", "deliver"]) == []
