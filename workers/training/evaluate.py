"""The proof that the built-in model makes music and follows its prompt: six points, and the demo's track.

Owns what is generated, redrawn and heard for the proof, and whether each point holds. Leaves out the prompts
(`workers.training.crossing`), points 2 to 4 for one set of pictures (`workers.training.points`), those on honesty
(`workers.training.honesty`) and the report's form (`workers.training.report`). The same weights give the same figures,
but for seconds: full precision, one thread a process, one picture at a time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from workers.training import demo_track, honesty
from workers.training.asked_pictures import FLOOR_PROMPTS, AskedPictures, Setting, other_seeds
from workers.training.crew import Crew, one_thread
from workers.training.crossing import FIRST_SEED, MAX_PROMPTS, Sweep, crossed_pieces, prompt_from_piece, sweeps
from workers.training.dataset import Pixels
from workers.training.lessons import (
    DATA_VERSION,
    LESSONS,
    REDRAWN_LESSONS,
    autoencoder_sha256,
    picture_of_piece,
    small_of_piece,
    taught_listeners,
)
from workers.training.listeners import ATTRIBUTES, Listeners
from workers.training.loop import Tell, read_log
from workers.training.make import weights_sha256
from workers.training.musicality import onset_periodicity
from workers.training.points import LEAST_PERIODICITY, Figures, Shown, music_points, plain_figures, share
from workers.training.recipe import read_recipe
from workers.training.renders import (
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    SAMPLER,
    Order,
    clip_seconds,
    redrawn,
    sounded,
)
from workers.training.statistics import bootstrap_interval

LEAST_PSNR_DB: Final = 30.0
LEAST_ROUND_TRIP: Final = 0.95
MOST_CLIP_S: Final = 20.0
MOST_DEMO_S: Final = 60.0
TIMED_STEPS: Final = 20
REAL_CLIPS: Final = MAX_PROMPTS
"""Held-out clips: one for each of the prompts' pieces, however many are asked."""
TRAINING_CLIPS: Final = 1_200
"""How many of the training's clips pictures are compared with."""
_DEMO_TWINS: Final = 12


@dataclass(frozen=True)
class Evaluation:
    """Figures for report.json, and the pictures the report shows."""

    figures: Figures
    crossed: Shown
    swept: list[tuple[Sweep, Shown]]
    real: Shown
    trips: Pixels
    heard: dict[str, np.ndarray[Any, Any]]


class EvaluationError(ValueError):
    """A model folder or a setting that cannot be evaluated; one line that says what would be right."""


def evaluate(
    model: Path, folder: Path, log: Path, tell: Tell, prompts: int = MAX_PROMPTS, steps: int = NUM_INFERENCE_STEPS
) -> Evaluation:
    """All figures of the model in `model`, whose training log is `log`; what was made is kept in `folder`.

    A second call with the same weights and settings makes nothing anew but what is timed. Raises EvaluationError when
    there is no whole model in `model` or a number is out of range.
    """
    _check(model, prompts, steps)
    one_thread()
    kept = folder / "evaluation"
    (kept / "pictures").mkdir(parents=True, exist_ok=True)
    with Crew(tell) as crew:
        return _evaluated(Setting(model, _revision(model), kept, prompts, steps, crew), log)


def _check(model: Path, prompts: int, steps: int) -> None:
    if not (model / "model_index.json").is_file():
        raise EvaluationError(f"{model}: there is no model_index.json; give the folder of a whole model")
    for part in ("unet", "vae"):
        if not (model / part / "diffusion_pytorch_model.safetensors").is_file():
            raise EvaluationError(f"{model}: there is no {part}/diffusion_pytorch_model.safetensors")
    if not 2 <= prompts <= MAX_PROMPTS:
        raise EvaluationError(f"prompts = {prompts}: must be 2 to {MAX_PROMPTS}")
    if not 1 <= steps <= 100:
        raise EvaluationError(f"steps = {steps}: must be 1 to 100")


