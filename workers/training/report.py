"""The evaluation as files: report.json and report.md, beside their pictures.

Owns their words and tables. Leaves out every figure in them (`workers.training.evaluate`) and the pictures
(`workers.training.report_pictures`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from workers.training.demo_track import DURATION_S
from workers.training.evaluate import (
    LEAST_PSNR_DB,
    LEAST_ROUND_TRIP,
    MOST_CLIP_S,
    MOST_DEMO_S,
    TIMED_STEPS,
    Evaluation,
)
from workers.training.honesty import LEAST_SEED_DIFFERENCE
from workers.training.listeners import ATTRIBUTES
from workers.training.points import (
    LEAST_KEY_MARGIN,
    LEAST_PERIODICITY,
    LEAST_SPREAD,
    MOST_TEMPO_ERROR_BPM,
    STEERING_TARGETS,
)
from workers.training.report_pictures import draw_pictures

Figures = dict[str, Any]

TITLES: Final = {
    "autoencoder": "1. The autoencoder keeps what is heard",
    "steering": "2. It follows the prompt",
    "tempo_and_key": "3. It keeps time and key",
    "rhythm_and_spread": "4. Its rhythm is regular and it does not repeat itself",
    "honesty": "5. Nothing is copied, chosen or heard where there is nothing",
    "sound": "6. The same holds for the finished sound, and it comes quickly",
}
_BOUNDS: Final = {
    "empty_prompt": "empty prompt",
    "shuffled_weights": "shuffled weights",
    "real": "real clips",
    "round_trips": "redrawn",
    "real_sound": "their sound",
}
"""Floors and ceilings, as columns."""


def write_report(evaluation: Evaluation, folder: Path, log: Path) -> None:
    """Write the report into `folder`; the training's curves are drawn from `log` if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(evaluation.figures, indent=2) + "\n", encoding="utf-8")
    pictures = draw_pictures(evaluation, folder, log)
    (folder / "report.md").write_text(markdown(evaluation.figures, pictures), encoding="utf-8")


def markdown(figures: Figures, pictures: dict[str, str]) -> str:
    """The whole report; `pictures` gives file names and what they show."""
    points, bounds = figures["points"], figures["bounds"]
    sections = [
        _head(figures),
        _autoencoder(points["autoencoder"]),
        _section("steering", points["steering"], _steering(points["steering"], bounds)),
        _section("tempo_and_key", points["tempo_and_key"], _tempo_and_key(points["tempo_and_key"], bounds)),
        _section("rhythm_and_spread", points["rhythm_and_spread"], _rhythm(points["rhythm_and_spread"], bounds)),
        _honesty(points["honesty"], figures["settings"]),
        _sound(points["sound"], bounds),
        _demo(figures["demo"]),
        ["## Pictures", "", *(f"![{shows}]({name})" for name, shows in pictures.items()), ""],
    ]
    return "\n".join(line for section in sections for line in section)


def summary(figures: Figures) -> str:
    """The verdicts, a line each, and how the attributes fared."""
    steering = figures["points"]["steering"]
    lines = [f"{verdict(figures['points'][name]['ok'])}  {title}" for name, title in TITLES.items()]
    lines.append(f"{verdict(figures['demo']['ok'])}  The demo's track")
    heard = (f"{name} {_interval(steering[name], 'accuracy', '.3f')}" for name in ATTRIBUTES)
    return "\n".join([*lines, f"Heard as asked: {', '.join(heard)}"])


def verdict(is_ok: bool) -> str:
    """PASS or FAIL."""
    return "PASS" if is_ok else "FAIL"


def _head(figures: Figures) -> list[str]:
    settings = figures["settings"]
    points = {name: figures["points"][name]["ok"] for name in TITLES}
    return [
        "# The built-in model's report",
        "",
        f"Weights `{figures['model']['sha256']}`. Written by `riffarm evaluate`, which gives these figures again, but "
        "for seconds.",
        "",
        f"{settings['prompts']} prompts cross genre, instrument, drums, tempo and key, such as "
        f"“{settings['example_prompt']}”; {settings['prompts_with_others_fixed']} more change one word alone. Prompts, "
        f"seeds and guidance were fixed beforehand and chose nothing. Sampler {settings['sampler']}, "
        f"{settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}.",
        "",
        f"Listeners, networks of two layers, learnt from {settings['lessons']:,} real clips of seeds of their own and "
        f"from the autoencoder's redrawing of {settings['lessons_redrawn']}. Intervals are of 95 %: Wilson's for "
        "shares, drawn again for the rest.",
        "",
        "| point | |",
        "|---|---|",
        *(f"| {TITLES[name]} | **{verdict(is_ok)}** |" for name, is_ok in points.items()),
        f"| The demo's track | **{verdict(figures['demo']['ok'])}** |",
        f"| All of it | **{verdict(figures['passed'])}** |",
        "",
    ]


