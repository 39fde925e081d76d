"""The threshold that each class would choose for itself, and how far these lie apart: what OPIS is made of.

A class reaches a true accept rate of 90 % at the cost of one of its own positive pairs, and a false accept rate of 1 %
somewhere among its own negative pairs. The first is exact. The second is read off the counts over all calibration
ranges, linearly between two of their thresholds; a class that reaches it outside of the ranges lies beyond their end.
"""

from math import nan
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.threshold import Calibration

TAR: Final = 0.9
FAR: Final = 0.01
MIDDLE: Final = (0.1, 0.9)  # of the classes, by their thresholds: those beyond may lie anywhere


def own_thresholds(scan: PairScan, calibration: Calibration) -> dict[str, Float[Tensor, " classes"]]:
    """Costs, distances or negated cosines, at which each class has its own rates.

    Returns:
        ``tar_90pct``: where 90 % of a class's positives are accepted; ``far_1pct``: where 1 % of its negatives are.
        Infinite where a class is not known to reach it, and NaN for a class without a positive pair.
    """
    found = {"tar_90pct": scan.costs_of_share(TAR), "far_1pct": _costs_at_far(scan, calibration)}
    return {name: costs.where(scan.positives > 0, nan) for name, costs in found.items()}


def spread(costs: Float[Tensor, " classes"]) -> float:
    """Width of the interval that holds the middle 80 % of the classes; NaN if it reaches beyond what is known."""
    known = costs[~costs.isnan()]
    if not len(known):
        return nan
    low, high = known.quantile(known.new_tensor(MIDDLE), interpolation="nearest").tolist()
    return high - low if max(abs(low), abs(high)) < torch.inf else nan


def _costs_at_far(scan: PairScan, calibration: Calibration) -> Float[Tensor, " classes"]:
    if calibration.curves is None:
        return torch.full(scan.sizes.shape, torch.inf, dtype=torch.float64, device=scan.sizes.device)
    costs, rates = calibration.counted, 1 - calibration.curves.specificity
    if scan.axis == "similarity":
        costs, rates = -costs.flip(0), rates.flip(1)
    above = torch.searchsorted(rates.contiguous(), rates.new_full((len(rates), 1), FAR))[:, 0]
    inside = (above > 0) & (above < len(costs))
    right = above.clamp(1, len(costs) - 1)
    left = right - 1
    low, high = (rates.gather(1, end[:, None])[:, 0] for end in (left, right))
    between = costs[left] + (FAR - low) / (high - low) * (costs[right] - costs[left])
    beyond = torch.where(above == 0, -torch.inf, torch.inf)
    return torch.where(inside, between, beyond)
