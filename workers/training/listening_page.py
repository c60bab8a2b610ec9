"""The listening page's HTML from its examples.

Owns what the page says and how it is put together; how it looks and behaves is in `listen.html`. Leaves out sounds and
pictures (`workers.training.listen`): here they are names of files beside the page. All text is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from workers.training.score import BAR_BEATS, DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, ROOTS, Piece

TAKES: Final = {"played": "As played", "picture": "From its picture", "model": "Model"}
"""What can be heard of an example, and how it is called."""
FILTERS: Final = {"genre": GENRES, "instrument": INSTRUMENT_NAMES, "drums": DRUM_PATTERNS}
_TEMPLATE: Final = Path(__file__).with_name("listen.html")
_ROOT_NAMES: Final = {pitch_class: name for name, pitch_class in ROOTS.items()}

_CARD: Final = Template("""\
<article class="card" aria-labelledby="title-$number"$data>
  <header><span class="number">$number</span><h2 id="title-$number">$prompt</h2></header>
  <div class="pictures">$pictures</div>
  <fieldset class="takes"><legend class="unseen">What to hear of example $number</legend>$takes</fieldset>
  <div class="player">
    <audio controls preload="none" src="$sound" aria-label="Example $number"></audio>
    <label><input type="checkbox" class="loop" checked>Loop</label>
  </div>
  <dl>$attributes</dl>
  <h3>Captions, drawn as the training draws them</h3>
  <ul>$captions</ul>
</article>
""")
_PICTURE: Final = Template("""\
<figure class="picture" data-takes="$takes"><img src="$picture" width="512" height="256" loading="lazy" \
alt="Spectrogram of $whose sound of example $number"><span class="head" aria-hidden="true"></span>\
<figcaption>$label</figcaption></figure>""")
_TAKE: Final = Template("""\
<label><input type="radio" name="take-$number" value="$kind" data-sound="$sound"$checked><span>$label</span></label>""")
_FILTER: Final = Template("""\
<button type="button" aria-pressed="false" data-filter="$filter" data-value="$value">$value<i>$count</i></button>""")


@dataclass(frozen=True, slots=True)
class Take:
    """One way an example sounds: a key of TAKES, and its picture and sound as paths from the page."""

    kind: str
    picture: str
    sound: str


@dataclass(frozen=True, slots=True)
class Example:
    """A piece with what is written and heard of it; numbers count from 1."""

    number: int
    piece: Piece
    prompt: str
    captions: tuple[str, ...]
    takes: tuple[Take, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which weights were asked, and how."""

    name: str
    sha256: str
    sampler: str
    num_inference_steps: int
    guidance_scale: float


def page(examples: Sequence[Example], seed: int, model: ModelFacts | None) -> str:
    """The page as HTML."""
    kinds = [kind for kind in TAKES if any(take.kind == kind for example in examples for take in example.takes)]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        count=len(examples),
        seed=seed,
        filters="".join(_filters(name, values, examples) for name, values in FILTERS.items()),
        everywhere="".join(
            f'<button type="button" data-everywhere="{kind}">{escape(TAKES[kind])}</button>' for kind in kinds
        ),
        about_model=_about_model(model),
        cards="".join(map(_card, examples)),
    )


def _filters(name: str, values: Iterable[str], examples: Sequence[Example]) -> str:
    counts = Counter(str(getattr(example.piece, name)) for example in examples)
    buttons = (
        _FILTER.substitute(filter=name, value=escape(value), count=counts[value]) for value in values if counts[value]
    )
    return f'<div class="filter" role="group" aria-label="{name}"><b>{name}</b><p>{"".join(buttons)}</p></div>'


def _about_model(model: ModelFacts | None) -> str:
    if model is None:
        return ""
    return (
        f"<p><b>Model</b> is what <code>{escape(model.name)}</code> makes of the prompt above each example: its first "
        "answer, with the example's number as the seed. Nothing was picked, tried again or touched up, and it never "
        f"heard the example. Weights <code>{escape(model.sha256[:12])}</code> (sha256), "
        f"{model.num_inference_steps} steps of <code>{escape(model.sampler)}</code>, guidance "
        f"{model.guidance_scale:g}.</p>"
    )


def _card(example: Example) -> str:
    piece = example.piece
    data = "".join(f' data-{name}="{escape(str(getattr(piece, name)))}"' for name in FILTERS)
    return _CARD.substitute(
        number=example.number,
        data=data,
        prompt=escape(example.prompt),
        sound=escape(example.takes[0].sound),
        pictures="".join(_pictures(example)),
        takes="".join(
            _TAKE.substitute(
                number=example.number,
                kind=escape(take.kind),
                sound=escape(take.sound),
                checked="" if index else " checked",
                label=escape(TAKES[take.kind]),
            )
            for index, take in enumerate(example.takes)
        ),
        attributes="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _attributes(piece).items()
        ),
        captions="".join(f"<li>{escape(caption)}</li>" for caption in example.captions),
    )


def _pictures(example: Example) -> Iterable[str]:
    """Each picture once, with the takes that sound from it."""
    for picture in dict.fromkeys(take.picture for take in example.takes):
        kinds = [take.kind for take in example.takes if take.picture == picture]
        is_model = "model" in kinds
        yield _PICTURE.substitute(
            takes=escape(" ".join(kinds)),
            picture=escape(picture),
            number=example.number,
            whose="the model's" if is_model else "the data's",
            label="model" if is_model else "data",
        )


def _attributes(piece: Piece) -> dict[str, str]:
    """What there is to know of a piece; without drums there is no kit."""
    has_drums = piece.drums != "no drums"
    return {
        "genre": piece.genre,
        "instrument": piece.instrument,
        "drums": piece.drums.removesuffix(" drums") if has_drums else "none",
        "kit": piece.kit if has_drums else "none",
        "key": f"{_ROOT_NAMES[piece.root]} {piece.mode}",
        "tempo": f"{piece.tempo_bpm:.0f} bpm, {BAR_BEATS[piece.beats]}/4",
        "tone": piece.tone,
        "space": piece.space,
    }
