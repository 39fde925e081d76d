"""What is done to one tile of cosines by compiled loops on a CPU; `tensor_kernel` does the same on any device.

All kernels answer the same request and are exact about what they leave open, so their counts are equal.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.cosine import halves_error, single_error
from tcm_bench.evaluation.counting.thresholds import BinEdges

PAIRS_AT_ONCE = 2**16
PAIRS_DEFERRED = 2**20


class Rows(NamedTuple):
    """A set whose rows are sorted by class.

    The cosine minus one of two rows, from -2 to 0, is the product of what is left of them once a common vector is
    taken off, less half the square of both norms. Where all rows lie close together, little is left, and its rounding
    is as small.

    Attributes:
        single: What is left of the unit rows in float32.
        factors: The same as a kernel multiplies it.
        half: float64, half the square of its norm.
        groups: int32, the half of its class that each row is in: twice the class's dense index, plus 0 or 1.
        later: int32, for each row the first row of a later class.
        roles: int8, 1 for a query, 2 for an item of the gallery, 3 for both. Two rows are a pair if one may be
            the query and the other is in the gallery.
    """

    single: Float[Tensor, "items dim"]
    factors: Tensor
    half: Float[Tensor, " items"]
    groups: Int[Tensor, " items"]
    later: Int[Tensor, " items"]
    roles: Int[Tensor, " items"]

    @property
    def num_groups(self) -> int:
        """Two for each class."""
        return 2 * (int(self.groups[-1]) // 2 + 1)

    def meet(self, queries: Tensor | slice, gallery: Tensor | slice) -> Bool[Tensor, "queries gallery"]:
        """Which of the rows ``queries`` is a query, each with which of the rows ``gallery`` is in the gallery."""
        return (self.roles[queries] & 1).bool()[:, None] & (self.roles[gallery] & 2).bool()

    def cosine_minus_one(self, pairs: Int[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Of the two rows of each pair, calculated in float64."""
        if self.single.device.type == "cpu":
            from tcm_bench.evaluation.counting import compiled

            out = np.empty(len(pairs))
            compiled.cosine_minus_one(self.single.numpy(), self.half.numpy(), pairs.numpy(), out)
            return torch.from_numpy(out)
        found = []
        for first, second in (part.long().unbind(1) for part in pairs.split(PAIRS_AT_ONCE)):
            product = (self.single[first].double() * self.single[second].double()).sum(dim=1)
            found.append(product - self.half[first] - self.half[second])
        return torch.cat(found) if found else self.single.new_empty(0, dtype=torch.float64)


def count(histogram: Int[Tensor, "rows places"], rows: Tensor, places: Tensor) -> None:
    """Add one to the histogram at each row and place."""
    cell = rows.long() * histogram.shape[1] + places
    # Not by a histogram of its own: for a few pairs that would cost more than all the rest.
    histogram.view(-1).index_add_(0, cell, torch.ones_like(cell))


class ScanRequest(NamedTuple):
    """What a pass asks of every pair of two classes, on the axis of the cosine minus one.

    Attributes:
        edges: Increasing ends of disjoint intervals, two an interval, in which a threshold may lie. A pair outside
            all of them is counted by the intervals below it, one inside is deferred.
        maybe_above: For each item as a query the float32 value from which another item may come before its nearest
            positive; infinite to ask nothing.
        surely_above: That above which it certainly does.
        max_rank: How many items before the nearest positive are told apart: any more are as many.
    """

    edges: Float[Tensor, " edges"]
    maybe_above: Float[Tensor, " items"]
    surely_above: Float[Tensor, " items"]
    max_rank: int


