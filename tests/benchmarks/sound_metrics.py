"""How far a sound is from the picture it was made from, and from the sound the picture was drawn from.

Owns the measures: pure functions of arrays, each with its formula. Leaves out what is measured (`sound_set`) and when
(`sound`). Amplitudes are mel amplitudes (channel, frequency, time); waveforms are (channel, sample). `found` is what
was made, `wanted` what it should have been. A picture has no level, so gains are matched first.

The mel measures are what a phase reconstruction works towards: read them together with `mr` and `lsd`, which ask the
true sound and know no mel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from workers.spectrogram import Array, mel_amplitudes_from_waveform

WINDOWS: Final = (512, 1_024, 2_048)
"""Window lengths in samples of the multi-resolution measures."""
EDGE_COLUMNS: Final = 5
"""Half a window: columns nearer to an end look past it, where no two methods agree what there is."""
NEAR_COLUMNS: Final = 5
"""50 ms: what counts as at a joint, on either side."""
_GUARD_COLUMNS: Final = 20
"""Between what is at a joint and what is elsewhere."""
_FLOOR: Final = 1e-4
"""80 dB below the loudest: what is quieter counts as this quiet where logarithms are taken."""
RAIL: Final = 32_767 / 32_768
"""The loudest sample that 16 bits can hold."""


def gain(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The factor that brings `found` nearest to `wanted`: sum(found * wanted) / sum(found ** 2); 1 for silence."""
    power = float(np.vdot(found, found).real)
    return float(np.vdot(found, wanted).real) / power if power else 1.0


def matched(found: Array, wanted: Array) -> Array:
    """`found` brought to the level of `wanted` by `gain`."""
    level: Array = found * np.float32(gain(found, wanted))
    return level


def heard(waveform: Array, params: SpectrogramParams, columns: int) -> Array:
    """The first `columns` mel amplitudes of a waveform, as the picture it was made from would show them."""
    mel = mel_amplitudes_from_waveform(waveform, params)
    return np.pad(mel, ((0, 0), (0, 0), (0, max(0, columns - mel.shape[-1]))))[..., :columns]


def sc_db(found: Array, wanted: Array) -> float:
    """Spectral convergence: 20 log10(|g * found - wanted| / |wanted|), Frobenius norms, in dB; lower is better."""
    return 20 * float(np.log10(np.linalg.norm(matched(found, wanted) - wanted) / np.linalg.norm(wanted)))


def pix(found: Array, wanted: Array, power: float = 0.25) -> float:
    """Mean distance in shades, 0..255: mean(|255 * (g * found / top) ** power - 255 * (wanted / top) ** power|).

    `top` is the loudest wanted amplitude, and what is louder is drawn as loud.
    """
    top = wanted.max()
    shades, right = (255 * np.clip(mel / top, 0, 1) ** power for mel in (matched(found, wanted), wanted))
    return float(np.abs(shades - right).mean())


def mr(found: Array, wanted: Array, params: SpectrogramParams) -> float:
    """Multi-resolution spectral convergence of waveforms: the mean over WINDOWS of |g * F - W| / |W|.

    F and W are the amplitudes of short-time Fourier transforms, Hann windows a quarter apart, below what the grid can
    show; lower is better.
    """
    pairs = [_spectra(found, wanted, length, params) for length in WINDOWS]
    return float(np.mean([np.linalg.norm(f - w) / np.linalg.norm(w) for f, w in pairs]))


def lsd_db(found: Array, wanted: Array, params: SpectrogramParams) -> float:
    """Log-spectral distance of waveforms in dB: mean(|20 log10(g * F / W)|), the mean over WINDOWS; lower is better.

    F and W as in `mr`; both are raised to 80 dB below the loudest of W.
    """
    distances = []
    for pair in (_spectra(found, wanted, length, params) for length in WINDOWS):
        f, w = (np.log10(np.maximum(amplitudes, _FLOOR * pair[1].max())) for amplitudes in pair)
        distances.append(20 * np.abs(f - w).mean())
    return float(np.mean(distances))


