"""A model's layers as a CPU computes them quickest in single precision.

Owns which layers of diffusers' models compute by another way, to a rounding the same: all products by oneDNN, channels
last; attention over narrow heads, normalisation and its activation by compiled loops (`workers.kernels`); enlarging
and the convolution after it as one. Leaves out when time is a circle (`workers.seamless`), which it respects.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional

from workers.kernels import DIMS_TOGETHER, attend, normalise
from workers.lanes import LANES

_HAS_ONEDNN: Final = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Builds of torch for other processors come without it."""
_kept: Final = threading.local()
_MOST_THREADS: Final = 2
"""Compiled attention takes one thread; with more than these, torch's own is quicker, which shares them."""
_WIDEST_HEAD: Final = 40
"""Wider ones are products of matrices, which libraries do as well."""
_NEAREST: Final = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
"""How taps of a convolution fall together on a picture whose pixels are there twice."""


def quicken(model: Any) -> None:
    """Let the layers of a UNet or an autoencoder on a CPU compute as above; in other precisions they stay as they are.

    Weights, their names and the model's results but for a rounding are the same; only inference is possible.
    """
    if next(model.parameters()).dtype != torch.float32 or not _HAS_ONEDNN:
        return
    model.to(memory_format=torch.channels_last)
    layer: Any
    for layer in model.modules():
        forward = _quick_forward(layer)
        if forward is not None:
            layer.forward = forward


def _quick_forward(layer: torch.nn.Module) -> Callable[..., torch.Tensor] | None:
    """Another way to compute a layer, where there is one."""
    if isinstance(layer, torch.nn.Linear):
        return MethodType(_linear, layer)
    if isinstance(layer, torch.nn.Conv2d) and layer.padding_mode == "zeros":
        return MethodType(_convolution, layer)
    if isinstance(layer, ResnetBlock2D) and _is_plain_block(layer):
        return MethodType(_block, layer)
    if isinstance(layer, Attention) and _is_plain_attention(layer):
        return _NarrowAttention(layer)
    return _Enlargement(layer) if isinstance(layer, Upsample2D) and _is_plain_enlargement(layer) else None


def _linear(layer: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
    # Elsewhere torch takes another library for these, at half the speed on processors that are not that library's own.
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, layer.weight, layer.bias, "none", [], "")
    return product


def _convolution(layer: torch.nn.Conv2d, picture: torch.Tensor) -> torch.Tensor:
    picture = picture.contiguous(memory_format=torch.channels_last)
    made: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
        picture, layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups, "none", [], ""
    )
    return made


def _is_plain_block(block: Any) -> bool:
    """Whether a residual block is of the kind that Stable Diffusion is made of."""
    return (
        block.upsample is None
        and block.downsample is None
        and (block.time_emb_proj is None or (block.time_embedding_norm == "default" and not block.skip_time_act))
        and isinstance(block.nonlinearity, torch.nn.SiLU)
        and all(norm.num_channels % LANES == 0 and norm.affine for norm in (block.norm1, block.norm2))
    )