def _revision(model: Path) -> str:
    """One hash over all files of a model folder: other settings of the same weights give other pictures."""
    digest = hashlib.sha256()
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        digest.update(path.relative_to(model).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _evaluated(setting: Setting, log: Path) -> Evaluation:
    crew, folder = setting.crew, setting.folder
    listeners = taught_listeners(setting.model, folder, crew)
    every = crossed_pieces(max(REAL_CLIPS, setting.prompts))
    pixels = crew.kept(folder / f"real-{DATA_VERSION}.npy", "real clips", picture_of_piece, every)
    real = Shown.of(every, pixels)
    blur = autoencoder_sha256(setting.model)[:12]
    again = [(setting.model, picture) for picture in pixels]
    trips = Shown.of(every, crew.kept(folder / f"trips-{DATA_VERSION}-{blur}.npy", "round trips", redrawn, again))
    resounded = Shown.of(every, crew.kept(folder / f"sounded-{DATA_VERSION}.npy", "real sound", sounded, list(pixels)))
    pictures = AskedPictures(setting)
    twins = real.part(0, setting.prompts)
    drawn = music_points(listeners, pictures.crossed, pictures.swept, twins)
    sound = music_points(listeners, pictures.crossed_sound, pictures.swept_sound, twins)
    demo = _demo(setting, listeners)
    points = {
        "autoencoder": _autoencoder(listeners, real, trips),
        **drawn,
        "honesty": _honesty(setting, log, listeners, pictures, real),
        "sound": _sound_point(setting, sound, demo["seconds_on_two_cores"]),
    }
    figures = {
        "passed": all(point["ok"] for point in (*points.values(), demo)),
        "model": {"sha256": weights_sha256(setting.model)},
        "settings": _settings(setting),
        "points": points,
        "demo": demo,
        "bounds": {
            "empty_prompt": plain_figures(listeners, pictures.wordless, real.part(0, len(pictures.wordless.pieces))),
            "shuffled_weights": plain_figures(
                listeners, pictures.shuffled, real.part(0, len(pictures.shuffled.pieces))
            ),
            "real": plain_figures(listeners, real, real),
            "round_trips": plain_figures(listeners, trips, real),
            "real_sound": plain_figures(listeners, resounded, real),
        },
    }
    heard = {name: listeners.heard(name, pictures.crossed.features) for name in ATTRIBUTES}
    return Evaluation(rounded(figures), pictures.crossed, pictures.swept, real, trips.pixels, heard)


def _settings(setting: Setting) -> Figures:
    return {
        "prompts": setting.prompts,
        "prompts_with_others_fixed": sum(len(sweep.pieces) for sweep in sweeps()),
        "sampler": SAMPLER,
        "num_inference_steps": setting.steps,
        "guidance_scale": GUIDANCE_SCALE,
        "first_seed": FIRST_SEED,
        "example_prompt": prompt_from_piece(crossed_pieces()[0]),
        "floor_prompts": min(FLOOR_PROMPTS, setting.prompts),
        "lessons": LESSONS,
        "lessons_redrawn": REDRAWN_LESSONS,
        "training_clips_compared": TRAINING_CLIPS,
    }


def _autoencoder(listeners: Listeners, real: Shown, trips: Shown) -> Figures:
    """Point 1: how well clips it never met are redrawn, to the eye and to the listeners."""
    errors = np.array(
        [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(real.pixels, trips.pixels, strict=True)]
    )
    low, high = bootstrap_interval(errors, psnr_db)
    heard = {
        name: share(listeners.heard(name, trips.features) == [label(piece) for piece in trips.pieces])
        for name, label in ATTRIBUTES.items()
    }
    figure = psnr_db(errors)
    return {
        "ok": figure >= LEAST_PSNR_DB and all(row["accuracy"] >= LEAST_ROUND_TRIP for row in heard.values()),
        "clips": len(errors),
        "psnr_db": {"value": figure, "low": low, "high": high},
        **heard,
    }


def psnr_db(errors: np.ndarray[Any, Any]) -> float:
    """The fidelity over all pictures in dB, from the mean squared error of each."""
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))


def _honesty(setting: Setting, log: Path, listeners: Listeners, pictures: AskedPictures, real: Shown) -> Figures:
    """Point 5: nothing is copied, chosen or heard where there is nothing."""
    crew, kept = setting.crew, setting.folder
    count = len(pictures.reseeded)
    twins = crew.done("real seeds", picture_of_piece, other_seeds(pictures.crossed.pieces))
    data = read_recipe().data
    training = crew.kept(
        kept / f"training-{DATA_VERSION}-{data.train_seed}-{TRAINING_CLIPS}.npy",
        "training clips",
        small_of_piece,
        honesty.training_pieces(data.train_seed, TRAINING_CLIPS),
    )
    drawn = (pictures.crossed.pixels[:count], pictures.reseeded)
    parts = {
        "other_seeds": honesty.other_seeds(drawn, (real.pixels[:count], np.stack(twins))),
        "nearest_training_clip": honesty.nearest(pictures.crossed.pixels, real.pixels, training),
        "empty_prompt": honesty.wordless(listeners, pictures.wordless),
        "shuffled_weights": honesty.shuffled(listeners, pictures.shuffled, real.part(0, len(pictures.shuffled.pieces))),
        "training_log": honesty.logged(read_log(log), weights_sha256(setting.model)),
    }
    return {"ok": all(part["ok"] for part in parts.values()), **parts}


def _sound_point(setting: Setting, sound: dict[str, Figures], demo_s: float) -> Figures:
    """Point 6: points 2 to 4 once more on pictures of the finished sound, and the time it takes."""
    order = Order(setting.model, setting.revision, prompt_from_piece(crossed_pieces()[0]), FIRST_SEED, TIMED_STEPS)
    # The first one compiles and loads.
    clip_s = min(setting.crew.done("timed clips", clip_seconds, [order] * 3))
    is_quick = clip_s < MOST_CLIP_S and demo_s < MOST_DEMO_S
    return {
        "ok": is_quick and all(point["ok"] for point in sound.values()),
        "clip_seconds_on_one_core": clip_s,
        "demo_seconds_on_two_cores": demo_s,
        **sound,
    }


def _demo(setting: Setting, listeners: Listeners) -> Figures:
    """The demo's track: as regular as its own words' clips, and its two ends told apart."""
    made = demo_track.demo_track(setting.model, setting.revision, setting.crew)
    ends = (demo_track.FIRST, demo_track.LAST)
    clips = [replace(end, seed=FIRST_SEED + place) for end in ends for place in range(_DEMO_TWINS)]
    real = np.mean(
        [onset_periodicity(picture) for picture in setting.crew.done("demo's clips", picture_of_piece, clips)]
    )
    ours = np.mean([onset_periodicity(picture) for picture in made.pixels])
    shown = Shown.of(list(ends), made.pixels[[0, -1]])
    heard = {name: [str(word) for word in listeners.heard(name, shown.features)] for name in ("genre", "drums")}
    asked = {name: [ATTRIBUTES[name](end) for end in ends] for name in heard}
    return {
        "ok": bool(ours >= LEAST_PERIODICITY * real and heard == asked),
        "prompts": list(demo_track.PROMPTS),
        "periodicity": float(ours),
        "periodicity_real": float(real),
        "periodicity_ratio": float(ours / real),
        "heard": heard,
        "asked": asked,
        "seconds_on_two_cores": made.seconds,
    }


def rounded(figures: Any) -> Any:
    """Figures to five digits, all through."""
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return round(figures, 5) if isinstance(figures, float) else figures