def _section(name: str, point: Figures, lines: list[str]) -> list[str]:
    return [f"## {TITLES[name]}: {verdict(point['ok'])}", "", *lines, ""]


def _interval(figures: Figures, key: str, form: str = ".2f") -> str:
    """A figure and its interval in words."""
    return f"{figures[key]:{form}} ({figures['low']:{form}} to {figures['high']:{form}})"


def _autoencoder(point: Figures) -> list[str]:
    rows = [
        f"| {name} heard rightly | {_interval(point[name], 'accuracy', '.3f')} | ≥ {LEAST_ROUND_TRIP} |"
        for name in ATTRIBUTES
    ]
    return _section(
        "autoencoder",
        point,
        [
            f"Over {point['clips']} clips that no training saw, drawn again by the autoencoder.",
            "",
            "| figure | reached | target |",
            "|---|---|---|",
            f"| fidelity in dB | {_interval(point['psnr_db'], 'value', '.1f')} | ≥ {LEAST_PSNR_DB:g} |",
            *rows,
        ],
    )


def _steering(point: Figures, bounds: Figures) -> list[str]:
    """The tables of point 2: crossed prompts, and prompts that change one word alone."""
    rows = [(name, _interval(point[name], "accuracy", ".3f"), _target(name), name) for name in ATTRIBUTES]
    chances = [
        f"| {name} | {row['chance']:.3f} | {row['shuffled_prompts']:.3f} ({row['shuffled_low']:.3f} to "
        f"{row['shuffled_high']:.3f}) | {row['p_value']:.5f} |"
        for name, row in ((name, point[name]) for name in ATTRIBUTES)
    ]
    fixed = [
        f"| {name} | {row['fixed_prompts']} | {row['fixed_accuracy']:.3f} ({row['fixed_low']:.3f} to "
        f"{row['fixed_high']:.3f}) | {_target(name)} | {row['fixed_p_value']:.5f} |"
        for name, row in ((name, point[name]) for name in STEERING_TARGETS)
    ]
    return [
        "Share heard as asked:",
        "",
        *_bounded("attribute", rows, bounds),
        "",
        "By chance, and after shuffling what was asked:",
        "",
        "| attribute | chance | shuffled prompts | p |",
        "|---|---|---|---|",
        *chances,
        "",
        "With all other words and the seed held fixed:",
        "",
        "| attribute | prompts | heard as asked | target | p |",
        "|---|---|---|---|---|",
        *fixed,
    ]


def _target(name: str) -> str:
    return f"≥ {STEERING_TARGETS[name]:.2f}" if name in STEERING_TARGETS else "point 3"


def _bounded(head: str, rows: list[tuple[str, str, str, str]], bounds: Figures) -> list[str]:
    """A table of names, figures, targets and the keys under which floors and ceilings hold the same figure."""
    lines = [
        f"| {head} | reached | target | {' | '.join(_BOUNDS.values())} |",
        f"|---|---|---|{'---|' * len(_BOUNDS)}",
    ]
    for name, reached, target, key in rows:
        limits = " | ".join(f"{bounds[bound][key]:.3f}" for bound in _BOUNDS)
        lines.append(f"| {name} | {reached} | {target} | {limits} |")
    return lines


def _tempo_and_key(point: Figures, bounds: Figures) -> list[str]:
    heard, measured = point["heard_error_bpm"], point["measured_error_bpm"]
    most = f"≤ {MOST_TEMPO_ERROR_BPM:g}"
    rows = [
        ("error of tempo as listeners hear it, mean, bpm", _interval(heard, "mean"), most, "heard_error_bpm"),
        ("error of the pulse as onsets repeat, median, bpm", _interval(measured, "median"), most, "measured_error_bpm"),
        (
            "share of the sound in the asked key's scale, over the mean of 12 keys",
            _interval(point["key_margin"], "mean", ".3f"),
            f"≥ {LEAST_KEY_MARGIN}",
            "key_margin",
        ),
    ]
    return [
        *_bounded("figure", rows, bounds),
        "",
        f"The pulse is measured where there are drums ({measured['pictures']} pictures), without a listener, between "
        "60 and 160 bpm; half and double of a tempo count as the same pulse.",
    ]


