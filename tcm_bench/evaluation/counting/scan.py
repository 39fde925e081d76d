"""Every pair of a set, counted exactly for little more than one single-precision product.

**What is asked.** A test set of ``n`` items has ``n (n - 1) / 2`` pairs, 1.8 billion on SOP. Of each pair of two
classes two things are asked: which thresholds accept it (the counts behind OPIS), and whether one of the two is nearer
to the other than that other's nearest item of its own class (the rank behind Recall@k). Both are comparisons of the
pair's cosine with a number, so a rounded cosine answers them wherever it is far enough from that number.

**Three precisions.** Each decides what it can and leaves the rest to the next. ``margin`` and ``fine_margin`` bound the
error of the first two; where they come from is said in `cosine` and `prepared`.

1. *float32, every pair.* The upper triangle of the cosine matrix is multiplied tile by tile, and each tile is read
   once, while it is in cache (`kernels`). A processor with tiles of bfloat16 multiplies halves of the float32 numbers
   instead, in less than half the time and with a bound of its own (`halves`). What all rows have in common is taken
   off before (`prepared`), so that rows which lie close together (an untrained or a collapsed network) are told apart
   as well as others: the axis is the *cosine minus one*, small numbers near 0 where the cosines are all near 1.
2. *float64, the few pairs within* ``margin`` *of a threshold.*
3. *The exact cosine, the very few within* ``fine_margin``. Rows are rounded once, to multiples of 2^-46, and of these
   products and sums are exact: that is our definition of the cosine (`cosine`).

So every count is that of the exact cosines, whichever precision happened to decide. It depends on no tile size, number
of threads or ranks, processor or device, and on no order of rows but where items are equally near: there the lower
index comes first.

**Thresholds that are known** are given as *costs*, smaller for closer: distances, or negated cosines. On the axis of
the cosine minus one they become intervals, ``margin`` to each side (`thresholds`). A pair outside all intervals is
counted at once, by how many lie below it. A pair inside one is *deferred*: its place is put on a list that the next
two precisions work through while the pass goes on.

**Thresholds that are found.** The ends of the calibration range are order statistics, the costs of the pairs at which
the false accept rate reaches 1 % and 10 %, and all other thresholds lie evenly between. To spare passes, a sample
predicts where they will fall (`order_statistics`), which makes the intervals wider, and the deferred pairs wait until
the thresholds are known. How many there are depends on how close together the pairs lie, and the sample says that, too:

- As a rule there is room for the pairs around all thresholds, and one pass is enough.
- With less room the first pass defers the pairs around the ends of the range alone, which gives all thresholds, and a
  second one counts at them.
- If even these are too many (all cosines equal, say), the ends are found by counting alone, at ever closer thresholds:
  some eight passes more.

A prediction that turns out wrong costs another pass, never a digit.

**Pairs inside a class** are so few that their exact cosines are taken at once (`positives`).

**An example.** Two classes of two items have four negative pairs; two thresholds lie one float64 apart.

    >>> from tcm_bench.evaluation.counting.thresholds import cosine_minus_one_at, cost_of, threshold_intervals
    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    >>> scan = PairScan(x, torch.tensor([0, 0, 1, 1]), axis="similarity")
    >>> cost = cost_of(scan.cosines.pairs(torch.tensor([0]), torch.tensor([2])), "similarity")  # the negated cosine
    >>> thresholds = torch.cat([cost.nextafter(cost - 1), cost])  # only the second accepts the pair of 0 and 2

Cosine 0.6 of two pairs, (0, 2) and (1, 3), is nearer to the thresholds than float32 can tell, so both are deferred. The
pair of cosine 0.96 lies above the only interval and is counted once for each of its classes; that of cosine 0 lies
below, where no threshold accepts it, and is not counted.

    >>> levels = cosine_minus_one_at(thresholds, "similarity")
    >>> found = scan.scan(threshold_intervals(levels, levels, scan.margin))
    >>> found.histogram.view(2, 2, 2).sum(dim=1)  # by the halves of each class
    tensor([[0, 1],
            [0, 1]])
    >>> [pair for part in found.deferred for pair in part.pairs(4).tolist()]
    [[0, 2], [1, 3]]

Float64 cannot tell them from the thresholds either: both values lie between the edges of its interval.

    >>> low, high = scan.fixed(thresholds).double.edges
    >>> values = scan.rows.cosine_minus_one(torch.tensor([[0, 2], [1, 3]], dtype=torch.int32))
    >>> bool(((low <= values) & (values < high)).all())
    True

Their exact cosines can. Of the four pairs the first threshold accepts one and the second three; each counts for both of
its classes, hence two equal rows.

    >>> scan.counts(thresholds).accepted_negatives.sum(dim=1)
    tensor([[1, 3],
            [1, 3]])
"""

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting import workers
from tcm_bench.evaluation.counting.kernels import DeferredPairs, ScanRequest, count
from tcm_bench.evaluation.counting.order_statistics import Grid, Prediction, Sample, by_counting, order_statistics
from tcm_bench.evaluation.counting.positives import Positives
from tcm_bench.evaluation.counting.prepared import PreparedSet
from tcm_bench.evaluation.counting.thresholds import (
    FixedThresholds,
    ThresholdIntervals,
    accepted,
)

