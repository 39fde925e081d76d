"""Costs of negative pairs by rank: predicted from a sample before a pass, taken from the deferred pairs after it.

A calibration threshold is the cost of one pair, that of a given rank among all negative pairs. A sample says between
which costs it lies, up to chance. A pass counts the pairs on either side and keeps those in between, of which the one
with the rank is then found by ever finer numbers: float32, float64, and the exact cosines of the few that are left.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.cosine import cosine_error
from tcm_bench.evaluation.counting.kernels import DeferredPairs
from tcm_bench.evaluation.counting.prepared import PreparedSet
from tcm_bench.evaluation.counting.thresholds import (
    ThresholdIntervals,
    cosine_minus_one_at,
    cost_of,
    threshold_intervals,
)
from tcm_bench.evaluation.counting.workers import in_threads

SAMPLE_SHARE, SMALLEST_SAMPLE, SAMPLE_BINS = 0.03, 2**24, 2**20
CUTS = 2**9
LARGEST_INT64 = 2**63 - 1

Grid = Callable[[Tensor], Tensor]


class Prediction(NamedTuple):
    """Where the ranks will be found.

    Attributes:
        low: The least cost that the pair of each rank may have.
        high: The largest.
        intervals: Those of the ranks, in their order, and then, if `has_grid`, those of the grid's thresholds.
        has_grid: Whether the grid can be counted in the same pass.
    """

    low: Float[Tensor, " ranks"]
    high: Float[Tensor, " ranks"]
    intervals: ThresholdIntervals
    has_grid: bool

    def holds(self, costs: Float[Tensor, " ranks"]) -> bool:
        """Whether each cost is where it was predicted.

        It may be found elsewhere, where its interval met one of another threshold and both were made one. But the
        intervals of the grid follow from ``low`` and ``high``, and may miss thresholds that follow from such a cost.
        """
        return bool(((self.low <= costs) & (costs <= self.high)).all())


class Sample:
    """How the negative pairs of a set are distributed, by a share of them."""

    def __init__(self, prepared: PreparedSet) -> None:
        self._set: PreparedSet = weakref.proxy(prepared)  # it holds this object: no circle that outlives both

    def predict(self, ranks: Sequence[int], grid: Grid, certainty: float, room: int) -> Prediction:
        """Where each rank lies, and the thresholds of the grid if there is room to defer the pairs around them, too."""
        low, high = self.costs(ranks, certainty)
        axis, margin = self._set.axis, self._set.margin
        of_ranks = cosine_minus_one_at(torch.stack([high, low]), axis)
        of_grid = cosine_minus_one_at(torch.stack([grid(high), grid(low)]), axis)
        lows, highs = torch.cat([of_ranks, of_grid], dim=1)
        every = threshold_intervals(lows, highs, margin)
        if self.expected(every) <= room:
            return Prediction(low, high, every, has_grid=True)
        return Prediction(low, high, threshold_intervals(of_ranks[0], of_ranks[1], margin), has_grid=False)

    def costs(self, ranks: Sequence[int], certainty: float) -> tuple[Tensor, Tensor]:
        """Costs between which each rank lies, unless the sample is off by ``certainty`` standard deviations."""
        upto = self._histogram.flip(0).cumsum(0).double()
        size = float(upto[-1])
        share = upto.new_tensor(ranks) / self._set.num_negative
        spread = certainty * (size * share * (1 - share)).sqrt() + 1
        place = torch.stack([share * size - spread, share * size + spread])
        bins = torch.searchsorted(upto, place) + place.new_tensor([[-1], [2]])  # outer ends, and one for rounding
        # The outermost lie outside of what pairs have. What counts as identical lies beyond the sample's place for it.
        error = cosine_error(self._set.rows.single.shape[1])
        cosine = 1 - bins * (self._set.span / SAMPLE_BINS) + place.new_tensor([[1], [-1]]) * error
        low, high = cost_of(cosine, self._set.axis)
        return low, high

    def expected(self, intervals: ThresholdIntervals) -> float:
        """Pairs that a pass of this process will defer."""
        bins = ((intervals.edges.double() / self._set.span + 1) * SAMPLE_BINS).long().clamp(0, SAMPLE_BINS - 1)
        below = torch.cat([self._histogram.new_zeros(1), self._histogram.cumsum(0)])
        inside = (below[bins[1::2] + 1] - below[bins[::2]]).sum()
        return float(inside / self._histogram.sum()) * self._set.num_negative / self._set.processes.world

    @cached_property
    def _histogram(self) -> Int[Tensor, " bins"]:
        """An even histogram from ``-span`` to 0 of the cosine minus one of some pairs of two classes.

        Rows are shuffled and cut into blocks; each block meets the same number of others, so that every item has
        nearly the same weight.
        """
        prepared, height = self._set, self._set.tile[0]
        order = torch.randperm(prepared.num_items, generator=torch.Generator().manual_seed(0)).to(prepared.order.device)
        columns = ("single", "half", "later", "roles")
        shuffled = prepared.rows._replace(**{name: getattr(prepared.rows, name)[order] for name in columns})
        starts = range(0, prepared.num_items, height)
        share = max(SAMPLE_SHARE, SMALLEST_SAMPLE / (prepared.num_positive + prepared.num_negative))
        offsets = range(1, min(len(starts) // 2, int(share * len(starts) / 2) + 1) + 1) or (0,)
        pairs = [(a, (a + offset) % len(starts)) for offset in offsets for a in range(len(starts))]
        own = iter(pairs[prepared.processes.rank :: prepared.processes.world])

        def work() -> Tensor:
            histogram = torch.zeros(SAMPLE_BINS, dtype=torch.int64, device=order.device)
            for ends in own:
                first, second = (slice(starts[end], starts[end] + height) for end in ends)
                prepared.kernel.sample(shuffled, first, second, prepared.span, histogram)
            return histogram

        histogram = torch.stack(in_threads(work, order.device)).sum(dim=0)
        prepared.processes.add(histogram)
        return histogram


def order_statistics(
    prepared: PreparedSet,
    ranks: Sequence[int],
    intervals: ThresholdIntervals,
    histogram: Int[Tensor, "groups places"],
    deferred: Sequence[DeferredPairs],
) -> Float[Tensor, " ranks"] | None:
    """Cost of the pair of each rank, to the bit; None if one lies outside the interval where it was predicted.

    Args:
        prepared: The set.
        ranks: Of negative pairs by increasing cost, 1 for the closest.
        intervals: Those of the ranks come first.
        histogram: Pairs of two classes, once for the group of each item, by the intervals below them.
        deferred: Those inside an interval, of this process.
    """
    cosines = []
    for number, rank in enumerate(ranks):
        interval = int(intervals.of[number])
        ends = intervals.edges[2 * interval : 2 * interval + 2]
        above, values = between(prepared, deferred, *ends)
        rank -= above + int(histogram[:, interval + 1 :].sum()) // 2
        if not 0 < rank <= len(values):
            return None
        cosines.append(ranked(prepared, deferred, ends, values, rank))
    return cost_of(torch.stack(cosines), prepared.axis)


def ranked(
    prepared: PreparedSet, deferred: Sequence[DeferredPairs], interval: Tensor, values: Tensor, rank: int
) -> Float[Tensor, ""]:
    """The exact cosine of the pair of this rank, 1 for the highest, in the interval that has these float32 ones."""
    # No cosine moves by more than the margin, hence no order statistic does; those beyond the interval do not count.
    low, high = _around(_highest(values, rank), prepared.margin)
    low, high = low.maximum(interval[0]), high.minimum(interval[1])
    rank -= int((values > high).sum())
    pairs = between(prepared, deferred, low, high, pairs=True)[1]
    values = prepared.rows.cosine_minus_one(pairs)
    low, high = _around(_highest(values, rank), prepared.fine_margin)
    rank -= int((values > high).sum())
    left = pairs[(values >= low) & (values <= high)].long()
    return _highest(prepared.cosines.pairs(*left.unbind(1)), rank)


def between(
    prepared: PreparedSet, deferred: Sequence[DeferredPairs], low: Tensor, high: Tensor, pairs: bool = False
) -> tuple[int, Tensor]:
    """How many deferred pairs of all processes lie above ``high``; those from ``low`` to it, or their values."""
    parts = iter(deferred)

    def work() -> list[tuple[int, Tensor]]:
        found = []
        for part in parts:
            above, entries = prepared.kernel.between(part.values, low, high)
            found.append((above, part.pairs(prepared.num_items, entries) if pairs else part.values[entries]))
        return found

    found = [part for thread in in_threads(work, prepared.order.device) for part in thread]
    above = prepared.order.new_tensor([sum(part[0] for part in found)])
    prepared.processes.add(above)
    empty = prepared.rows.later.new_empty(0, 2) if pairs else prepared.rows.single.new_empty(0)
    return int(above), prepared.processes.gathered(torch.cat([empty, *(part[1] for part in found)]))


def by_counting(ranks: Sequence[int], reached: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Order statistics where too many pairs lie too close to defer them: by counting at ever closer thresholds.

    A float's bits, read as an integer, sort as the float does; each pass divides the interval by ``CUTS``.

    Args:
        ranks: See `order_statistics`.
        reached: Pairs that cost at most each of increasing costs.
        device: Where the costs lie.
    """
    # Python's integers: the bits of the two ends are further apart than an int64 can say.
    lowest, highest = _ordered_bits(torch.tensor([-2.0, 3.0], dtype=torch.float64)).tolist()
    # Fewer pairs than the rank cost `below` or less, enough cost `upto` or less.
    intervals = dict.fromkeys(ranks, (lowest, highest))
    while any(upto - below > 1 for below, upto in intervals.values()):
        points = sorted(
            {below + (upto - below) * cut // CUTS for below, upto in intervals.values() for cut in range(CUTS + 1)}
        )
        counts = reached(_from_ordered_bits(torch.tensor(points, device=device)))
        for rank in ranks:
            place = int(torch.searchsorted(counts, rank))
            intervals[rank] = points[place - 1], points[place]
    return _from_ordered_bits(torch.tensor([intervals[rank][1] for rank in ranks], device=device))


def _highest(values: Tensor, rank: int) -> Tensor:
    """The value of this rank, 1 for the highest."""
    return values.kthvalue(len(values) - rank + 1).values


def _around(value: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Ends, rounded outwards, of what may change places with a value when none moves by more than ``margin``."""
    infinity = torch.full_like(value, torch.inf)
    low, high = ((value.double() + shift).to(value.dtype) for shift in (-2 * margin, 2 * margin))
    return low.nextafter(-infinity), high.nextafter(infinity)


def _ordered_bits(values: Tensor) -> Tensor:
    """float64 as int64 that sort alike; its own inverse on the integers."""
    bits = values.view(torch.int64)
    return bits ^ ((bits >> 63) & LARGEST_INT64)


def _from_ordered_bits(keys: Tensor) -> Tensor:
    """Inverse of :func:`_ordered_bits`, but 0 for denormal numbers: no cost is one, and a processor may flush them."""
    values = (keys ^ ((keys >> 63) & LARGEST_INT64)).view(torch.float64)
    return values.masked_fill(values.abs() < torch.finfo(torch.float64).tiny, 0.0)