def _rhythm(point: Figures, bounds: Figures) -> list[str]:
    regular, spread = (_interval(point[name], "ratio") for name in ("periodicity_ratio", "spread_ratio"))
    rows = [
        ("regularity of onsets over that of real clips", regular, f"≥ {LEAST_PERIODICITY:.2f}", "periodicity_ratio"),
        ("spread of features over that of real clips", spread, f"≥ {LEAST_SPREAD:.2f}", "spread_ratio"),
    ]
    return [
        *_bounded("figure", rows, bounds),
        "",
        f"Regularity is {_interval(point['periodicity'], 'mean')}; of real clips of the same words "
        f"{_interval(point['periodicity_real'], 'mean')}.",
    ]


def _honesty(point: Figures, settings: Figures) -> list[str]:
    seeds, near, log = point["other_seeds"], point["nearest_training_clip"], point["training_log"]
    empty = ", ".join(
        f"{name} {point['empty_prompt'][name]['accuracy']:.2f} (chance {point['empty_prompt'][name]['chance']:.2f})"
        for name in STEERING_TARGETS
    )
    broken = point["shuffled_weights"]
    failed = ", ".join(
        f"{TITLES[name][:1]} {verdict(broken[name]['ok'])}"
        for name in ("steering", "tempo_and_key", "rhythm_and_spread")
    )
    lines = [
        "| check | found | |",
        "|---|---|---|",
        f"| other seeds give other pictures | they differ {seeds['ratio']:.2f} times as much as real clips do, "
        f"≥ {LEAST_SEED_DIFFERENCE} asked | {verdict(seeds['ok'])} |",
        f"| nothing is copied | the nearest of {settings['training_clips_compared']:,} training clips is at "
        f"{near['nearness']:.3f} of the usual distance, for held-out real clips at {near['nearness_real']:.3f}; the "
        f"nearest of all at {near['nearest']:.3f}, real {near['nearest_real']:.3f} | {verdict(near['ok'])} |",
        f"| no words, nothing heard | {settings['floor_prompts']} pictures: {empty} | "
        f"{verdict(point['empty_prompt']['ok'])} |",
        f"| shuffled weights fail points 2 to 4 | {failed} | {verdict(broken['ok'])} |",
        f"| the training's log ends with these weights | `{str(log['sha256'])[:16]}…` | {verdict(log['ok'])} |",
    ]
    return _section("honesty", point, lines)


def _sound(point: Figures, bounds: Figures) -> list[str]:
    lines = [
        "Every picture was turned into sound as a job's is, and the sound drawn again.",
        "",
        f"- One clip of {TIMED_STEPS} steps from prompt to sound: {point['clip_seconds_on_one_core']:.1f} s of one "
        f"core; < {MOST_CLIP_S:g} asked.",
        f"- The demo's {DURATION_S:g} s: {point['demo_seconds_on_two_cores']:.1f} s on two cores; "
        f"< {MOST_DEMO_S:g} asked.",
        "",
        f"### Point 2 for the sound: {verdict(point['steering']['ok'])}",
        "",
        *_steering(point["steering"], bounds),
        "",
        f"### Point 3 for the sound: {verdict(point['tempo_and_key']['ok'])}",
        "",
        *_tempo_and_key(point["tempo_and_key"], bounds),
        "",
        f"### Point 4 for the sound: {verdict(point['rhythm_and_spread']['ok'])}",
        "",
        *_rhythm(point["rhythm_and_spread"], bounds),
    ]
    return _section("sound", point, lines)


def _demo(demo: Figures) -> list[str]:
    heard = [" and ".join(words) for words in zip(*demo["heard"].values(), strict=True)]
    return [
        f"## The demo's track: {verdict(demo['ok'])}",
        "",
        f"“{demo['prompts'][0]}” into “{demo['prompts'][1]}”, measured in its finished sound.",
        "",
        f"- Regularity of onsets: {demo['periodicity']:.2f}, {demo['periodicity_ratio']:.2f} of real clips of its own "
        f"words ({demo['periodicity_real']:.2f}); ≥ {LEAST_PERIODICITY:.2f} asked.",
        f"- Its beginning is heard as {heard[0]}, its end as {heard[1]}.",
        "",
    ]
