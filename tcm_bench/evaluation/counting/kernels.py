"""What is done to one tile of cosines: by compiled loops on a CPU, by tensor operations on any device.

Both answer the same questions and both are exact about what they leave open, so their counts are equal.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.cosine import halves_error, single_error

PAIRS_AT_ONCE = 2**16
PAIRS_ASIDE = 2**20


class Rows(NamedTuple):
    """A set whose rows are sorted by class.

    The closeness of two rows is their cosine less 1, from -2 to 0: the product of what is left of them once a common
    vector is taken off, less half the square of both norms. Where all rows lie close together, little is left, and
    its rounding is as small.

    Attributes:
        single: What is left of the unit rows in float32.
        factors: The same as a kernel multiplies it.
        half: float64, half the square of its norm.
        classes: int32, class of each row as a dense index.
        later: int32, for each row the first row of a later class.
        roles: int8, 1 for a query, 2 for an item of the gallery, 3 for both. Two rows are a pair if one may be
            the query and the other is in the gallery.
    """

    single: Float[Tensor, "items dim"]
    factors: Tensor
    half: Float[Tensor, " items"]
    classes: Int[Tensor, " items"]
    later: Int[Tensor, " items"]
    roles: Int[Tensor, " items"]

    def meet(self, queries: Tensor | slice, gallery: Tensor | slice) -> Bool[Tensor, "queries gallery"]:
        """Which of the rows ``queries`` is a query, each with which of the rows ``gallery`` is in the gallery."""
        return (self.roles[queries] & 1).bool()[:, None] & (self.roles[gallery] & 2).bool()

    def closeness(self, pairs: Int[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Closeness of the two rows of each pair, calculated in float64."""
        if self.single.device.type == "cpu":
            from tcm_bench.evaluation.counting import compiled

            out = np.empty(len(pairs))
            compiled.closeness(self.single.numpy(), self.half.numpy(), pairs.numpy(), out)
            return torch.from_numpy(out)
        found = []
        for first, second in (part.long().unbind(1) for part in pairs.split(PAIRS_AT_ONCE)):
            product = (self.single[first].double() * self.single[second].double()).sum(dim=1)
            found.append(product - self.half[first] - self.half[second])
        return torch.cat(found) if found else self.single.new_empty(0, dtype=torch.float64)


def count(histogram: Int[Tensor, "classes places"], classes: Tensor, places: Tensor) -> None:
    """Add one to the histogram at each class and place."""
    cell = classes.long() * histogram.shape[1] + places
    # Not by a histogram of its own: for a few pairs that would cost more than all the rest.
    histogram.view(-1).index_add_(0, cell, torch.ones_like(cell))


class Questions(NamedTuple):
    """What a pass asks of every pair of two classes, on the axis of closeness.

    Attributes:
        edges: Increasing ends of disjoint zones, two a zone, in which a threshold may lie. A pair outside all of
            them is counted by the zones below it, one inside is put aside.
        near: For each item as a query the single-precision closeness from which another item may come before its
            nearest positive; infinite to ask nothing.
        nearer: That above which it certainly does.
        enough: How many items before the nearest positive are told apart: any more are as many.
    """

    edges: Float[Tensor, " edges"]
    near: Float[Tensor, " items"]
    nearer: Float[Tensor, " items"]
    enough: int


