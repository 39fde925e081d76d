"""Thresholds, and the intervals around them in which a rounded cosine does not say on which side a pair lies."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation.settings import Cost


class BinEdges(NamedTuple):
    """Thresholds on the axis of the cosine minus one, as far as a precision can tell.

    Attributes:
        edges: Increasing ends of the disjoint intervals in which it cannot, two an interval.
        passed: For each number of intervals below a pair, the thresholds below it.
    """

    edges: Float[Tensor, " edges"]
    passed: Int[Tensor, " places"]


class ThresholdIntervals(NamedTuple):
    """Where thresholds may lie on the axis of the cosine minus one.

    Attributes:
        edges: Ends of disjoint intervals in increasing order, two an interval.
        of: The interval of each threshold.
    """

    edges: Float[Tensor, " edges"]
    of: Int[Tensor, " thresholds"]

    def bin_edges(self) -> BinEdges:
        """The same, to find a pair's place among the thresholds."""
        intervals = len(self.edges) // 2
        passed = self.of.bincount(minlength=intervals).cumsum(0)
        return BinEdges(self.edges, torch.cat([self.of.new_zeros(1), passed]))


def threshold_intervals(
    low: Float[Tensor, " thresholds"],
    high: Float[Tensor, " thresholds"],
    margin: float,
    dtype: torch.dtype = torch.float32,
) -> ThresholdIntervals:
    """Intervals ``low - margin .. high + margin`` rounded outwards; those that meet are one.

    A value in an interval has an odd number of edges at or below it.

    Example:
        >>> low, high = torch.tensor([0.5, 0.1, 0.15]).double(), torch.tensor([0.6, 0.2, 0.3]).double()
        >>> found = threshold_intervals(low, high, 0.01)
        >>> found.edges, found.of
        (tensor([0.0900, 0.3100, 0.4900, 0.6100]), tensor([1, 0, 0]))
        >>> found.bin_edges().passed  # thresholds below a pair that lies above none, one or both intervals
        tensor([0, 2, 3])
    """
    low, order = low.sort(stable=True)
    infinity = torch.tensor(torch.inf, dtype=dtype, device=low.device)
    low = (low - margin).to(dtype).nextafter(-infinity)
    high = (high[order] + margin).to(dtype).nextafter(infinity).cummax(0).values
    starts = torch.cat([order.new_ones(1, dtype=torch.bool), low[1:] > high[:-1]])[: len(low)]
    ends = starts.roll(-1)
    of = torch.empty_like(order)
    of[order] = starts.cumsum(0) - 1
    return ThresholdIntervals(torch.stack([low[starts], high[ends]], dim=1).flatten(), of)


def cost_of(cosine: Float[Tensor, "..."], axis: Cost) -> Float[Tensor, "..."]:
    """Smaller for closer: the distance, or the negated cosine."""
    if axis == "similarity":
        return -cosine
    square = (2 - 2 * cosine).clamp(min=0)
    # On a CPU torch's own root is at times off by the last bit, numpy's and a GPU's never are.
    return torch.from_numpy(np.sqrt(square.numpy())) if square.device.type == "cpu" else square.sqrt()


def cosine_minus_one_at(cost: Float[Tensor, "..."], axis: Cost) -> Float[Tensor, "..."]:
    """The cosine minus one at a cost, up to rounding; above 0 or below -2, and finite, at a cost that no pair has."""
    found = -cost - 1 if axis == "similarity" else torch.where(cost < 0, 1.0, -cost.square() / 2)
    return found.clamp(-3, 1)


class FixedThresholds:
    """Thresholds that are known before a pass.

    Args:
        costs: In increasing order.
        axis: What they are costs of.
        margin: How far a cosine minus one in float32 may be off.
        fine_margin: How far one in float64 of float32 rows may be off.

    Attributes:
        single: Where float32 does not tell on which side of a threshold a pair lies.
        double: The same of float64.
    """

    def __init__(self, costs: Float[Tensor, " thresholds"], axis: Cost, margin: float, fine_margin: float) -> None:
        self.costs, self._axis = costs, axis
        levels = cosine_minus_one_at(costs, axis)
        self.single = threshold_intervals(levels, levels, margin).bin_edges()
        self.double = threshold_intervals(levels, levels, fine_margin, torch.float64).bin_edges()

    def accepting(self, cosines: Float[Tensor, " pairs"]) -> Int[Tensor, " pairs"]:
        """Number of thresholds that accept pairs of these exact cosines."""
        return len(self.costs) - torch.bucketize(cost_of(cosines, self._axis), self.costs)


def cumulated(histogram: Int[Tensor, "rows places"]) -> Int[Tensor, "rows places"]:
    """Pairs within each of increasing thresholds, and all, from pairs by the number of thresholds that accept them."""
    return histogram.flip(1).cumsum(1)


def accepted(histogram: Int[Tensor, "rows places"]) -> Int[Tensor, "rows thresholds"]:
    """The same without the last."""
    return cumulated(histogram)[:, :-1]