STORED_PER_ITEM, LARGEST_STORE = 1500, 3 * 2**26  # deferred pairs, of 8 bytes each
CERTAINTY = 4.0  # standard deviations of the sample's quantiles


class PairCounts(NamedTuple):
    """Pairs of each class, and those accepted at each threshold.

    A class's positives are the unordered pairs inside it, its negatives those with exactly one end
    in it, so that a negative pair counts for two classes. What the images of a class say of the noise in its counts
    is counted as well, see :mod:`tcm_bench.evaluation.noise`.

    Attributes:
        positives: Positive pairs.
        disjoint: Ordered pairs of two positive pairs that share no item.
        negatives: Negative pairs of each of two random halves of the class's items.
        accepted_positives: Of `positives` those that a threshold accepts.
        accepted_disjoint: Of `disjoint` those of which it accepts both.
        accepted_negatives: Of `negatives` those that it accepts.
    """

    positives: Int[Tensor, " classes"]
    disjoint: Int[Tensor, " classes"]
    negatives: Int[Tensor, "classes 2"]
    accepted_positives: Int[Tensor, "classes thresholds"]
    accepted_disjoint: Int[Tensor, "classes thresholds"]
    accepted_negatives: Int[Tensor, "classes 2 thresholds"]

    def at(self, thresholds: Int[Tensor, " chosen"]) -> "PairCounts":
        """At some of the thresholds, by number."""
        of_classes = self[:3]
        return PairCounts(*of_classes, *(part[..., thresholds] for part in self[3:]))


class TooManyPairs(Exception):
    """More pairs lie where a threshold may fall than can be deferred."""


class Findings(NamedTuple):
    """What one pass found.

    Attributes:
        histogram: int64 ``(groups, places)``: pairs of two classes by the half of a class and by the intervals, or
            fixed thresholds, below them.
        rank_of_first_positive: int64 ``(items,)``: items before the nearest positive of each query, up to ``max_rank``.
        deferred: Pairs inside an interval, with their values, of this process.
    """

    histogram: Int[Tensor, "classes places"]
    rank_of_first_positive: Int[Tensor, " items"]
    deferred: list[DeferredPairs]


class Calibrated(NamedTuple):
    """What `PairScan.calibrated` finds.

    Attributes:
        costs: The cost of the pair of each rank, to the bit.
        counts: Pairs at the thresholds of the grid over these.
        rank_of_first_positive: See `PairScan.rank_of_first_positive`.
    """

    costs: Float[Tensor, " ranks"]
    counts: PairCounts
    rank_of_first_positive: Int[Tensor, " items"]


