"""Pieces → captions: the words a prompt may use.

Owns the wordings and how fields are dropped and shuffled. Leaves out tokens (`workers.training.networks`).
"""

from __future__ import annotations

import random
from typing import Final

from workers.training.score import ROOTS, Piece

DRUM_WORDINGS: Final = {
    "no drums": ("no drums", "without drums", "drumless"),
    "swing drums": ("swing drums", "swing drums", "brushed swing drums", "jazz drums"),
    "rock drums": ("rock drums", "rock drums", "backbeat rock drums", "backbeat"),
    "four on the floor drums": (
        "four on the floor drums",
        "four on the floor drums",
        "four on the floor",
        "house drums",
    ),
    "funk drums": ("funk drums", "funk drums", "breakbeat funk drums", "breakbeat"),
    "latin drums": ("latin drums", "latin drums", "latin percussion", "congas and shaker"),
}
TEMPO_WORDS: Final = {6: "slow", 8: "medium tempo", 12: "fast"}
_INSTRUMENT_WORDINGS: Final = {
    "electric piano": ("rhodes", "electric piano"),
    "organ": ("hammond organ", "organ"),
    "acoustic guitar": ("guitar", "acoustic guitar", "nylon guitar"),
    "electric guitar": ("guitar", "electric guitar", "distorted guitar"),
    "strings": ("violins", "string section"),
    "choir": ("voices", "singing choir"),
    "synth": ("synthesizer", "synth lead"),
    "pad": ("synth pad", "soft pad"),
    "vibraphone": ("vibes", "vibraphone"),
    "bells": ("glockenspiel", "music box"),
}
_TONE_WORDS: Final = {"warm": ("warm", "mellow", "dark"), "plain": ("",), "bright": ("bright", "crisp", "brilliant")}
_SPACE_WORDS: Final = {
    "dry": ("dry", "close"),
    "room": ("in a room", ""),
    "hall": ("in a hall", "with reverb", "spacious"),
}
_KIT_WORDS: Final = {
    "acoustic": ("acoustic kit", "live drums"),
    "electronic": ("drum machine", "electronic kit"),
}
_TEMPO_WORDINGS: Final = {6: ("slow", "slow", "calm"), 8: ("medium tempo", "mid tempo"), 12: ("fast", "fast", "quick")}
_MOODS: Final = {"major": ("happy", "cheerful"), "minor": ("sad", "melancholic")}


def caption_from_piece(piece: Piece, rng: random.Random) -> str:
    """A caption that names some of a piece's attributes, drawn anew each time: plain, one word alone, loose or long."""
    form = rng.random()
    if form < 0.3:
        return full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats, piece.root, piece.mode)
    if form < 0.45:
        return full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats)
    if form < 0.6:
        return rng.choice(_WORDERS)(piece, rng)
    if form < 0.7:
        return _loose(piece, rng)
    return ", ".join(_fields(piece, rng))


def full_prompt(
    genre: str, instrument: str, drums: str, beats: int, root: int | None = None, mode: str | None = None
) -> str:
    """The plainest prompt that names genre, instrument, drums and tempo, and the key when `root` and `mode` are there.

    `root` is a pitch class of ROOTS.
    """
    key = "" if root is None else f", in {_LETTERS[root]} {mode}"
    return f"{TEMPO_WORDS[beats]} {genre} {instrument}, {drums}{key}"


_LETTERS: Final = {pitch_class: letter for letter, pitch_class in ROOTS.items()}


def _fields(piece: Piece, rng: random.Random) -> list[str]:
    """A head and some more fields, in any order; a plain one is left out by its empty words."""
    often = [(_key, 0.6), (_tempo, 0.6), (_drums, 0.8), (_tone, 0.4), (_space, 0.4), (_kit, 0.3)]
    rest = [words for worder, share in often if rng.random() < share and (words := worder(piece, rng))]
    rng.shuffle(rest)
    head = _head(piece, rng)
    return rest[:1] + head + rest[1:] if rng.random() < 0.2 else head + rest


def _head(piece: Piece, rng: random.Random) -> list[str]:
    instrument = _instrument(piece, rng)
    form = rng.random()
    if form < 0.15:
        return [rng.choice((piece.genre, instrument))]
    if form < 0.3:
        return [instrument, piece.genre]
    if form < 0.4:
        return [f"{piece.genre} groove with {instrument}"]
    if form < 0.5:
        return [f"solo {instrument} playing {piece.genre}"]
    return [f"{piece.genre} {instrument}"]


def _loose(piece: Piece, rng: random.Random) -> str:
    """As people ask who do not know the words: something slow and warm on guitar."""
    wanted = [words for words in (_tempo(piece, rng), _tone(piece, rng), _mood(piece, rng)) if words]
    like = " and ".join(rng.sample(wanted, min(len(wanted), rng.choice((1, 2)))))
    start = rng.choice(("something", "some music", "play something", "i want something"))
    on = rng.choice((f"on {_instrument(piece, rng)}", f"for {_instrument(piece, rng)}", f"like {piece.genre}"))
    return f"{start} {like} {on}" + rng.choice(("", f" with {_drums(piece, rng)}", f", {_drums(piece, rng)}"))


def _key(piece: Piece, rng: random.Random) -> str:
    return f"in {_LETTERS[piece.root]} {piece.mode}" if rng.random() < 0.85 else _mood(piece, rng)


def _mood(piece: Piece, rng: random.Random) -> str:
    return rng.choice(_MOODS[piece.mode])


def _tempo(piece: Piece, rng: random.Random) -> str:
    return rng.choice((*_TEMPO_WORDINGS[piece.beats], f"{round(piece.tempo_bpm)} bpm"))


def _drums(piece: Piece, rng: random.Random) -> str:
    """The pattern mostly, now and then only that there are drums."""
    if piece.drums != "no drums" and rng.random() < 0.1:
        return "drums"
    return rng.choice(DRUM_WORDINGS[piece.drums])


def _kit(piece: Piece, rng: random.Random) -> str:
    return "" if piece.drums == "no drums" else rng.choice(_KIT_WORDS[piece.kit])


def _tone(piece: Piece, rng: random.Random) -> str:
    return rng.choice(_TONE_WORDS[piece.tone])


def _space(piece: Piece, rng: random.Random) -> str:
    return rng.choice(_SPACE_WORDS[piece.space])


def _genre(piece: Piece, rng: random.Random) -> str:
    return rng.choice((piece.genre, f"{piece.genre} music"))


def _instrument(piece: Piece, rng: random.Random) -> str:
    """The instrument's own name mostly, another word for it now and then."""
    others = _INSTRUMENT_WORDINGS.get(piece.instrument)
    return rng.choice(others) if others and rng.random() < 0.3 else piece.instrument


_WORDERS: Final = (_genre, _instrument, _drums, _tempo, _key)
