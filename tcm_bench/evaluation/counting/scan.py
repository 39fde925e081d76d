"""One pass over all pairs of a set: exact counts for little more than one single-precision product.

The upper triangle of the cosine matrix is multiplied in float32, tile by tile, and each tile is read once, while it
is in cache. A processor with tiles of bfloat16 multiplies halves of the float32 numbers, in less than half the time and
with an error bound of its own (`halves`). What is common to all rows is taken off before, so that rows
which lie close together (an untrained or a collapsed network) are told apart as well as others: the axis is that of
closeness, the cosine less 1. Such a closeness decides a question (is this pair accepted? does this item come before
the query's nearest positive?) only where its error bound leaves no doubt. The few pairs in doubt are decided by a
float64 product, and the very few still in doubt by the exact cosine of `cosine`. So every
count is that of the exact cosines: it depends on no tile size, number of threads or ranks, processor, device or order
of rows.

Thresholds that are themselves found in the pass (the calibration range) are predicted from a sample. Pairs that
lie where a threshold may fall are put aside and counted once it is known: the more pairs lie close together, the more
of them, so that a set with a flat spectrum needs the most room. A prediction that turns out wrong costs
another pass, never a digit.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.cosine import Cosines, cosine_error, exact_products
from tcm_bench.evaluation.counting.kernels import (
    Aside,
    CompiledKernel,
    HalvesKernel,
    Questions,
    Rows,
    Scale,
    TensorKernel,
    column_bits,
    count,
)
from tcm_bench.unit_norm import row_norms

Axis = Literal["distance", "similarity"]

STORED_PER_ITEM, LARGEST_STORE = 1500, 3 * 2**26  # pairs put aside, of 8 bytes each
SMALL_CLASS = 32  # items
BLOCK = 2**8  # rows
STRIP = 2**22  # entries of a block of exact cosines
LARGEST_KEPT = 2**25  # exact cosines inside classes that are kept from one use to the next
SAMPLE_SHARE, SMALLEST_SAMPLE, SAMPLE_BINS = 0.03, 2**24, 2**20
STEPS = 2**9
LARGEST_INT64 = 2**63 - 1
CERTAINTY = 4.0  # standard deviations of the sample's quantiles


class Counts(NamedTuple):
    """Pairs of each class, and those accepted at each threshold.

    A class's positives are the unordered pairs inside it, its negatives those with exactly one end
    in it, so that a negative pair counts for two classes.
    """

    positives: Int[Tensor, " classes"]
    negatives: Int[Tensor, " classes"]
    accepted_positives: Int[Tensor, "classes steps"]
    accepted_negatives: Int[Tensor, "classes steps"]


class Zones(NamedTuple):
    """Where thresholds may lie on the axis of closeness.

    Attributes:
        edges: Ends of disjoint zones in increasing order, two a zone.
        of: The zone of each threshold.
    """

    edges: Float[Tensor, " edges"]
    of: Int[Tensor, " thresholds"]

    def passed(self) -> Int[Tensor, " places"]:
        """Thresholds below a pair that lies above the first ``n`` zones, for each ``n``."""
        zones = len(self.edges) // 2
        return torch.cat([self.of.new_zeros(1), self.of.bincount(minlength=zones).cumsum(0)])


def zones(low: Tensor, high: Tensor, margin: float, dtype: torch.dtype = torch.float32) -> Zones:
    """Intervals ``low - margin .. high + margin`` rounded outwards; those that meet are one zone.

    A value in a zone has an odd number of edges at or below it.
    """
    low, order = low.sort(stable=True)
    infinity = torch.tensor(torch.inf, dtype=dtype, device=low.device)
    low = (low - margin).to(dtype).nextafter(-infinity)
    high = (high[order] + margin).to(dtype).nextafter(infinity).cummax(0).values
    starts = torch.cat([order.new_ones(1, dtype=torch.bool), low[1:] > high[:-1]])[: len(low)]
    ends = starts.roll(-1)
    of = torch.empty_like(order)
    of[order] = starts.cumsum(0) - 1
    return Zones(torch.stack([low[starts], high[ends]], dim=1).flatten(), of)


def cost_of(cosine: Tensor, axis: Axis) -> Tensor:
    """Smaller for closer: the distance, or the negated cosine."""
    if axis == "similarity":
        return -cosine
    square = (2 - 2 * cosine).clamp(min=0)
    # On a CPU torch's own root is at times off by the last bit, numpy's and a GPU's never are.
    return torch.from_numpy(np.sqrt(square.numpy())) if square.device.type == "cpu" else square.sqrt()


def closeness_at(cost: Tensor, axis: Axis) -> Tensor:
    """The closeness of a cost, up to rounding; above 0 or below -2, and finite, for a cost that no pair has."""
    closeness = -cost - 1 if axis == "similarity" else torch.where(cost < 0, 1.0, -cost.square() / 2)
    return closeness.clamp(-3, 1)


def accepted(histogram: Int[Tensor, "classes places"]) -> Int[Tensor, "classes steps"]:
    """Pairs within each of the increasing thresholds, from pairs by the number of thresholds that accept them."""
    return histogram.flip(1).cumsum(1)[:, :-1]


class Known:
    """Thresholds that are known, and how to find a pair's place among them.

    Args:
        scan: The set.
        thresholds: Costs in increasing order.
    """

    def __init__(self, scan: "PairScan", thresholds: Float[Tensor, " steps"]) -> None:
        self.scan, self.thresholds = scan, thresholds
        levels = closeness_at(thresholds, scan.axis)
        self.zones = zones(levels, levels, scan.margin)
        fine = zones(levels, levels, scan.fine_margin, torch.float64)
        self.single, self.double = Scale(self.zones.edges, self.zones.passed()), Scale(fine.edges, fine.passed())

    def add(self, aside: Aside, histogram: Int[Tensor, "classes places"]) -> None:
        """Count stored pairs, for the classes of both rows, by the number of thresholds that accept them."""
        scan = self.scan
        left_over = scan.kernel.settle(scan.rows, aside, self.single, self.double, histogram).long()
        accepting = self.exactly(scan.cosines.pairs(*left_over.unbind(1)))
        for end in left_over.unbind(1):
            count(histogram, scan.rows.classes[end], accepting)

    def exactly(self, cosines: Tensor) -> Tensor:
        """Number of thresholds that accept pairs of these exact cosines."""
        return len(self.thresholds) - torch.bucketize(cost_of(cosines, self.scan.axis), self.thresholds)


class TooMany(Exception):
    """More pairs lie where a threshold may fall than can be put aside."""


class Findings(NamedTuple):
    """What one pass found.

    Attributes:
        histogram: int64 ``(classes, places)``: pairs of two classes by class and by zones, or known thresholds, below.
        ahead: int64 ``(items,)``: items before the nearest positive of each query, up to ``enough``.
        kept: Pairs put aside in zones, with their cosines.
    """

    histogram: Int[Tensor, "classes places"]
    ahead: Int[Tensor, " items"]
    kept: list[Aside]


class PairScan:
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

    Attributes:
        classes: The distinct labels in increasing order, int64.
        sizes: Items of each.

    Raises:
        ValueError: If a row is zero or not finite.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "items dim"],
        labels: Int[Tensor, " items"],
        *,
        axis: Axis = "distance",
        query: Bool[Tensor, " items"] | None = None,
        gallery: Bool[Tensor, " items"] | None = None,
        tile: tuple[int, int] | None = None,
        group: dist.ProcessGroup | None = None,
        kernel: type[CompiledKernel] | type[TensorKernel] | None = None,
    ) -> None:
        row_norms(embeddings, torch.float64)  # names the caller's row
        self.axis, self.group = axis, group
        self.kernel = kernel or _kernel_for(embeddings.device)
        height, width = tile or self.kernel.tile
        self.tile = min(height, 2 ** (31 - column_bits(len(labels)))), width  # a place in a strip takes 31 bits
        self.classes, dense, self.sizes = labels.long().unique(return_inverse=True, return_counts=True)
        self.order = dense.argsort(stable=True)  # the caller's row of each row here
        self.cosines = Cosines(embeddings[self.order])
        single, half = _less_the_common(self.cosines.rows)
        ends = self.sizes.cumsum(0)
        dense = dense[self.order]
        everyone = torch.ones_like(dense, dtype=torch.bool)
        is_query, is_searched = (everyone if role is None else role[self.order] for role in (query, gallery))
        roles = is_query.to(torch.int8) + 2 * is_searched.to(torch.int8)
        self.starts = ends - self.sizes
        square, self.dim = 2 * float(half.max()) if len(half) else 2.0, single.shape[1]
        factors, error = self.kernel.factors(single, square**0.5)
        self.rows = Rows(single, factors, half, dense.int(), ends[dense].int(), roles)
        if group:  # zones must be the same to the bit, also where processors differ
            largest = half.new_tensor([square, error])
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
            square, error = largest.tolist()
        # How far a closeness in single, or in double precision of rows in single, lies from that of the exact cosine.
        self.margin = error + cosine_error(self.dim)
        self.fine_margin = square * 2.0**-22 + cosine_error(self.dim)
        self.span = min(2.0, 2 * square + self.margin)  # closeness lies above its negative, up to rounding
        self.num_items = len(labels)

        classes = len(self.sizes)
        queries, searched, both = (
            dense[role].bincount(minlength=classes) for role in (is_query, is_searched, is_query & is_searched)
        )
        # Ordered pairs of a query and another item, less those that two items in both roles form twice.
        self.positives = queries * searched - both - both * (both - 1) // 2
        self.negatives = (
            queries * (searched.sum() - searched) + searched * (queries.sum() - queries) - both * (both.sum() - both)
        )
        self.num_positive, self.num_negative = int(self.positives.sum()), int(self.negatives.sum()) // 2

    # -- what can be asked ------------------------------------------------------------------------------------------

    def counts(self, thresholds: Float[Tensor, " steps"]) -> Counts:
        """Pairs of each class with ``cost <= threshold``; thresholds in increasing order."""
        return self._counts(self._scan(Known(self, thresholds)).histogram, thresholds)

    def accepted_positives(self, costs: Float[Tensor, " levels"]) -> Int[Tensor, " levels"]:
        """Positive pairs of all classes with ``cost <=`` each of ``costs``, in any order."""
        increasing, order = costs.sort()
        found = torch.empty_like(order)
        found[order] = self._accepted_positives(increasing).sum(dim=0)
        return found

    def ahead(self, enough: int) -> Int[Tensor, " items"]:
        """For each of the caller's rows as a query: the items that come before its nearest positive.

        Of items equally near the one with the lower index comes first. Counting ends at ``enough``; a row that is
        no query, or has no positive, gets ``enough``.
        """
        return self._in_callers_order(self._scan(None, enough=enough).ahead)

    def calibrated(
        self, ranks: Sequence[int], grid: Callable[[Tensor], Tensor], enough: int = 0
    ) -> tuple[Float[Tensor, " ranks"], Counts, Int[Tensor, " items"]]:
        """Order statistics, counts at thresholds that depend on them, and :meth:`ahead`, in one pass as a rule.

        Args:
            ranks: Of negative pairs by increasing cost, 1 for the closest.
            grid: Maps the costs of the ranks to thresholds in increasing order, none of which falls when a cost rises.
            enough: See :meth:`ahead`; 0 to skip it.

        Returns:
            The cost of the pair of each rank, to the bit; counts at ``grid`` of these; and ``ahead``.
        """
        certainty, ahead = CERTAINTY, None
        while True:
            low, high = self._predicted(ranks, certainty)
            of_ranks = closeness_at(torch.stack([high, low]), self.axis)
            of_grid = closeness_at(torch.stack([grid(high), grid(low)]), self.axis)

            ends = zones(of_ranks[0], of_ranks[1], self.margin)
            both = torch.cat([of_ranks, of_grid], dim=1)
            every = zones(both[0], both[1], self.margin)
            fused = self._expected(every) <= self._room
            asked = every if fused else ends
            try:
                found = self._scan(asked, enough=0 if ahead is not None else enough)
            except TooMany:
                costs = self._by_counting(ranks)
                ahead = self._scan(None, enough=enough).ahead if ahead is None else ahead
                fused = False
                break
            ahead = found.ahead if ahead is None else ahead
            statistics = self._order_statistics(ranks, asked, found)
            # Elsewhere its zone, or that of a threshold of the grid, could miss it, even if zones that met held it.
            if statistics is not None and bool(((low <= statistics) & (statistics <= high)).all()):
                costs = statistics
                break
            certainty *= 4
        thresholds = grid(costs)
        if fused:
            histogram = self._settled(asked, len(ranks), found, thresholds)
        else:
            histogram = self._scan(Known(self, thresholds)).histogram
        return costs, self._counts(histogram, thresholds), self._in_callers_order(ahead)

    # -- passes -----------------------------------------------------------------------------------------------------

    def _scan(self, asked: Zones | Known | None, enough: int = 0) -> Findings:
        """Read every pair of two classes once.

        Raises:
            TooMany: If zones hold more pairs than can be kept; never with known thresholds, at which pairs are
                counted at once.
        """
        device = self.rows.single.device
        known = asked if isinstance(asked, Known) else None
        zones = asked.zones if isinstance(asked, Known) else asked
        best, nearest = self._nearest_positives() if enough else self._nobody
        near, nearer = (best - 1 - self.margin).float(), (best - 1 + self.margin).float()
        infinity = near.new_tensor(torch.inf)
        edges = zones.edges if zones else near.new_empty(0)
        questions = Questions(edges, near.nextafter(-infinity), nearer.nextafter(infinity), enough)
        places = len(known.thresholds) + 1 if known else len(edges) // 2 + 1
        tops = iter(range(self._rank * self.tile[0], self.num_items, self._world * self.tile[0]))  # shared by threads
        room, stop = [self._room], threading.Event()

        def work() -> Findings:
            kernel = self.kernel(self.rows, questions, self.tile)
            histogram = torch.zeros(len(self.sizes), places, dtype=torch.int64, device=device)
            kept: list[Aside] = []

            def settle(aside: Aside) -> None:
                if len(aside.doubtful):
                    queries = self._confirmed(aside.doubtful, best, nearest)
                    kernel.ahead.index_add_(0, queries, torch.ones_like(queries))
                if known:
                    known.add(aside, histogram)
                elif len(aside.stored):
                    kept.append(aside)
                    room[0] -= len(aside.stored)
                    if room[0] < 0:
                        raise TooMany

            try:
                for top in tops:
                    for aside in kernel.scan(top):
                        settle(aside)
                    if stop.is_set():
                        break
            except BaseException:
                stop.set()
                raise
            passed = known.single.passed if known else torch.arange(places, device=device)
            return Findings(histogram.index_add_(1, passed, kernel.histogram), kernel.ahead, kept)

        full = torch.zeros((), dtype=torch.int64, device=device)
        try:
            parts = self._in_threads(work, stop)
        except TooMany:
            full += 1
        self._share(full)  # all processes give up together, or they would wait for each other
        if full:
            raise TooMany
        histogram, ahead = sum(part.histogram for part in parts), sum(part.ahead for part in parts)
        kept = [aside for part in parts for aside in part.kept]
        self._share(histogram, ahead)
        return Findings(histogram, ahead.clamp(max=enough).masked_fill(best == torch.inf, enough), kept)

    def _in_threads(self, work: Callable[[], Any], stop: threading.Event) -> list[Any]:
        """Results of one call per thread that torch may use; each multiplies alone, or their teams would collide."""
        team = torch.get_num_threads()
        threads = team if self.rows.single.device.type == "cpu" else 1
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # the error bound knows neither TF32 nor bfloat16
        torch.set_num_threads(1)
        try:
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
                futures = [pool.submit(work) for _ in range(threads)]
                try:
                    return [future.result() for future in futures]
                finally:
                    stop.set()
        finally:
            torch.set_num_threads(team)
            torch.set_float32_matmul_precision(precision)

    # -- nearest positives ------------------------------------------------------------------------------------------

    def _strips(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Exact cosines inside the classes: query rows ``(g, q)``, class rows ``(g, n)``, cosines ``(g, q, n)``."""
        if int(self.sizes.square().sum()) > LARGEST_KEPT:
            return self._multiplied_strips()
        return self._kept_strips

    @cached_property
    def _kept_strips(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return list(self._multiplied_strips())

    def _multiplied_strips(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for size in self.sizes[self.sizes > 1].unique().tolist():
            queries = min(size, max(1, STRIP // size))
            together = max(1, STRIP // (size * max(queries, self.dim)))
            for starts in self.starts[self.sizes == size].split(together):
                members = starts[:, None] + torch.arange(size, device=starts.device)
                if size <= SMALL_CLASS:
                    yield members, members, self._inside(members)
                    continue
                rows = self.cosines.rows[members]
                for asking, queried in zip(members.split(queries, dim=1), rows.split(queries, dim=1), strict=True):
                    yield asking, members, exact_products(queried, rows)

    def _inside(self, members: Int[Tensor, "g n"]) -> Float[Tensor, "g n n"]:
        """Exact cosines inside small classes, pair by pair: their rows are too few to be worth splitting."""
        groups, size = members.shape
        first, second = torch.triu_indices(size, size, 1, device=members.device)
        found = self.cosines.pairs(members[:, first].flatten(), members[:, second].flatten()).view(groups, -1)
        cosines = found.new_ones(groups, size, size)
        cosines[:, first, second] = cosines[:, second, first] = found
        return cosines

    def _nearest_positives(self) -> tuple[Tensor, Tensor]:
        """The cosine of each query's nearest positive, infinite if it has none, and that item in the caller's order."""
        best, nearest = self._nobody
        for queries, members, cosines in self._strips():
            cosines = cosines.masked_fill(~self._searched_by(queries, members), -torch.inf)
            highest = cosines.amax(dim=2)
            best[queries] = highest.where(highest > -torch.inf, torch.inf)
            ties = self.order[members][:, None].where(cosines == highest[:, :, None], self.num_items)
            nearest[queries] = ties.amin(dim=2)
        return best, nearest

    @property
    def _nobody(self) -> tuple[Tensor, Tensor]:
        """The same where no query is to be answered."""
        return self.cosines.rows.new_full((self.num_items,), torch.inf), torch.full_like(self.order, -1)

    def _searched_by(self, queries: Tensor, members: Tensor) -> Bool[Tensor, "g q n"]:
        """Which members are in the gallery of which query, ``(g, q)`` and ``(g, n)`` rows."""
        is_query, is_searched = (self.rows.roles & 1).bool(), (self.rows.roles & 2).bool()
        return (queries[:, :, None] != members[:, None]) & is_query[queries][:, :, None] & is_searched[members][:, None]

    def _confirmed(self, doubtful: Tensor, best: Tensor, nearest: Tensor) -> Tensor:
        """Queries of the pairs whose item does come before the nearest positive."""
        query, other = doubtful.long().unbind(1)
        gap = self.rows.closeness(doubtful) - (best[query] - 1)
        sure, open_ = gap > self.fine_margin, gap.abs() <= self.fine_margin
        queries, others = query[open_], other[open_]
        cosines = self.cosines.pairs(queries, others)
        first = (cosines == best[queries]) & (self.order[others] < nearest[queries])
        return torch.cat([query[sure], queries[(cosines > best[queries]) | first]])

    # -- counts -----------------------------------------------------------------------------------------------------

    def _counts(self, histogram: Tensor, thresholds: Tensor) -> Counts:
        """From a histogram of negatives by the number of thresholds that accept them."""
        return Counts(self.positives, self.negatives, self._accepted_positives(thresholds), accepted(histogram))

    def _accepted_positives(self, thresholds: Tensor) -> Int[Tensor, "classes steps"]:
        """Pairs inside each class with ``cost <= threshold``."""
        histogram = torch.zeros(len(self.sizes), len(thresholds) + 1, dtype=torch.int64, device=thresholds.device)
        known = Known(self, thresholds)
        for queries, members, cosines in self._strips():
            once = (members[:, None] > queries[:, :, None]) & (
                self._searched_by(queries, members) | self._searched_by(members, queries).mT
            )
            classes = self.rows.classes[queries][:, :, None].expand_as(once)[once]
            count(histogram, classes, known.exactly(cosines[once]))
        return accepted(histogram)

    def _settled(self, asked: Zones, skipped: int, found: Findings, thresholds: Tensor) -> Tensor:
        """The histogram of a pass, by known thresholds in place of the zones they were predicted to lie in."""
        known = Known(self, thresholds)
        passed = Zones(asked.edges, asked.of[skipped:]).passed()  # by the grid; the zones of the ranks come first
        histogram = found.histogram.new_zeros(len(self.sizes), len(thresholds) + 1)
        kept = iter(found.kept)

        def work() -> Tensor:
            own = torch.zeros_like(histogram)
            for aside in kept:
                known.add(aside, own)
            return own

        settled = sum(self._in_threads(work, threading.Event()))
        self._share(settled)
        return histogram.index_add_(1, passed, found.histogram) + settled

    # -- thresholds that are found ----------------------------------------------------------------------------------

    def _predicted(self, ranks: Sequence[int], certainty: float) -> tuple[Tensor, Tensor]:
        """Costs between which each rank lies, unless the sample is off by ``certainty`` standard deviations."""
        upto = self._sample.flip(0).cumsum(0).double()
        size = float(upto[-1])
        share = upto.new_tensor(ranks) / self.num_negative
        spread = certainty * (size * share * (1 - share)).sqrt() + 1
        place = torch.stack([share * size - spread, share * size + spread])
        bins = torch.searchsorted(upto, place) + place.new_tensor([[-1], [2]])  # outer ends, and one for rounding
        # The outermost lie outside of what pairs have. What counts as identical lies beyond the sample's place for it.
        cosine = 1 - bins * (self.span / SAMPLE_BINS) + place.new_tensor([[1], [-1]]) * cosine_error(self.dim)
        low, high = cost_of(cosine, self.axis)
        return low, high

    def _expected(self, asked: Zones) -> float:
        """Pairs that a pass of this process will put aside."""
        bins = ((asked.edges.double() / self.span + 1) * SAMPLE_BINS).long().clamp(0, SAMPLE_BINS - 1)
        below = torch.cat([self._sample.new_zeros(1), self._sample.cumsum(0)])
        inside = (below[bins[1::2] + 1] - below[bins[::2]]).sum()
        return float(inside / self._sample.sum()) * self.num_negative / self._world

    @cached_property
    def _sample(self) -> Int[Tensor, " bins"]:
        """An even histogram from ``-span`` to 0 of the closeness of some pairs of two classes.

        Rows are shuffled and cut into blocks; each block meets the same number of others, so that every item has
        nearly the same weight.
        """
        order = torch.randperm(self.num_items, generator=torch.Generator().manual_seed(0)).to(self.order.device)
        columns = ("single", "half", "classes", "roles")
        shuffled = self.rows._replace(**{name: getattr(self.rows, name)[order] for name in columns})
        starts = range(0, self.num_items, self.tile[0])
        share = max(SAMPLE_SHARE, SMALLEST_SAMPLE / (self.num_positive + self.num_negative))
        offsets = range(1, min(len(starts) // 2, int(share * len(starts) / 2) + 1) + 1) or (0,)
        pairs = [(a, (a + offset) % len(starts)) for offset in offsets for a in range(len(starts))]
        own = iter(pairs[self._rank :: self._world])

        def work() -> Tensor:
            histogram = torch.zeros(SAMPLE_BINS, dtype=torch.int64, device=self.order.device)
            for ends in own:
                first, second = (slice(starts[end], starts[end] + self.tile[0]) for end in ends)
                self.kernel.sample(shuffled, first, second, self.span, histogram)
            return histogram

        histogram = sum(self._in_threads(work, threading.Event()))
        self._share(histogram)
        return histogram

    def _order_statistics(self, ranks: Sequence[int], asked: Zones, found: Findings) -> Tensor | None:
        """Cost of the pair of each rank; None if one lies outside the zone where it was predicted."""
        cosines = []
        for number, rank in enumerate(ranks):
            zone = int(asked.of[number])
            ends = asked.edges[2 * zone : 2 * zone + 2]
            above, values = self._between(found.kept, *ends)
            rank -= above + int(found.histogram[:, zone + 1 :].sum()) // 2
            if not 0 < rank <= len(values):
                return None
            cosines.append(self._ranked(found.kept, ends, values, rank))
        return cost_of(torch.stack(cosines), self.axis)

    def _ranked(self, kept: Sequence[Aside], zone: Tensor, values: Tensor, rank: int) -> Tensor:
        """The exact cosine of the pair of this rank, 1 for the highest, in the zone that has these float32 ones."""
        # No cosine moves by more than the margin, hence no order statistic does; those beyond the zone do not count.
        low, high = _around(_highest(values, rank), self.margin)
        low, high = low.maximum(zone[0]), high.minimum(zone[1])
        rank -= int((values > high).sum())
        pairs = self._between(kept, low, high, pairs=True)[1]
        values = self.rows.closeness(pairs)
        low, high = _around(_highest(values, rank), self.fine_margin)
        rank -= int((values > high).sum())
        left = pairs[(values >= low) & (values <= high)].long()
        return _highest(self.cosines.pairs(*left.unbind(1)), rank)

    def _between(self, kept: Sequence[Aside], low: Tensor, high: Tensor, pairs: bool = False) -> tuple[int, Tensor]:
        """How many stored pairs of all processes lie above ``high``; those from ``low`` to it, or their closeness."""
        parts = iter(kept)

        def work() -> list[tuple[int, Tensor]]:
            found = []
            for aside in parts:
                above, entries = self.kernel.between(aside.values, low, high)
                found.append((above, aside.pairs(self.num_items, entries) if pairs else aside.values[entries]))
            return found

        found = [part for thread in self._in_threads(work, threading.Event()) for part in thread]
        above = self.order.new_tensor([sum(part[0] for part in found)])
        self._share(above)
        empty = self.rows.later.new_empty(0, 2) if pairs else self.rows.single.new_empty(0)
        return int(above), self._gathered(torch.cat([empty, *(part[1] for part in found)]))

    def _by_counting(self, ranks: Sequence[int]) -> Tensor:
        """Order statistics where too many pairs lie too close: by counting at ever closer thresholds.

        A float's bits, read as an integer, sort as the float does; each pass divides the interval by ``STEPS``.
        """
        # Python's integers: the bits of the two ends are further apart than an int64 can say.
        lowest, highest = _ordered_bits(torch.tensor([-2.0, 3.0], dtype=torch.float64)).tolist()
        # Fewer pairs than the rank cost `below` or less, enough cost `upto` or less.
        intervals = dict.fromkeys(ranks, (lowest, highest))
        while any(upto - below > 1 for below, upto in intervals.values()):
            points = sorted(
                {
                    below + (upto - below) * step // STEPS
                    for below, upto in intervals.values()
                    for step in range(STEPS + 1)
                }
            )
            thresholds = _from_ordered_bits(torch.tensor(points, device=self.order.device))
            reached = accepted(self._scan(Known(self, thresholds)).histogram).sum(dim=0) // 2
            for rank in ranks:
                place = int(torch.searchsorted(reached, rank))
                intervals[rank] = points[place - 1], points[place]
        return _from_ordered_bits(torch.tensor([intervals[rank][1] for rank in ranks], device=self.order.device))

    # -- processes --------------------------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """How many pairs may be put aside."""
        return min(STORED_PER_ITEM * self.num_items, LARGEST_STORE)

    @property
    def _rank(self) -> int:
        return dist.get_rank(self.group) if self.group else 0

    @property
    def _world(self) -> int:
        return dist.get_world_size(self.group) if self.group else 1

    def _share(self, *counts: Tensor) -> None:
        """Sum over the processes, in place."""
        if self.group:
            for count in counts:
                dist.all_reduce(count, group=self.group)

    def _gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes."""
        if not self.group:
            return rows
        lengths = rows.new_zeros(self._world, dtype=torch.int64)
        lengths[self._rank] = len(rows)
        self._share(lengths)
        padded = rows.new_zeros(int(lengths.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self._world)]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)])

    def _in_callers_order(self, values: Tensor) -> Tensor:
        result = torch.empty_like(values)
        result[self.order] = values
        return result


def _kernel_for(device: torch.device) -> type[CompiledKernel] | type[TensorKernel]:
    if device.type != "cpu":
        return TensorKernel
    return HalvesKernel if halves.available() else CompiledKernel


def _less_the_common(rows: Float[Tensor, "items dim"]) -> tuple[Float[Tensor, "items dim"], Float[Tensor, " items"]]:
    """Unit rows less their mean, if that shortens the longest, in float32, and half the square of what is left."""
    common = rows.mean(dim=0) if len(rows) else rows.new_zeros(rows.shape[1])
    if not len(rows) or float((rows @ common).min()) * 2 <= float(common.square().sum()):
        common = torch.zeros_like(common)
    single, half = torch.empty_like(rows, dtype=torch.float32), rows.new_empty(len(rows))
    for part, out, norm in zip(rows.split(BLOCK), single.split(BLOCK), half.split(BLOCK), strict=True):
        rest = part - common
        # Products of tiny numbers would be denormal, and slow.
        out.copy_(torch.nn.functional.hardshrink(rest, 1e-18))
        norm.copy_(rest.square().sum(dim=1) / 2)
    return single, half


def check_set(embeddings: Tensor, labels: Tensor, query: Tensor | None, gallery: Tensor | None) -> None:
    """Refuse embeddings, labels and roles that do not go together.

    Raises:
        ValueError: See above.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (items, dim) and labels (items,), "
            f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    for name, role in {"query": query, "gallery": gallery}.items():
        if role is not None and (role.dtype != torch.bool or role.shape != labels.shape):
            raise ValueError(
                f"{name} must say true or false of each of the {len(labels)} items, "
                f"got {role.dtype} {tuple(role.shape)}"
            )


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