def _spectra(found: Array, wanted: Array, length: int, params: SpectrogramParams) -> tuple[Array, Array]:
    """Amplitudes of both waveforms over the samples both have, gains matched, up to 0.95 f_max."""
    # Here alone: what measures memory must not carry a library that sound does without.
    import torch

    samples = min(found.shape[-1], wanted.shape[-1])
    bins = int(0.95 * params.f_max_hz / params.sample_rate_hz * length)
    both = torch.from_numpy(np.stack([found[..., :samples], wanted[..., :samples]]).reshape(-1, samples))
    window = torch.hann_window(length)
    spectra = torch.stft(both, length, length // 4, window=window, return_complex=True)[:, :bins].abs()
    first, second = spectra.reshape(2, -1, *spectra.shape[1:]).numpy()
    return matched(first, second), second


class Quality(NamedTuple):
    """How good a sound is: the four measures, lower is better in each; those of the true sound are NaN without one."""

    sc: float
    pix: float
    mr: float
    lsd: float


def quality(waveform: Array, wanted: Array, true_waveform: Array | None, params: SpectrogramParams) -> Quality:
    """All four measures of a waveform made from the mel amplitudes `wanted`.

    The outermost EDGE_COLUMNS at either end are left out. A waveform short of its picture ends in silence.
    """
    columns = wanted.shape[-1]
    inside = slice(EDGE_COLUMNS, columns - EDGE_COLUMNS)
    found = heard(waveform, params, columns)[..., inside]
    true = (float("nan"), float("nan"))
    if true_waveform is not None:
        whole = slice(inside.start * params.hop_length, inside.stop * params.hop_length)
        pair = waveform[:, whole], true_waveform[:, whole]
        true = mr(*pair, params), lsd_db(*pair, params)
    return Quality(sc_db(found, wanted[..., inside]), pix(found, wanted[..., inside], params.power), *true)


def column_errors(found: Array, wanted: Array) -> Array:
    """Logarithmic error of each column: mean over bins of |ln(g * found + f) - ln(wanted + f)|.

    The floor f lies 80 dB below the loudest wanted amplitude.
    """
    floor = np.float32(_FLOOR * wanted.max())
    errors: Array = np.abs(np.log(matched(found, wanted) + floor) - np.log(wanted + floor)).mean(axis=(0, 1))
    return errors


def joint_ratio(errors: Array, joints: Iterable[int]) -> float:
    """Mean of `errors` (`column_errors`) within 50 ms of the joints over their mean elsewhere; 1 when nobody can tell.

    `joints` are columns: one lies between column j - 1 and column j. Elsewhere is what is 200 ms or more from all
    joints and from both ends. Raises ValueError when there is no joint, or no elsewhere.
    """
    places = list(joints)
    near = _around(places, NEAR_COLUMNS, len(errors))
    far = ~_around([*places, 0, len(errors)], _GUARD_COLUMNS, len(errors))
    if not near.any() or not far.any():
        raise ValueError("a joint ratio needs a joint and columns far from it")
    return float(errors[near].mean() / errors[far].mean())


def seam_ratio(errors: Array, joints: Iterable[int], other_errors: Array, places: Iterable[int]) -> float:
    """Mean of `errors` within 50 ms of the joints over the mean of `other_errors` within 50 ms of `places`.

    The places have what the joints have around them, but no joint. So this is `joint_ratio` without what the content
    has to do with it: an onset is harder than a held tone, and joints lie on the first beat.
    """
    near, other = _around(joints, NEAR_COLUMNS, len(errors)), _around(places, NEAR_COLUMNS, len(other_errors))
    return float(errors[near].mean() / other_errors[other].mean())


def energy_dip_db(found: Array, wanted: Array, joints: Iterable[int]) -> float:
    """How much quieter than wanted the worst joint is, in dB; below 0 it is louder.

    max over joints of 10 log10(sum(wanted ** 2) / sum((g * found) ** 2)) over the columns within 50 ms. `wanted` is the
    target at the joint: the loudness that ought to be there.
    """
    level = matched(found, wanted).astype(np.float64) ** 2
    dips = []
    for joint in joints:
        near = _around([joint], NEAR_COLUMNS, wanted.shape[-1])
        dips.append(10 * np.log10(np.square(wanted[..., near], dtype=np.float64).sum() / level[..., near].sum()))
    return float(max(dips))


def _around(joints: Iterable[int], reach: int, columns: int) -> NDArray[np.bool_]:
    """Which columns lie within `reach` columns of a joint."""
    near = np.zeros(columns, bool)
    for joint in joints:
        near[max(0, joint - reach) : joint + reach] = True
    return near


def clipped_samples(waveform: Array, rail: float = RAIL) -> int:
    """Samples at the rail or past it, |x| >= rail; a single one counts."""
    return int((np.abs(waveform) >= rail).sum())


def late_samples(first: Array, other: Array) -> int:
    """By how many samples the beat of `other` comes late against `first`.

    Both are waveforms (channel, sample) of one length. The lag at which their onset envelopes correlate most: an
    envelope is |x[n + 2] - 2 x[n + 1] + x[n]|, which raises clicks above all that is slow, less its mean.
    """
    envelopes = [np.abs(np.diff(waveform, 2)).sum(axis=0) for waveform in (first, other)]
    early, late = (envelope - envelope.mean() for envelope in envelopes)
    correlation = scipy.signal.correlate(late, early, mode="full", method="fft")
    return int(correlation.argmax()) - (len(early) - 1)


def drift_samples_per_hour(late: Sequence[int], span_s: float) -> float:
    """How far the beat of equal repetitions slips in an hour, from how late each one is, spread evenly over `span_s`.

    The median of the last quarter less that of the first: a beat that is early once and late once does not drift.
    """
    quarter = max(1, len(late) // 4)
    slipped = float(np.median(late[-quarter:]) - np.median(late[:quarter]))
    return slipped / (span_s * (len(late) - quarter) / len(late)) * 3_600
