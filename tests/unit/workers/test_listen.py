"""The listening page: which pieces it shows, its sounds and pictures, and what stands in its HTML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from shared.contracts import LOUDNESS_LUFS
from shared.spectrogram_params import FRAME_COLUMNS
from workers.cli import commands
from workers.mastering import levels_from_chunks
from workers.training import listen
from workers.training.listening_page import Example, ModelFacts, Take, page
from workers.training.score import DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece

PIECE = Piece("ambient", "flute", "no drums", "acoustic", 9, "minor", 8, "plain", "dry", seed=3)
DATA = (Take("played", "pictures/01-data.jpg", "sounds/01-played.mp3"),)
MODEL = Take("model", "pictures/01-model.jpg", "sounds/01-model.mp3")
FACTS = ModelFacts("some-model", "0123456789abcdef" * 4, "ddim", 16, 5.0)


class _Tags(HTMLParser):
    """All start tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.found if name == tag)


def _example(piece: Piece = PIECE, takes: tuple[Take, ...] = DATA, prompt: str = "slow ambient flute") -> Example:
    return Example(1, piece, prompt, ("a flute",), takes)


def test_every_genre_instrument_and_drum_pattern_is_dealt_as_often_as_any_other() -> None:
    """But for one; the same seed deals the same, however many, another one something else."""
    pieces = listen.dealt_pieces(40, seed=1)
    for name, values in (("genre", GENRES), ("instrument", INSTRUMENT_NAMES), ("drums", DRUM_PATTERNS)):
        counts = Counter(getattr(piece, name) for piece in pieces)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert pieces[:7] == listen.dealt_pieces(7, seed=1)
    assert pieces != listen.dealt_pieces(40, seed=2)


def test_a_picture_gives_back_a_loop_without_a_seam() -> None:
    """A steady tone goes on over the end: no jump there that is larger than those within."""
    pixels = np.full((512, FRAME_COLUMNS), 255, np.uint8)
    pixels[400:402] = 0
    loop = listen.loop_from_pixels(pixels)
    assert loop.shape == (1, FRAME_COLUMNS * 441)
    jumps = np.abs(np.diff(loop[0], append=loop[0, 0]))
    assert jumps[-1] <= jumps[:-1].max()


def test_the_page_comes_with_sounds_of_one_loudness_and_small_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command writes a page whose files are all there, each a whole loop, not clipped and evenly loud."""
    monkeypatch.setattr(listen, "draw_piece", lambda _: PIECE)
    result = CliRunner().invoke(commands, ["listen", "--count", "1", "--seed", "5", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "out" / "index.html")
    tags = _Tags((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    sounds = [tmp_path / "out" / str(one["data-sound"]) for one in tags.named("input") if "data-sound" in one]
    assert [path.name for path in sounds] == ["01-played.mp3", "01-picture.mp3"]
    for path, rate_hz in zip(sounds, (44_100, 22_050), strict=True):
        waveform, own_rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        levels = levels_from_chunks([waveform.T], own_rate_hz)
        assert (own_rate_hz, len(waveform)) == (rate_hz, round(5.12 * rate_hz))
        assert levels.loudness_lufs == pytest.approx(LOUDNESS_LUFS - 1, abs=1)
        assert levels.true_peak_dbtp < 0
        assert path.stat().st_size < 50_000
    (picture,) = (tmp_path / "out" / str(one["src"]) for one in tags.named("img"))
    with Image.open(picture) as image:
        assert image.size == (512, 256)
    assert picture.stat().st_size < 40_000


def test_no_older_page_stands_over_newer_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is broken off leaves no page that tells of other examples."""
    (tmp_path / "index.html").write_text("older")

    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listen, "_takes_of_piece", broken_off)
    with pytest.raises(KeyboardInterrupt):
        listen.write_listening_page(tmp_path, 1, 1, None, broken_off)
    assert not (tmp_path / "index.html").exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    """A file in its place ends the command with 1."""
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(commands, ["listen", "--count", "1", "--output", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert re.fullmatch(r"riffarm listen: .*\n", result.stderr)


def test_all_text_is_escaped() -> None:
    """Prompts, captions and a model's name are text, whatever they hold."""
    evil = '<script>alert("1")</script>'
    example = replace(_example(takes=(*DATA, MODEL), prompt=evil), captions=(evil,))
    html = page([example], 1, replace(FACTS, name=evil))
    assert evil not in html
    assert html.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 3
    assert sum(tag == "script" for tag, _ in _Tags(html).found) == 1


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address leads off the folder, and all ids and labels belong together."""
    html = page([_example(takes=(*DATA, MODEL))], 1, FACTS)
    tags = _Tags(html)
    addresses = [str(one[key]) for _, one in tags.found for key in ("src", "href", "data-sound") if key in one]
    assert addresses
    assert all(re.fullmatch(r"(pictures|sounds)/[\w-]+\.(jpg|mp3)", address) for address in addresses)
    assert "http" not in html
    ids = [one["id"] for _, one in tags.found if "id" in one]
    assert len(ids) == len(set(ids))
    assert {one["aria-labelledby"] for one in tags.named("article")} <= set(ids)


def test_filters_offer_what_there_is_with_its_count() -> None:
    """A value no example has is no button; without drums no kit is told."""
    drummed = replace(PIECE, drums="rock drums", kit="electronic")
    html = page([_example(), replace(_example(drummed), number=2)], 1, None)
    buttons = [(one["data-filter"], one["data-value"]) for one in _Tags(html).named("button") if "data-filter" in one]
    assert buttons == [
        ("genre", "ambient"),
        ("instrument", "flute"),
        ("drums", "no drums"),
        ("drums", "rock drums"),
    ]
    assert ">ambient<i>2</i>" in html
    assert html.count("<dd>electronic</dd>") == 1
    assert "<dd>acoustic</dd>" not in html


def test_the_model_is_told_of_only_where_it_is_heard() -> None:
    """With one: which weights and how many steps; without: no word and no switch."""
    without = page([_example()], 1, None)
    assert "sha256" not in without
    assert 'data-everywhere="model"' not in without
    html = page([_example(takes=(*DATA, MODEL))], 1, FACTS)
    assert "0123456789ab</code> (sha256), 16 steps of <code>ddim</code>, guidance 5." in html
    assert [one["data-takes"] for one in _Tags(html).named("figure")] == ["played", "model"]
