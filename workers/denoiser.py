"""The denoiser: one guided call of the UNet, as fast as the device allows.

Owns how the UNet is called: precision, how its weights lie, guidance, time as a circle. Leaves out samplers, noise,
prompts and which steps see a circle (`workers.diffusion`), and how layers compute on a CPU (`workers.cpu_layers`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from workers.cpu_layers import quicken
from workers.seamless import TimeCircle


class Denoiser:
    """Calls a `UNet2DConditionModel`. One thread at a time.

    On a CPU in float32 its layers are `workers.cpu_layers`'; anywhere weights lie with their channels last, as
    convolutions on CUDA's tensor cores take them, and attention is torch's own.
    """

    def __init__(self, unet: Any, device: torch.device, dtype: torch.dtype) -> None:
        """The UNet is moved to the device and the dtype, for inference alone."""
        self._unet = unet.to(device, dtype, memory_format=torch.channels_last)
        self._dtype = dtype
        if device.type == "cpu":
            quicken(unet)
        self._time = TimeCircle(unet)

    @torch.inference_mode()
    def __call__(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        embeddings: torch.Tensor,
        guidance: torch.Tensor,
        *,
        is_closed: bool,
    ) -> torch.Tensor:
        """The prediction, led away from the negative prompts and towards the prompts.

        latents: (frame, 4, row, column), float32, as the scheduler scales them for the model.
        timestep: one for all frames.
        embeddings: (2 * frame, token, width), those of negative prompts first; not to be written to afterwards.
        guidance: (frame, 1, 1, 1); 1 is the prompts' own prediction.
        is_closed: whether time is a circle (`workers.seamless`).
        Returns float32, shaped as the latents.
        """
        pair = torch.cat([latents, latents]).to(self._dtype, memory_format=torch.channels_last)
        with self._time.closed() if is_closed else nullcontext():
            predicted: torch.Tensor = self._unet(
                pair, timestep, encoder_hidden_states=embeddings.to(self._dtype), return_dict=False
            )[0]
        away, towards = predicted.float().chunk(2)
        return away + guidance * (towards - away)
