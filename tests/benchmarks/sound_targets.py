"""What sound must reach, what it aims at, and how far a figure is from both.

Owns the targets. Leaves out how figures are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Target:
    """A figure by its path in the results ("high.speed_ratio"), and its bounds; `is_at_least` when more is better."""

    figure: str
    must: float | None
    aim: float | None = None
    is_at_least: bool = False

    def value(self, results: Mapping[str, Any]) -> float:
        """The figure. Raises KeyError when it was not measured."""
        found: Any = results
        for name in self.figure.split("."):
            found = found[name]
        return float(found)

    def is_met(self, value: float, bound: float) -> bool:
        """Whether a value is as good as the bound; NaN is not."""
        return value >= bound if self.is_at_least else value <= bound

    def verdict(self, value: float, bound: float | None) -> str:
        """In words: met, or missed by what."""
        if bound is None:
            return "–"
        return "met" if self.is_met(value, bound) else f"missed by {abs(value - bound):.3g}"


TEN_PER_CENT_OVER_AN_HOUR: Final = round(math.log(1.1) / math.log(60), 3)

TARGETS: Final = (
    Target("standard.speed_ratio", 50, 150, is_at_least=True),
    Target("standard.sc_delta_db", 0),
    Target("standard.pix_ratio", 1),
    Target("standard.mr_ratio", 1),
    Target("standard.lsd_ratio", 1),
    Target("high.pix_ratio_true_sound", 1 / 2.5, 1 / 3),
    Target("high.speed_ratio", 10, 20, is_at_least=True),
    Target("fast.speed_ratio", 40, is_at_least=True),
    Target("joint_ratio", 1.1, 1.0),
    Target("joint_ratio_worst", None, 1.1),
    Target("loop_joint_ratio", 1.1, 1.0),
    Target("loop_joint_ratio_worst", None, 1.1),
    Target("blend_joint_ratio", 1.3),
    Target("blend_joint_ratio_worst", None, 1.3),
    Target("blend_dip_db", 0.5),
    Target("drift_samples_per_hour", 0),
    Target("length_error_samples", 0),
    Target("peak_rss_mib_10h", 1024, 500),
    Target("peak_rss_last_to_first", 1.02),
    Target("growth_deviation", TEN_PER_CENT_OVER_AN_HOUR),
    Target("clipped_samples", 0),
)


def unmet(results: Mapping[str, Any]) -> list[Target]:
    """The targets whose must is missed."""
    values = [(target, target.value(results)) for target in TARGETS]
    return [one for one, value in values if one.must is not None and not one.is_met(value, one.must)]