class PairScan(PreparedSet):
    """All unordered pairs of a set, counted exactly.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        axis: What a pair's cost is.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched; by default all. Two rows are a pair if one is a query and the other in the
            gallery.
        tile: Rows and columns that are multiplied at once; changes time and memory, never a result.
        group: Processes that hold the same set and share the work; each gets the whole answer.
        kernel: What multiplies and reads a tile; by default compiled loops on a CPU, with products of bfloat16 halves
            if it has an instruction for them, and tensor operations elsewhere.

    Raises:
        ValueError: If a row is zero or not finite.
    """

    # -- what can be asked ------------------------------------------------------------------------------------------

    def counts(self, thresholds: Float[Tensor, " thresholds"]) -> PairCounts:
        """Pairs of each class with ``cost <= threshold``; thresholds in increasing order."""
        fixed = self.fixed(thresholds)
        return self._counts(fixed, self.scan(fixed).histogram)

    def accepted_positives(self, costs: Float[Tensor, " levels"]) -> Int[Tensor, " levels"]:
        """Positive pairs of all classes with ``cost <=`` each of ``costs``, in any order."""
        increasing, order = costs.sort()
        found = torch.empty_like(order)
        found[order] = self._positives.accepted(self.fixed(increasing))[0].pairs.sum(dim=0)
        return found

    def costs_of_share(self, share: float) -> Float[Tensor, " classes"]:
        """The least cost that accepts a share of each class's positives, in (0, 1]; infinite where there is none."""
        return self._positives.costs_of_share(share)

    def rank_of_first_positive(self, max_rank: int) -> Int[Tensor, " items"]:
        """For each of the caller's rows as a query: how many items come before its nearest positive.

        Of items equally near the one with the lower index comes first. Counting ends at ``max_rank``; a row that is
        no query, or has no positive, gets ``max_rank``.
        """
        return self.in_callers_order(self.scan(None, max_rank).rank_of_first_positive)

    def calibrated(self, ranks: Sequence[int], grid: Grid, max_rank: int = 0) -> Calibrated:
        """Order statistics, counts at thresholds that depend on them, and ranks of positives, in one pass as a rule.

        Args:
            ranks: Of negative pairs by increasing cost, 1 for the closest.
            grid: Maps the costs of the ranks to thresholds in increasing order, none of which falls when a cost rises.
            max_rank: See :meth:`rank_of_first_positive`; 0 to skip it.
        """
        try:
            costs, prediction, found = self._predicted_pass(ranks, grid, max_rank)
        except TooManyPairs:
            costs = by_counting(ranks, self._reached, self.order.device)
            fixed = self.fixed(grid(costs))
            found = self.scan(fixed, max_rank)
            histogram = found.histogram
        else:
            fixed = self.fixed(grid(costs))
            if prediction.has_grid:
                histogram = self._settled(prediction, len(ranks), found, fixed)
            else:
                histogram = self.scan(fixed).histogram
        return Calibrated(costs, self._counts(fixed, histogram), self.in_callers_order(found.rank_of_first_positive))

    # -- how it is answered -----------------------------------------------------------------------------------------

    def _predicted_pass(
        self, ranks: Sequence[int], grid: Grid, max_rank: int
    ) -> tuple[Float[Tensor, " ranks"], Prediction, Findings]:
        """Costs of the ranks, and the pass in which they were found where they had been predicted.

        Raises:
            TooManyPairs: If the pairs around them cannot all be deferred.
        """
        certainty, first = CERTAINTY, None
        while True:
            prediction = self._sample.predict(ranks, grid, certainty, self._room)
            found = self.scan(prediction.intervals, max_rank if first is None else 0)
            if first is None:  # what is known is not searched again
                first = found.rank_of_first_positive
            costs = order_statistics(self, ranks, prediction.intervals, found.histogram, found.deferred)
            if costs is not None and prediction.holds(costs):
                return costs, prediction, found._replace(rank_of_first_positive=first)
            certainty *= 4

    def scan(self, asked: ThresholdIntervals | FixedThresholds | None, max_rank: int = 0) -> Findings:
        """Read every pair of two classes once.

        Args:
            asked: Intervals, inside which pairs are deferred; or thresholds, at which they are counted; None: neither.
            max_rank: Up to which the ranks of first positives are wanted; 0: not at all.

        Raises:
            TooManyPairs: If intervals hold more pairs than can be deferred.
        """
        query = _Pass(self, asked, max_rank, self._room)
        full = self.order.new_zeros(())
        try:
            parts = workers.in_threads(query.work, self.order.device, query.stop)
        except TooManyPairs:
            full += 1
        self.processes.add(full)  # all processes give up together, or they would wait for each other
        if full:
            raise TooManyPairs
        histogram = torch.stack([part.histogram for part in parts]).sum(dim=0)
        first = torch.stack([part.rank_of_first_positive for part in parts]).sum(dim=0)
        self.processes.add(histogram, first)
        first = first.clamp(max=max_rank).masked_fill(query.best == torch.inf, max_rank)
        return Findings(histogram, first, [deferred for part in parts for deferred in part.deferred])

    def _settled(self, prediction: Prediction, skipped: int, found: Findings, fixed: FixedThresholds) -> Tensor:
        """The histogram of a pass by thresholds that are known now, in place of the intervals they were to lie in."""
        intervals = prediction.intervals
        # By the grid: the intervals of the ranks come first.
        passed = ThresholdIntervals(intervals.edges, intervals.of[skipped:]).bin_edges().passed
        histogram = found.histogram.new_zeros(len(found.histogram), len(fixed.costs) + 1)
        deferred = iter(found.deferred)

        def work() -> Tensor:
            own = torch.zeros_like(histogram)
            for part in deferred:
                self.settle(fixed, part, own)
            return own

        settled = torch.stack(workers.in_threads(work, self.order.device)).sum(dim=0)
        self.processes.add(settled)
        return histogram.index_add_(1, passed, found.histogram) + settled

    def settle(self, fixed: FixedThresholds, deferred: DeferredPairs, histogram: Tensor) -> None:
        """Count deferred pairs, for the groups of both rows, by the number of thresholds that accept them."""
        left_over = self.kernel.settle(self.rows, deferred, fixed.single, fixed.double, histogram).long()
        accepting = fixed.accepting(self.cosines.pairs(*left_over.unbind(1)))
        for end in left_over.unbind(1):
            count(histogram, self.rows.groups[end], accepting)

    def _counts(self, fixed: FixedThresholds, histogram: Tensor) -> PairCounts:
        """From a histogram of negatives by the number of thresholds that accept them."""
        found, every = self._positives.accepted(fixed)
        negatives = accepted(histogram).unflatten(0, (-1, 2))
        return PairCounts(every.pairs, every.disjoint, self.negatives, found.pairs, found.disjoint, negatives)

    def _reached(self, thresholds: Float[Tensor, " thresholds"]) -> Int[Tensor, " thresholds"]:
        """Negative pairs that each of increasing thresholds accepts."""
        return accepted(self.scan(self.fixed(thresholds)).histogram).sum(dim=0) // 2

    @cached_property
    def _positives(self) -> Positives:
        return Positives(self)

    @cached_property
    def _sample(self) -> Sample:
        return Sample(self)

    @property
    def _room(self) -> int:
        """How many pairs may be deferred."""
        return min(STORED_PER_ITEM * self.num_items, LARGEST_STORE)


