"""Pieces → captions: the words a prompt may use.

Owns the wordings and how fields are dropped and shuffled. Leaves out tokens (`workers.training.networks`).
"""

from __future__ import annotations

import random
from typing import Final

from workers.training.score import ROOTS, Piece

DRUM_WORDINGS: Final = {
    "no drums": ("no drums", "no drums", "without drums"),
    "swing drums": ("swing drums", "swing drums", "brushed swing drums"),
    "rock drums": ("rock drums", "rock drums", "backbeat rock drums"),
    "four on the floor drums": ("four on the floor drums", "four on the floor drums", "four on the floor"),
    "funk drums": ("funk drums", "funk drums", "breakbeat funk drums"),
}
TEMPO_WORDS: Final = {6: "slow", 8: "medium tempo", 12: "fast"}


def caption_from_piece(piece: Piece, rng: random.Random) -> str:
    """A caption that names some of a piece's attributes, drawn anew each time; often its drums or one word alone."""
    form = rng.random()
    if form < 0.35:
        return _drums(piece, rng)
    if form < 0.6:
        return full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats)
    if form < 0.65:
        return rng.choice(_WORDERS)(piece, rng)
    return ", ".join(_fields(piece, rng))


def full_prompt(genre: str, instrument: str, drums: str, beats: int) -> str:
    """The plainest prompt that names genre, instrument, drums and tempo."""
    return f"{TEMPO_WORDS[beats]} {genre} {instrument}, {drums}"


def _fields(piece: Piece, rng: random.Random) -> list[str]:
    head = _head(piece, rng)
    rest = [worder(piece, rng) for worder in (_key, _tempo) if rng.random() < 0.5]
    if rng.random() < 0.9:
        rest.append(_drums(piece, rng))
    rng.shuffle(rest)
    return rest[:1] + head + rest[1:] if rng.random() < 0.15 else head + rest


def _head(piece: Piece, rng: random.Random) -> list[str]:
    form = rng.random()
    if form < 0.1:
        return [rng.choice((piece.genre, piece.instrument))]
    if form < 0.25:
        return [piece.instrument, piece.genre]
    if form < 0.35:
        return [f"{piece.genre} groove with {piece.instrument}"]
    tempo = f"{TEMPO_WORDS[piece.beats]} " if rng.random() < 0.3 else ""
    return [f"{tempo}{piece.genre} {piece.instrument}"]


def _key(piece: Piece, rng: random.Random) -> str:
    return f"in {ROOTS[piece.root]} {piece.mode}" if rng.random() < 0.8 else f"{piece.mode} key"


def _tempo(piece: Piece, rng: random.Random) -> str:
    return rng.choice((TEMPO_WORDS[piece.beats], f"{round(piece.tempo_bpm)} bpm"))


def _drums(piece: Piece, rng: random.Random) -> str:
    return rng.choice(DRUM_WORDINGS[piece.drums])


def _genre(piece: Piece, rng: random.Random) -> str:
    return rng.choice((piece.genre, f"{piece.genre} music"))


def _instrument(piece: Piece, rng: random.Random) -> str:
    return rng.choice((piece.instrument, f"solo {piece.instrument}"))


_WORDERS: Final = (_genre, _instrument, _drums, _tempo, _key)
