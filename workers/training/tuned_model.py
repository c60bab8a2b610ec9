"""What a fine-tune leaves: a LoRA file or a whole model, the entry that has a farm serve it, and the loss as a curve.

Owns the folder's form. Leaves out the training (`workers.training.finetune`).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from PIL import Image, ImageDraw

from shared.catalogue import Lora, ModelEntry
from workers.training.finetune import LOG_FILE
from workers.training.material import weights_sha256

LORA_FILE: Final = "pytorch_lora_weights.safetensors"
ENTRY_FILE: Final = "models.toml"
CURVE_FILE: Final = "training.png"
_CURVE_SIZE: Final = (800, 400)
_MARGIN: Final = 48
_SMOOTHED_STEPS: Final = 25


def write_lora(unet: Any, folder: Path, entry: ModelEntry) -> str:
    """Write the low-rank layers as diffusers does; the lines that have a farm add them to the model of `entry`."""
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    # Written for its owner alone; a farm may run as another.
    (folder / LORA_FILE).chmod(0o644)
    own = f'[[{_name(folder)}.loras]]\nsource = "{LORA_FILE}"\n'
    is_folder = Path(entry.source).is_dir()
    # A farm asks the hub for the revision; of a folder it is ours to say what else is in the model.
    revision = f"{entry.source_revision}-{_sha256(layers)[:12]}" if is_folder else entry.source_revision
    source = str(Path(entry.source).resolve()) if is_folder else entry.source
    return _written(folder, _entry(_name(folder), source, revision, entry, entry.loras) + "\n" + own)


def write_model(parts: Any, folder: Path, entry: ModelEntry) -> str:
    """Write the whole model in half precision as a Stable Diffusion folder; the lines that have a farm serve it."""
    revision = weights_sha256(parts.unet)[:12]
    parts.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    return _written(folder, _entry(_name(folder), ".", revision, entry, ()))


def _sha256(layers: dict[str, torch.Tensor]) -> str:
    return weights_sha256(torch.nn.ParameterDict({name.replace(".", "/"): layers[name] for name in layers}))


def _name(folder: Path) -> str:
    """A name that a model may have, from the folder's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    return name[:64] or "tuned"


def _entry(name: str, source: str, revision: str, base: ModelEntry, loras: Sequence[Lora]) -> str:
    lines = [f"[{name}]", f"source = {_quoted(source)}", f"revision = {_quoted(revision)}"]
    lines += [f'description = "Fine-tuned from {base.name}"']
    if base.dtype != "auto":
        lines.append(f"dtype = {_quoted(base.dtype)}")
    if base.grid:
        lines += ["", f"[{name}.grid]", *(f"{field} = {json.dumps(value)}" for field, value in base.grid.items())]
    for lora in loras:
        lines += ["", f"[[{name}.loras]]", f"source = {_quoted(lora.source)}", f"weight = {lora.weight}"]
        lines += [f"weight_name = {_quoted(lora.weight_name)}"] if lora.weight_name else []
        lines += [f"revision = {_quoted(lora.revision)}"] if lora.revision else []
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _written(folder: Path, lines: str) -> str:
    (folder / ENTRY_FILE).write_text(lines, encoding="utf-8")
    return lines


def write_log(work: Path, folder: Path) -> None:
    """Copy the log from the work folder, and draw it beside: losses of steps, and the loss on fixed noise."""
    shutil.copyfile(work / LOG_FILE, folder / LOG_FILE)
    lines = [json.loads(line) for line in (work / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    fixed = [(line["step"], line["fixed_loss"]) for line in lines if "fixed_loss" in line]
    draw_curve(steps, fixed, folder / CURVE_FILE)


def draw_curve(steps: Sequence[tuple[int, float]], fixed: Sequence[tuple[int, float]], path: Path) -> None:
    """Draw (step, loss) as points, their running mean as a line, and the loss on fixed noise as a darker one."""
    image = Image.new("RGB", _CURVE_SIZE, "white")
    draw = ImageDraw.Draw(image)
    width, height = (side - 2 * _MARGIN for side in _CURVE_SIZE)
    last = max(step for step, _ in (*steps, *fixed)) or 1
    highest = max(loss for _, loss in (*steps, *fixed)) or 1.0

    def placed(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
        return [(_MARGIN + width * step / last, _MARGIN + height * (1 - loss / highest)) for step, loss in points]

    draw.rectangle((_MARGIN, _MARGIN, _MARGIN + width, _MARGIN + height), outline="black")
    for x, y in placed(steps):
        draw.rectangle((x - 1, y - 1, x + 1, y + 1), "silver")
    draw.line(placed(_smoothed(steps)), "steelblue", 2)
    draw.line(placed(fixed), "black", 2)
    draw.text((4, _MARGIN), f"{highest:.3g}", "black")
    draw.text((4, _MARGIN + height - 10), "0", "black")
    draw.text((_MARGIN + width - 40, _MARGIN + height + 8), f"{last}", "black")
    draw.text((_MARGIN, 16), "loss by step: points, their running mean (blue), on fixed noise (black)", "black")
    image.save(path)


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The mean of the last steps up to each."""
    smoothed = []
    for index, (step, _) in enumerate(points):
        recent = [loss for _, loss in points[max(0, index + 1 - _SMOOTHED_STEPS) : index + 1]]
        smoothed.append((step, sum(recent) / len(recent)))
    return smoothed