class _Pass:
    """One pass of this process over its share of the pairs, in as many threads as call :meth:`work`.

    Attributes:
        best: The exact cosine of each query's nearest positive; infinite where none is asked for or none is there.
        stop: Set when a thread has failed, and in the end.
    """

    def __init__(
        self, scan: PairScan, asked: ThresholdIntervals | FixedThresholds | None, max_rank: int, room: int
    ) -> None:
        self._scan, self._room, self.stop = scan, room, threading.Event()
        bins = asked.single if isinstance(asked, FixedThresholds) else asked
        self._fixed = asked if isinstance(asked, FixedThresholds) else None
        if max_rank:
            self.best, self._nearest = scan._positives.nearest()
        else:
            self.best = scan.cosines.rows.new_full((scan.num_items,), torch.inf)
            self._nearest = torch.full_like(scan.order, -1)
        low, high = (self.best - 1 - scan.margin).float(), (self.best - 1 + scan.margin).float()
        infinity = low.new_tensor(torch.inf)
        edges = low.new_empty(0) if bins is None else bins.edges
        self._request = ScanRequest(edges, low.nextafter(-infinity), high.nextafter(infinity), max_rank)
        self._places = len(self._fixed.costs) + 1 if self._fixed else len(edges) // 2 + 1
        height, processes = scan.tile[0], scan.processes
        # Threads take the next strip from one iterator, processes every so many.
        self._tops = iter(range(processes.rank * height, scan.num_items, processes.world * height))

    def work(self) -> Findings:
        """Read strips until there is none; of the findings each thread has its own."""
        scan, device = self._scan, self._scan.order.device
        kernel = scan.kernel(scan.rows, self._request, scan.tile)
        histogram = torch.zeros(scan.rows.num_groups, self._places, dtype=torch.int64, device=device)
        kept: list[DeferredPairs] = []
        try:
            for top in self._tops:
                for deferred in kernel.scan(top):
                    if len(deferred.doubtful):
                        queries = self._confirmed(deferred.doubtful)
                        kernel.rank_of_first_positive.index_add_(0, queries, torch.ones_like(queries))
                    if self._fixed:
                        scan.settle(self._fixed, deferred, histogram)
                    elif len(deferred.stored):
                        kept.append(deferred)
                        self._room -= len(deferred.stored)
                        if self._room < 0:
                            raise TooManyPairs
                if self.stop.is_set():
                    break
        except BaseException:
            self.stop.set()
            raise
        passed = self._fixed.single.passed if self._fixed else torch.arange(self._places, device=device)
        return Findings(histogram.index_add_(1, passed, kernel.histogram), kernel.rank_of_first_positive, kept)

    def _confirmed(self, doubtful: Int[Tensor, "doubtful 2"]) -> Int[Tensor, " confirmed"]:
        """Queries of the pairs whose item does come before the nearest positive."""
        scan, (query, other) = self._scan, doubtful.long().unbind(1)
        gap = scan.rows.cosine_minus_one(doubtful) - (self.best[query] - 1)
        sure, open_ = gap > scan.fine_margin, gap.abs() <= scan.fine_margin
        queries, others = query[open_], other[open_]
        cosines = scan.cosines.pairs(queries, others)
        ties = (cosines == self.best[queries]) & (scan.order[others] < self._nearest[queries])
        return torch.cat([query[sure], queries[(cosines > self.best[queries]) | ties]])
