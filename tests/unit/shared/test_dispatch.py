"""Queues: one for each priority and model, served in order, named by kind or in full."""

from __future__ import annotations

from itertools import product

import pytest

from shared.dispatch import (
    PRIORITIES,
    QUEUES,
    kind_of_queue,
    models_of_queues,
    queues,
    queues_from_names,
    render_queue,
)

MODELS = ["riffarm-mini", "sd-1.5", "sd-1.5.x"]


def test_each_priority_of_each_model_has_a_queue_of_its_own() -> None:
    """A worker takes no work of a model it does not have."""
    assert render_queue("normal", "riffarm-mini") == "render.normal.riffarm-mini"
    names = [render_queue(priority, model) for priority, model in product(PRIORITIES, MODELS)]
    assert len({*names}) == len(names)


def test_a_worker_serves_what_is_urgent_for_any_model_before_what_is_not() -> None:
    """What is nearly finished goes first, then each priority over all models."""
    assert queues(["a", "b"]) == [
        "deliver",
        "sound",
        "render.interactive.a",
        "render.interactive.b",
        "render.normal.a",
        "render.normal.b",
        "render.bulk.a",
        "render.bulk.b",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("sound", ["sound"]),
        ("render", queues(MODELS)[2:]),
        ("sound, deliver", ["sound", "deliver"]),
        ("render.bulk,deliver", [*(f"render.bulk.{model}" for model in MODELS), "deliver"]),
        ("render.normal.sd-1.5", ["render.normal.sd-1.5"]),
        (
            "render.normal.sd-1.5,render.normal",
            [f"render.normal.{model}" for model in ("sd-1.5", MODELS[0], MODELS[2])],
        ),
    ],
)
def test_names_stand_for_queues_in_their_order_each_once(names: str, expected: list[str]) -> None:
    """A kind is all of its queues; a name that begins like another is not that one."""
    assert queues_from_names(names, MODELS) == expected


def test_without_names_all_queues_are_served() -> None:
    """In the usual order."""
    assert queues_from_names(None, MODELS) == queues(MODELS)


@pytest.mark.parametrize("names", ["", "rendering", "render.", "render.normal.other", "sound,,deliver", "normal"])
def test_a_queue_that_is_not_there_is_refused_with_those_that_are(names: str) -> None:
    """Also one of a model that the worker does not have: its work would wait for ever."""
    with pytest.raises(ValueError, match=r"there is no queue .*; there are render, deliver, sound"):
        queues_from_names(names, MODELS)


def test_kinds_and_models_are_found_again_in_the_names() -> None:
    """What heartbeats and readiness speak of."""
    assert [*dict.fromkeys(map(kind_of_queue, queues(MODELS)))] == [*QUEUES]
    assert models_of_queues(queues(MODELS)) == MODELS
    assert models_of_queues(["sound", "deliver"]) == []
