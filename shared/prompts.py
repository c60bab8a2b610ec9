r"""Weights inside prompts: brackets that say how much their words count.

    (word)        1.1 times as much          (word:1.3)   1.3 times, any weight of 0..4
    [word]        1.1 times less             \( \) \[ \]  brackets to be read as such

Brackets within brackets multiply. Owns the reading of brackets. Leaves out what a weight does (`workers.prompts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_WEIGHT: Final = 4.0
_STRONGER: Final = 1.1
_CLOSING: Final = {"(": ")", "[": "]"}
_BRACKETS: Final = frozenset("()[]")
_PIECE: Final = re.compile(r"\\[()\[\]:\\]|.", re.DOTALL)
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", re.ASCII)
_SHOWN: Final = 24
"""Characters of a prompt that an error quotes."""


@dataclass(slots=True)
class _Letter:
    """A character to be read, and its weight so far."""

    text: str
    place: int
    """Where it stands in the prompt."""
    weight: float = 1.0
    is_literal: bool = True
    """Whether it means itself; a colon that does not may lead to a weight."""


def weighted_parts(prompt: str) -> list[tuple[str, float]]:
    r"""The prompt without its brackets, cut wherever the weight changes; the parts joined are all of its text.

    A prompt without brackets is one part of weight 1, as it stands. With brackets, `\:` is a colon that leads to no
    weight and `\\` a backslash. Raises ValueError, saying what is wrong and where, for brackets that are not paired or
    hold nothing, for a weight that is no number and for one outside 0..4, also where nested brackets multiply to it.
    """
    if _BRACKETS.isdisjoint(prompt):
        return [(prompt, 1.0)]
    parts: list[tuple[str, float]] = []
    for letter in _letters(prompt):
        if not 0 <= letter.weight <= MAX_WEIGHT:
            raise _error(
                prompt, letter.place, f"weighs {letter.weight:g}, and weights are limited to 0..{MAX_WEIGHT:g}"
            )
        if parts and parts[-1][1] == letter.weight:
            parts[-1] = (parts[-1][0] + letter.text, letter.weight)
        else:
            parts.append((letter.text, letter.weight))
    return parts


def _letters(prompt: str) -> list[_Letter]:
    letters: list[_Letter] = []
    open_brackets: list[tuple[str, int, int]] = []  # the bracket, its place, the number of letters before it
    for match in _PIECE.finditer(prompt):
        piece, place = match.group(), match.start()
        if piece in _CLOSING:
            open_brackets.append((piece, place, len(letters)))
        elif piece in _BRACKETS:
            if not open_brackets or _CLOSING[open_brackets[-1][0]] != piece:
                raise _error(prompt, place, f"is a {piece!r} that closes no bracket")
            letters = _closed(prompt, letters, *open_brackets.pop())
        else:
            letters.append(_Letter(piece[-1], place, is_literal=piece != ":" or not open_brackets))
    if open_brackets:
        bracket, place, _ = open_brackets[-1]
        raise _error(prompt, place, f"is a {bracket!r} that is never closed")
    return letters


def _closed(prompt: str, letters: list[_Letter], bracket: str, place: int, before: int) -> list[_Letter]:
    """All letters so far, those of the bracket that just closed with its weight upon them."""
    inside = letters[before:]
    colons = [number for number, letter in enumerate(inside) if not letter.is_literal]
    if colons and bracket == "[":
        raise _error(prompt, inside[colons[-1]].place, "is a weight in square brackets, where only round ones have one")
    weight = _STRONGER if bracket == "(" else 1 / _STRONGER
    if colons:
        weight = _weight(prompt, inside[colons[-1]].place, inside[colons[-1] + 1 :])
        inside = inside[: colons[-1]]
    if not any(letter.text.strip() for letter in inside):
        raise _error(prompt, place, "is a bracket with nothing in it")
    for letter in inside:
        letter.weight *= weight
        letter.is_literal = True
    return letters[:before] + inside


def _weight(prompt: str, place: int, digits: list[_Letter]) -> float:
    text = "".join(letter.text for letter in digits)
    if not _NUMBER.fullmatch(text):
        raise _error(prompt, place, r"is followed by no number; a colon that leads to no weight is written '\:'")
    if not 0 <= float(text) <= MAX_WEIGHT:
        raise _error(prompt, place, f"gives a weight of {text.strip()}, and weights are limited to 0..{MAX_WEIGHT:g}")
    return float(text)


def _error(prompt: str, place: int, problem: str) -> ValueError:
    rest = prompt[place : place + _SHOWN]
    shown = rest + "…" if place + _SHOWN < len(prompt) else rest
    return ValueError(f"character {place + 1} of the prompt, at {shown!r}, {problem}")