class DeferredPairs(NamedTuple):
    """Pairs of a strip that float32 does not decide.

    Attributes:
        top: The strip's first row.
        stored: int32, pairs inside an interval: the row in the strip and, in the lower :func:`column_bits`, the column.
        values: float32, their cosines minus one.
        doubtful: int32, a query and the item that may come before its nearest positive.
    """

    top: int
    stored: Int[Tensor, " stored"]
    values: Float[Tensor, " stored"]
    doubtful: Int[Tensor, "doubtful 2"]

    def pairs(self, items: int, entries: Tensor | slice = slice(None)) -> Int[Tensor, "entries 2"]:
        """Both rows of stored pairs of a set of so many items."""
        stored, bits = self.stored[entries], column_bits(items)
        return torch.stack([self.top + (stored >> bits), stored & (1 << bits) - 1], dim=1)


def column_bits(items: int) -> int:
    """Bits that a column takes."""
    return items.bit_length()


class Buffers(NamedTuple):
    """What a thread writes to, beside its counts.

    Compiled code takes it as a plain tuple: numba's cache would name this class, and fail where an old one does.

    Attributes:
        product: float32, room for one tile.
        stored: int32 ``(capacity,)``: pairs inside an interval, as in `DeferredPairs`.
        values: float32 ``(capacity,)``: their cosines minus one.
        doubtful: int32 ``(capacity, 2)``: query and item that a tile does not decide.
        filled: int64 ``(2,)``: entries of ``stored`` and of ``doubtful`` in use.
        asked: uint8, room for a row of a tile, 64 columns a step: whether anything is asked of a column.
        picked: int32, the same room: the columns of which something is asked.
        floors: float32 ``(4, width)``: by a row's role the value from which it is counted with a column.
        counts: int32 ``(2 * width, intervals + 1)``: what a tile adds to the groups of its columns' classes.
    """

    product: np.ndarray
    stored: np.ndarray
    values: np.ndarray
    doubtful: np.ndarray
    filled: np.ndarray
    asked: np.ndarray
    picked: np.ndarray
    floors: np.ndarray
    counts: np.ndarray


