"""What a fine-tune learns from: the latents of all slices, and the caption of each.

Owns encoding by the checkpoint's own autoencoder, and keeping latents so that each recording is encoded once. Leaves
out the folder of recordings (`workers.training.own_audio`) and the training (`workers.training.finetune`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from shared.plan import LATENT_COLUMNS
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.training.own_audio import OwnAudioError, Recording, pictures_from_recording


@dataclass(frozen=True, slots=True)
class Material:
    """All slices that are not silent.

    latents: (slice, channel, latent row, latent column), float32, on the CPU, scaled as the denoiser takes them.
    captions: one for each slice.
    silent: slices that were left out.
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    silent: int

    @property
    def sha256(self) -> str:
        """Of the latents and captions."""
        digest = hashlib.sha256(self.latents.numpy().tobytes())
        digest.update("\n".join(self.captions).encode())
        return digest.hexdigest()


def material_from_recordings(
    recordings: Sequence[Recording],
    parts: Any,
    params: SpectrogramParams,
    folder: Path,
    on_recording: Callable[[int, int], None],
) -> Material:
    """The material of all recordings; latents are kept in `folder` and read from there the next time.

    `parts` is a `diffusers.StableDiffusionPipeline` in float32, its autoencoder on the device to work on.
    `on_recording` is told how many of how many are done. Raises OwnAudioError as
    `workers.training.own_audio.pictures_from_recording`, and when all is silence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = weights_sha256(parts.vae)
    size = (FRAME_COLUMNS, int(parts.unet.config.sample_size * LATENT_COLUMNS))
    latents: list[torch.Tensor] = []
    captions: list[str] = []
    silent = 0
    for number, recording in enumerate(recordings):
        made_from = f"{recording.sha256} {recording.tempo_bpm} {params} {size} {autoencoder}"
        path = folder / f"{hashlib.sha256(made_from.encode()).hexdigest()[:24]}.safetensors"
        if not path.exists():
            _keep(path, [*pictures_from_recording(recording, params)], parts, size)
        found, skipped = _kept(path)
        latents.append(found)
        captions += [recording.caption] * len(found)
        silent += skipped
        on_recording(number + 1, len(recordings))
    if not captions:
        raise OwnAudioError("all of the audio is silent; it must be louder than -60 dBFS")
    return Material(torch.cat(latents), tuple(captions), silent)


def weights_sha256(model: torch.nn.Module) -> str:
    """The hash of a model's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _keep(path: Path, pictures: list[Image.Image | None], parts: Any, size: tuple[int, int]) -> None:
    """Write the latents of pictures; the file appears whole or not at all."""
    vae = parts.vae
    shape = (0, vae.config.latent_channels, size[1] // LATENT_COLUMNS, size[0] // LATENT_COLUMNS)
    latents = [torch.empty(shape)]
    for picture in pictures:
        if picture is not None:
            tensor = parts.image_processor.preprocess(picture.resize(size, Image.Resampling.LANCZOS))
            # The mean, not a draw, as for seed images.
            mean = vae.encode(tensor.to(vae.device, vae.dtype)).latent_dist.mode()
            latents.append(mean.float().cpu() * vae.config.scaling_factor)
    partial = path.with_suffix(".partial")
    save_file({"latents": torch.cat(latents)}, partial, {"silent": str(pictures.count(None))})
    partial.replace(path)


def _kept(path: Path) -> tuple[torch.Tensor, int]:
    """Latents and how many slices were silent."""
    with safe_open(path, "pt") as file:
        latents: torch.Tensor = file.get_tensor("latents")
        return latents, int(file.metadata()["silent"])