class Aside(NamedTuple):
    """Pairs of a strip that single precision does not decide.

    Attributes:
        top: The strip's first row.
        stored: int32, pairs inside a zone: the row in the strip and, in the lower :func:`column_bits`, the column.
        values: float32, their closeness.
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


class Scale(NamedTuple):
    """Known thresholds on the axis of closeness, as far as a precision can tell.

    Attributes:
        edges: Increasing ends of the disjoint zones in which it cannot, two a zone.
        passed: For each number of zones below a pair, the thresholds below it.
    """

    edges: Float[Tensor, " edges"]
    passed: Int[Tensor, " places"]


class Buffers(NamedTuple):
    """What a thread writes to, beside its counts.

    Compiled code takes it as a plain tuple: numba's cache would name this class, and fail where an old one does.

    Attributes:
        product: float32, room for one tile.
        stored: int32 ``(capacity,)``: pairs inside a zone, as in `Aside`.
        values: float32 ``(capacity,)``: their closeness.
        doubtful: int32 ``(capacity, 2)``: query and item that a tile does not decide.
        filled: int64 ``(2,)``: entries of ``stored`` and of ``doubtful`` in use.
        asked: uint8, room for a row of a tile, 64 columns a step: whether anything is asked of a column.
        picked: int32, the same room: the columns of which something is asked.
        floors: float32 ``(4, width)``: by a row's role the closeness from which it is counted with a column.
        counts: int32 ``(width, zones + 1)``: what a tile adds to the classes of its columns.
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
        histogram: int64 ``(classes, zones + 1)``: pairs of each class by the zones below them; those below
            all zones are not counted.
        ahead: int64 ``(items,)``: items certainly before each query's nearest positive, up to ``enough``.
    """

    tile: ClassVar = (512, 512)
    grain: ClassVar = 1

    @staticmethod
    def factors(single: Tensor, largest: float) -> tuple[Tensor, float]:
        """The rows as they are multiplied, and how far the closeness of two may then be off.

        Args:
            single: float32 ``(items, dim)``.
            largest: The largest norm of a row.
        """
        from scipy.linalg import cython_blas  # noqa: F401  numba multiplies by it: loaded before its threads are limited

        return single, single_error(single.shape[1], largest)

    def __init__(self, rows: Rows, questions: Questions, tile: tuple[int, int]) -> None:
        from tcm_bench.evaluation.counting import compiled as loops  # compiled on first use

        self._loops, self._tile = loops, (tile[0], _upwards(tile[1], self.grain))
        self._rows = rows.factors.numpy(), rows.half.float().numpy()
        self._labels = rows.later.numpy(), rows.classes.numpy(), rows.roles.numpy()
        edges = loops.cells(questions.edges.numpy())
        near, nearer = questions.near.clone().numpy(), questions.nearer.numpy()
        self.histogram = torch.zeros(int(rows.classes[-1]) + 1, len(questions.edges) // 2 + 1, dtype=torch.int64)
        self.ahead = torch.zeros(len(rows.classes), dtype=torch.int64)
        self._asked = edges, near, nearer, questions.enough, self.histogram.numpy(), self.ahead.numpy()
        self._buffers = self._empty()

    @staticmethod
    def sample(rows: Rows, first: slice, second: slice, span: float, histogram: Tensor) -> None:
        """Add the negative pairs of ``first`` and ``second`` to an even histogram of closeness from ``-span`` to 0."""
        from tcm_bench.evaluation.counting import compiled as loops

        tile = rows.single[first] @ rows.single[second].T
        labels = rows.half.float().numpy(), rows.classes.numpy(), rows.roles.numpy()
        loops.sample_tile(tile.numpy(), first.start, second.start, *labels, np.float32(span), histogram.numpy())

    @staticmethod
    def settle(rows: Rows, aside: Aside, single: Scale, double: Scale, histogram: Tensor) -> Tensor:
        """Add stored pairs to a histogram by the thresholds below them; return those that neither precision decides."""
        from tcm_bench.evaluation.counting import compiled as loops

        left_over = np.empty((len(aside.stored) + 1, 2), dtype=np.int32)
        left = loops.settle(
            rows.single.numpy(),
            rows.half.numpy(),
            rows.classes.numpy(),
            aside.top,
            aside.stored.numpy(),
            aside.values.numpy(),
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

    def scan(self, top: int) -> Iterator[Aside]:
        """Count the pairs of a strip of rows with those to the right; yields what it puts aside, in parts."""
        items = len(self._labels[0])
        left = int(self._labels[0][top]) // self.grain * self.grain
        while left < items:
            strip = *self._rows, self._labels, top, left, self._tile
            left = self._loops.scan_strip(*strip, *self._asked, tuple(self._buffers))
            stored, doubtful = self._buffers.filled.tolist()
            found = self._buffers.stored[:stored], self._buffers.values[:stored], self._buffers.doubtful[:doubtful]
            if stored or doubtful:
                self._buffers = self._empty()
            yield Aside(top, *map(torch.from_numpy, found))

    def _empty(self) -> Buffers:
        height, width = _upwards(self._tile[0], self.grain), self._tile[1]
        area, row = height * width, (width + 63) // 64 * 64
        capacity = max(2 * area, PAIRS_ASIDE)
        return Buffers(
            product=np.empty(area, dtype=np.float32),
            stored=np.empty(capacity, dtype=np.int32),
            values=np.empty(capacity, dtype=np.float32),
            doubtful=np.empty((capacity, 2), dtype=np.int32),
            filled=np.zeros(2, dtype=np.int64),
            asked=np.zeros(row, dtype=np.uint8),
            picked=np.empty(row, dtype=np.int32),
            floors=np.empty((4, width), dtype=np.float32),
            counts=np.empty((width, self.histogram.shape[1]), dtype=np.int32),
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


class TensorKernel:
    """The same by operations on whole tensors, for a GPU; see :class:`CompiledKernel`."""

    tile: ClassVar = (8192, 8192)
    factors = staticmethod(CompiledKernel.factors)

    def __init__(self, rows: Rows, questions: Questions, tile: tuple[int, int]) -> None:
        self._rows, self._questions, self._tile = rows, questions, tile
        self.histogram = rows.later.new_zeros(
            int(rows.classes[-1]) + 1, len(questions.edges) // 2 + 1, dtype=torch.int64
        )
        self.ahead = rows.later.new_zeros(len(rows.classes), dtype=torch.int64)

    @staticmethod
    def sample(rows: Rows, first: slice, second: slice, span: float, histogram: Tensor) -> None:
        """Add the negative pairs of ``first`` and ``second`` to an even histogram of closeness from ``-span`` to 0."""
        tile = _tile(rows, first, second)
        met = rows.meet(first, second) | rows.meet(second, first).T
        values = tile[met & (rows.classes[first, None] != rows.classes[second])]
        cell = ((values / span + 1) * (len(histogram) - 1)).clamp(0, len(histogram) - 1).long()
        histogram += cell.bincount(minlength=len(histogram))

    @staticmethod
    def settle(rows: Rows, aside: Aside, single: Scale, double: Scale, histogram: Tensor) -> Tensor:
        """Add stored pairs to a histogram by the thresholds below them; return those that neither precision decides."""
        place = torch.bucketize(aside.values, single.edges, right=True)
        bucket = single.passed[place >> 1]
        doubtful = (place & 1).nonzero()[:, 0]
        pairs = aside.pairs(len(rows.single))
        place = torch.bucketize(rows.closeness(pairs[doubtful]), double.edges, right=True)
        bucket[doubtful] = double.passed[place >> 1]
        left_over = doubtful[(place & 1).bool()]
        decided = torch.ones_like(bucket, dtype=torch.bool)
        decided[left_over] = False
        for end in pairs[decided].unbind(1):
            count(histogram, rows.classes[end.long()], bucket[decided])
        return pairs[left_over]

    @staticmethod
    def between(values: Tensor, low: Tensor, high: Tensor) -> tuple[int, Tensor]:
        """How many values lie above ``high``, and which lie from ``low`` to it."""
        return int((values > high).sum()), ((values >= low) & (values <= high)).nonzero()[:, 0]

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self._rows.classes), dtype=torch.int32, device=self._rows.classes.device)

    def scan(self, top: int) -> Iterator[Aside]:
        """Count the pairs of a strip of rows with those to the right; yields what each tile puts aside."""
        for left in range(int(self._rows.later[top]), len(self._rows.later), self._tile[1]):
            yield self._scan_tile(top, left)

    def _scan_tile(self, top: int, left: int) -> Aside:
        _, near, nearer, enough = self._questions
        rows, columns = slice(top, top + self._tile[0]), slice(left, left + self._tile[1])
        tile = _tile(self._rows, rows, columns)
        tile.masked_fill_(self._numbers[columns] < self._rows.later[rows, None], -torch.inf)
        forward, backward = self._rows.meet(rows, columns), self._rows.meet(columns, rows)
        inside, values = self._count(tile.masked_fill(~(forward | backward.T), -torch.inf), rows, columns)
        stored = inside[0] << column_bits(len(self._numbers)) | left + inside[1]
        doubtful = []
        for query, other, both_ways, met in ((rows, columns, tile, forward), (columns, rows, tile.T, backward)):
            asked = (self.ahead[query] < enough)[:, None]
            closeness = both_ways.masked_fill(~met, -torch.inf)
            certain = closeness > nearer[query, None]
            doubt = asked & (closeness >= near[query, None]) & ~certain
            self.ahead[query] += certain.sum(dim=1) * asked[:, 0]
            doubtful.append(self._pairs(doubt, query, other))
        return Aside(top, stored.int(), values, torch.cat(doubtful))

    def _count(self, tile: Tensor, rows: slice, columns: slice) -> tuple[tuple[Tensor, ...], Tensor]:
        """Add to the histogram; return the entries inside a zone and their closeness."""
        if not len(self._questions.edges):
            return torch.zeros_like(tile, dtype=torch.bool).nonzero(as_tuple=True), tile.new_empty(0)
        place = torch.bucketize(tile, self._questions.edges, right=True, out_int32=True)
        inside = (place & 1).bool()
        first, second = ((place > 0) & ~inside).nonzero(as_tuple=True)
        zones = place[first, second].long() >> 1
        for ends, numbers in ((rows, first), (columns, second)):
            count(self.histogram, self._rows.classes[ends][numbers], zones)
        return inside.nonzero(as_tuple=True), tile[inside]

    def _pairs(self, chosen: Tensor, rows: slice, columns: slice) -> Tensor:
        first, second = chosen.nonzero(as_tuple=True)
        return torch.stack([self._numbers[rows][first], self._numbers[columns][second]], dim=1)


def _upwards(number: int, grain: int) -> int:
    return -(-number // grain) * grain


def _tile(rows: Rows, first: slice, second: slice) -> Float[Tensor, "first second"]:
    """Closeness in single precision."""
    half = rows.half.float()
    return rows.single[first] @ rows.single[second].T - half[first, None] - half[second]