class CompiledKernel:
    """Loops over a tile in cache; one object a thread.

    Attributes:
        tile: Rows and columns that are multiplied at once unless others are asked for.
        grain: Columns begin at multiples of it.
        histogram: int64 ``(groups, intervals + 1)``: pairs of each group by the intervals below them; those below
            all intervals are not counted.
        rank_of_first_positive: int64 ``(items,)``: items surely before each query's nearest positive, up to
            ``max_rank``.
    """

    tile: ClassVar = (512, 512)
    grain: ClassVar = 1

    @staticmethod
    def factors(single: Tensor, largest: float) -> tuple[Tensor, float]:
        """The rows as they are multiplied, and how far a cosine minus one may then be off.

        Args:
            single: float32 ``(items, dim)``.
            largest: The largest norm of a row.
        """
        from scipy.linalg import cython_blas  # noqa: F401  numba multiplies by it: loaded before its threads are limited

        return single, single_error(single.shape[1], largest)

    def __init__(self, rows: Rows, request: ScanRequest, tile: tuple[int, int]) -> None:
        from tcm_bench.evaluation.counting import compiled as loops  # compiled on first use

        self._loops, self._tile = loops, (tile[0], _upwards(tile[1], self.grain))
        self._rows = rows.factors.numpy(), rows.half.float().numpy()
        self._labels = rows.later.numpy(), rows.groups.numpy(), rows.roles.numpy()
        edges = loops.cells(request.edges.numpy())
        maybe_above, surely_above = request.maybe_above.clone().numpy(), request.surely_above.numpy()
        self.histogram = torch.zeros(rows.num_groups, len(request.edges) // 2 + 1, dtype=torch.int64)
        self.rank_of_first_positive = torch.zeros(len(rows.groups), dtype=torch.int64)
        self._asked = (
            edges,
            maybe_above,
            surely_above,
            request.max_rank,
            self.histogram.numpy(),
            self.rank_of_first_positive.numpy(),
        )
        self._buffers = self._empty()

    @staticmethod
    def sample(rows: Rows, first: slice, second: slice, span: float, histogram: Tensor) -> None:
        """Add the negative pairs of ``first`` and ``second`` to an even histogram from ``-span`` to 0."""
        from tcm_bench.evaluation.counting import compiled as loops

        tile = rows.single[first] @ rows.single[second].T
        labels = rows.half.float().numpy(), rows.later.numpy(), rows.roles.numpy()
        loops.sample_tile(tile.numpy(), first.start, second.start, *labels, np.float32(span), histogram.numpy())

    @staticmethod
    def settle(rows: Rows, deferred: DeferredPairs, single: BinEdges, double: BinEdges, histogram: Tensor) -> Tensor:
        """Add stored pairs to a histogram by the thresholds below them; return those that neither precision decides."""
        from tcm_bench.evaluation.counting import compiled as loops

        left_over = np.empty((len(deferred.stored) + 1, 2), dtype=np.int32)
        left = loops.settle(
            rows.single.numpy(),
            rows.half.numpy(),
            rows.groups.numpy(),
            deferred.top,
            deferred.stored.numpy(),
            deferred.values.numpy(),
            loops.cells(single.edges.numpy()),
            single.passed.numpy(),
            double.edges.numpy(),
            double.passed.numpy(),
            histogram.numpy(),
            left_over,
        )
        return torch.from_numpy(left_over[:left])

    @staticmethod
    def between(values: Tensor, low: Tensor, high: Tensor) -> tuple[int, Tensor]:
        """How many values lie above ``high``, and which lie from ``low`` to it."""
        from tcm_bench.evaluation.counting import compiled as loops

        entries = np.empty(len(values) + 1, dtype=np.int64)
        above, inside = loops.between(values.numpy(), np.float32(low), np.float32(high), entries)
        return above, torch.from_numpy(entries[:inside])

    def scan(self, top: int) -> Iterator[DeferredPairs]:
        """Count the pairs of a strip of rows with those to the right; yields what it defers, in parts."""
        items = len(self._labels[0])
        left = int(self._labels[0][top]) // self.grain * self.grain
        while left < items:
            strip = *self._rows, self._labels, top, left, self._tile
            left = self._loops.scan_strip(*strip, *self._asked, tuple(self._buffers))
            stored, doubtful = self._buffers.filled.tolist()
            found = self._buffers.stored[:stored], self._buffers.values[:stored], self._buffers.doubtful[:doubtful]
            if stored or doubtful:
                self._buffers = self._empty()
            yield DeferredPairs(top, *map(torch.from_numpy, found))

    def _empty(self) -> Buffers:
        height, width = _upwards(self._tile[0], self.grain), self._tile[1]
        area, row = height * width, (width + 63) // 64 * 64
        capacity = max(2 * area, PAIRS_DEFERRED)
        return Buffers(
            product=np.empty(area, dtype=np.float32),
            stored=np.empty(capacity, dtype=np.int32),
            values=np.empty(capacity, dtype=np.float32),
            doubtful=np.empty((capacity, 2), dtype=np.int32),
            filled=np.zeros(2, dtype=np.int64),
            asked=np.zeros(row, dtype=np.uint8),
            picked=np.empty(row, dtype=np.int32),
            floors=np.empty((4, width), dtype=np.float32),
            counts=np.empty((2 * width, self.histogram.shape[1]), dtype=np.int32),
        )


class HalvesKernel(CompiledKernel):
    """The same with products of bfloat16 halves, for processors that have an instruction for them."""

    grain: ClassVar = halves.GRAIN
    blocks: ClassVar = np.uint32  # multiplied by the instruction; np.int32: by loops that say what it does

    @classmethod
    def factors(cls, single: Tensor, largest: float) -> tuple[Tensor, float]:
        """See :meth:`CompiledKernel.factors`."""
        blocks = halves.empty_blocks(*single.shape)
        low, rest = halves.pack(single.numpy(), blocks)
        return torch.from_numpy(blocks.view(cls.blocks)), halves_error(single.shape[1], largest, low, rest)


def _upwards(number: int, grain: int) -> int:
    return -(-number // grain) * grain
