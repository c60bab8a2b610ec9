"""Prompt weights: brackets say how much words count, and a bracket gone wrong says where."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.prompts import MAX_WEIGHT, weighted_parts


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("[b]", [("b", 1 / 1.1)]),
        ("slow (piano:1.3)", [("slow ", 1.0), ("piano", 1.3)]),
        ("(piano: 0.5 )", [("piano", 0.5)]),
        ("(drums:0)", [("drums", 0.0)]),
        ("((a:2) b:1.5)", [("a", 3.0), (" b", 1.5)]),
        ("([a])", [("a", pytest.approx(1.0))]),
        ("dru(mm)er", [("dru", 1.0), ("mm", 1.1), ("er", 1.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("a: b (c)", [("a: b ", 1.0), ("c", 1.1)]),
    ],
)
def test_brackets_weigh_what_they_hold(prompt, parts):
    """Round ones more, square ones less, numbers exactly, nested ones multiplied, and the rest counts once."""
    assert weighted_parts(prompt) == parts


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (r"piano \(solo\)", [("piano (solo)", 1.0)]),
        (r"a \[b\] (c)", [("a [b] ", 1.0), ("c", 1.1)]),
        (r"(key\: C:1.2)", [("key: C", 1.2)]),
        (r"(key\: C)", [("key: C", 1.1)]),
        (r"(a\\)", [("a\\", 1.1)]),
        (r"(a\b)", [(r"a\b", 1.1)]),
    ],
)
def test_a_backslash_takes_a_brackets_meaning(prompt, parts):
    """Escaped brackets, colons and backslashes are text; before anything else a backslash is one itself."""
    assert weighted_parts(prompt) == parts


@given(st.text(st.characters(exclude_characters="()[]"), max_size=60))
def test_a_prompt_without_brackets_is_one_part_as_it_stands(prompt):
    """Colons, backslashes and anything else keep their places."""
    assert weighted_parts(prompt) == [(prompt, 1.0)]


@pytest.mark.parametrize(
    ("prompt", "where", "problem"),
    [
        ("drums (and bass", "character 7", "never closed"),
        ("((a:1.3)", "character 1", "never closed"),
        ("drums and) bass", "character 10", "closes no bracket"),
        ("(drums]", "character 7", "closes no bracket"),
        ("a () b", "character 3", "nothing in it"),
        ("( )", "character 1", "nothing in it"),
        ("(:1.2)", "character 1", "nothing in it"),
        ("(a:loud)", "character 3", "no number"),
        ("(a:)", "character 3", "no number"),
        ("(a:nan)", "character 3", "no number"),
        ("(a:1e3)", "character 3", "no number"),
        ("(a:1.2(b))", "character 3", "no number"),
        ("[a:0.5]", "character 3", "square brackets"),
        ("(a:4.01)", "character 3", "limited to 0..4"),
        ("(a:-1)", "character 3", "limited to 0..4"),
        ("((a:3):2)", "character 3", "limited to 0..4"),
        ("(" * 15 + "a" + ")" * 15, "character 16", "limited to 0..4"),
    ],
)
def test_brackets_gone_wrong_say_what_and_where(prompt, where, problem):
    """One sentence with the place, the text there and what is wrong with it."""
    with pytest.raises(ValueError, match=problem) as caught:
        weighted_parts(prompt)
    message = str(caught.value)
    assert message.startswith(f"{where} of the prompt, at {prompt[int(where.split()[1]) - 1]!r}"[:-1])
    assert "\n" not in message


@given(st.text("ab :1.(][)\\", max_size=30))
def test_any_text_is_read_or_refused(prompt):
    """Whatever the brackets, the parts are text of the prompt within the limits, neighbours of different weight."""
    try:
        parts = weighted_parts(prompt)
    except ValueError:
        return
    assert all(0 <= weight <= MAX_WEIGHT for _, weight in parts)
    assert all(one != other for (_, one), (_, other) in pairwise(parts))
    assert len("".join(text for text, _ in parts)) <= len(prompt)
    assert "".join(text for text, _ in parts).strip() or not prompt.strip()