def _block(block: Any, picture: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
    """`temb` is what diffusers calls the embedding of the point in time; (picture, width)."""
    inner = _convolution(block.conv1, _activated(block.norm1, picture, None, _missing_columns(block.conv1)))
    bias = None if temb is None else block.time_emb_proj(functional.silu(temb))
    inner = _convolution(block.conv2, _activated(block.norm2, inner, bias, _missing_columns(block.conv2)))
    if block.conv_shortcut is not None:
        picture = block.conv_shortcut(picture)
    inner += picture
    return inner / block.output_scale_factor if block.output_scale_factor != 1 else inner


def _missing_columns(convolution: torch.nn.Conv2d) -> int:
    """Columns on each side that a convolution does not fill up itself: those that a circle of time goes on with."""
    return convolution.kernel_size[1] // 2 - int(convolution.padding[1])


def _activated(
    norm: torch.nn.GroupNorm, picture: torch.Tensor, bias: torch.Tensor | None, wrapped: int
) -> torch.Tensor:
    """silu(norm(picture + bias)), with so many columns of each end at the other; good until the next call."""
    count, channels, rows, columns = picture.shape
    picture = picture.contiguous(memory_format=torch.channels_last)
    out = _workspace(count * rows * (columns + 2 * wrapped) * channels)
    out = out.view(count, rows, columns + 2 * wrapped, channels).permute(0, 3, 1, 2)
    bias = torch.zeros(count, channels) if bias is None else bias
    size = (count, rows, columns, channels)
    flat = [_flat(one) for one in (picture.permute(0, 2, 3, 1), bias, norm.weight, norm.bias, out.permute(0, 2, 3, 1))]
    normalise(*flat, size, norm.num_groups, norm.eps, wrapped, True)
    return out


def _workspace(size: int) -> torch.Tensor:
    """This thread's own: fresh memory for every large picture would cost as much as what is done with it."""
    if len(getattr(_kept, "values", ())) < size:
        _kept.values = torch.empty(size)
    values: torch.Tensor = _kept.values[:size]
    return values


def _flat(tensor: torch.Tensor) -> Any:
    return tensor.detach().view(-1).numpy()


def _is_plain_enlargement(layer: Any) -> bool:
    return (
        layer.use_conv
        and not layer.use_conv_transpose
        and layer.interpolate
        and layer.norm is None
        and layer.conv.kernel_size == (3, 3)
    )


class _Enlargement:
    """Each pixel four times, and a convolution over them: as one transposed convolution, which is a third the work."""

    def __init__(self, layer: Any) -> None:
        self._as_it_was = layer.forward
        self._convolution = layer.conv
        taps = layer.conv.weight.detach().flip(2, 3)
        self._weight = torch.einsum("ak,bl,oikl->ioab", _NEAREST, _NEAREST, taps).contiguous(
            memory_format=torch.channels_last
        )

    def __call__(
        self, picture: torch.Tensor, output_size: int | None = None, *others: Any, **options: Any
    ) -> torch.Tensor:
        if output_size is not None:
            enlarged: torch.Tensor = self._as_it_was(picture, output_size, *others, **options)
            return enlarged
        wrapped = _missing_columns(self._convolution)
        if wrapped:
            picture = torch.cat([picture[..., -1:], picture, picture[..., :1]], dim=-1)
        picture = picture.contiguous(memory_format=torch.channels_last)
        return functional.conv_transpose2d(
            picture, self._weight, self._convolution.bias, stride=2, padding=(1, 1 + 2 * wrapped)
        )


def _is_plain_attention(layer: Any) -> bool:
    return (
        isinstance(layer.processor, AttnProcessor2_0)
        and layer.inner_dim // layer.heads <= _WIDEST_HEAD
        and all(norm is None for norm in (layer.spatial_norm, layer.group_norm, layer.norm_q, layer.norm_k))
        and not layer.norm_cross
        and not layer.residual_connection
        and layer.rescale_output_factor == 1
    )


class _NarrowAttention:
    """Attention over narrow heads, for one layer of a model, where threads are few.

    Keys and values of prompts are kept for as long as the same tensor of embeddings comes: all steps of a frame.
    """

    def __init__(self, layer: Any) -> None:
        self._as_it_was = layer.forward
        self._layer = layer
        self._embeddings: torch.Tensor | None = None
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """States are (picture, place, width)."""
        if attention_mask is not None or options or torch.get_num_threads() > _MOST_THREADS:
            plain: torch.Tensor = self._as_it_was(hidden_states, encoder_hidden_states, attention_mask, **options)
            return plain
        layer = self._layer
        count, places, _ = hidden_states.shape
        query = layer.to_q(hidden_states) * (math.log2(math.e) * layer.scale)
        dims = query.shape[-1] // layer.heads
        filled = (0, -places % LANES, 0, -dims % DIMS_TOGETHER)
        query = functional.pad(query.view(count, places, layer.heads, dims).permute(0, 2, 3, 1), filled).contiguous()
        key, value = self._keys_and_values(hidden_states, encoder_hidden_states)
        out = torch.zeros_like(query)
        size = (count * layer.heads, query.shape[2], query.shape[3], key.shape[2])
        attend(*map(_flat, (query, key, value, out)), size)
        mixed = out[:, :, :dims, :places].permute(0, 3, 1, 2).reshape(count, places, -1)
        projected: torch.Tensor = layer.to_out[0](mixed)
        return projected

    def _keys_and_values(
        self, states: torch.Tensor, embeddings: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each (picture, head, place, dim)."""
        if embeddings is not None and embeddings is self._embeddings and self._kept:
            return self._kept
        source, layer = states if embeddings is None else embeddings, self._layer
        key, value = (_by_head(projection(source), layer.heads) for projection in (layer.to_k, layer.to_v))
        if embeddings is not None:
            self._embeddings, self._kept = embeddings, (key, value)
        return key, value


def _by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    count, places, width = states.shape
    dims = width // heads
    split = states.view(count, places, heads, dims).transpose(1, 2)
    return functional.pad(split, (0, -dims % DIMS_TOGETHER)).contiguous()
