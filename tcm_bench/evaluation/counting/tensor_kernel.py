"""What is done to one tile by operations on whole tensors: for a GPU, and on any device the plainest to read."""

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tcm_bench.evaluation.counting.kernels import CompiledKernel, DeferredPairs, Rows, ScanRequest, column_bits, count
from tcm_bench.evaluation.counting.thresholds import BinEdges


class TensorKernel:
    """See :class:`~tcm_bench.evaluation.counting.kernels.CompiledKernel`, whose answers these are."""

    tile: ClassVar = (8192, 8192)
    factors = staticmethod(CompiledKernel.factors)

    def __init__(self, rows: Rows, request: ScanRequest, tile: tuple[int, int]) -> None:
        self._rows, self._request, self._tile = rows, request, tile
        self.histogram = rows.later.new_zeros(rows.num_groups, len(request.edges) // 2 + 1, dtype=torch.int64)
        self.rank_of_first_positive = rows.later.new_zeros(len(rows.groups), dtype=torch.int64)

    @staticmethod
    def sample(rows: Rows, first: slice, second: slice, span: float, histogram: Tensor) -> None:
        """Add the negative pairs of ``first`` and ``second`` to an even histogram from ``-span`` to 0."""
        tile = _tile(rows, first, second)
        met = rows.meet(first, second) | rows.meet(second, first).T
        values = tile[met & (rows.later[first, None] != rows.later[second])]
        cell = ((values / span + 1) * (len(histogram) - 1)).clamp(0, len(histogram) - 1).long()
        histogram += cell.bincount(minlength=len(histogram))

    @staticmethod
    def settle(rows: Rows, deferred: DeferredPairs, single: BinEdges, double: BinEdges, histogram: Tensor) -> Tensor:
        """Add stored pairs to a histogram by the thresholds below them; return those that neither precision decides."""
        place = torch.bucketize(deferred.values, single.edges, right=True)
        bucket = single.passed[place >> 1]
        doubtful = (place & 1).nonzero()[:, 0]
        pairs = deferred.pairs(len(rows.single))
        place = torch.bucketize(rows.cosine_minus_one(pairs[doubtful]), double.edges, right=True)
        bucket[doubtful] = double.passed[place >> 1]
        left_over = doubtful[(place & 1).bool()]
        decided = torch.ones_like(bucket, dtype=torch.bool)
        decided[left_over] = False
        for end in pairs[decided].unbind(1):
            count(histogram, rows.groups[end.long()], bucket[decided])
        return pairs[left_over]

    @staticmethod
    def between(values: Tensor, low: Tensor, high: Tensor) -> tuple[int, Tensor]:
        """How many values lie above ``high``, and which lie from ``low`` to it."""
        return int((values > high).sum()), ((values >= low) & (values <= high)).nonzero()[:, 0]

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self._rows.groups), dtype=torch.int32, device=self._rows.groups.device)

    def scan(self, top: int) -> Iterator[DeferredPairs]:
        """Count the pairs of a strip of rows with those to the right; yields what each tile defers."""
        for left in range(int(self._rows.later[top]), len(self._rows.later), self._tile[1]):
            yield self._scan_tile(top, left)

    def _scan_tile(self, top: int, left: int) -> DeferredPairs:
        _, maybe_above, surely_above, max_rank = self._request
        rows, columns = slice(top, top + self._tile[0]), slice(left, left + self._tile[1])
        tile = _tile(self._rows, rows, columns)
        tile.masked_fill_(self._numbers[columns] < self._rows.later[rows, None], -torch.inf)
        forward, backward = self._rows.meet(rows, columns), self._rows.meet(columns, rows)
        inside, stored_values = self._count(tile.masked_fill(~(forward | backward.T), -torch.inf), rows, columns)
        stored = inside[0] << column_bits(len(self._numbers)) | left + inside[1]
        doubtful = []
        for query, other, both_ways, met in ((rows, columns, tile, forward), (columns, rows, tile.T, backward)):
            asked = (self.rank_of_first_positive[query] < max_rank)[:, None]
            values = both_ways.masked_fill(~met, -torch.inf)
            certain = values > surely_above[query, None]
            doubt = asked & (values >= maybe_above[query, None]) & ~certain
            self.rank_of_first_positive[query] += certain.sum(dim=1) * asked[:, 0]
            doubtful.append(self._pairs(doubt, query, other))
        return DeferredPairs(top, stored.int(), stored_values, torch.cat(doubtful))

    def _count(self, tile: Tensor, rows: slice, columns: slice) -> tuple[tuple[Tensor, ...], Tensor]:
        """Add to the histogram; return the entries inside an interval and their values."""
        if not len(self._request.edges):
            return torch.zeros_like(tile, dtype=torch.bool).nonzero(as_tuple=True), tile.new_empty(0)
        place = torch.bucketize(tile, self._request.edges, right=True, out_int32=True)
        inside = (place & 1).bool()
        first, second = ((place > 0) & ~inside).nonzero(as_tuple=True)
        below = place[first, second].long() >> 1
        for ends, numbers in ((rows, first), (columns, second)):
            count(self.histogram, self._rows.groups[ends][numbers], below)
        return inside.nonzero(as_tuple=True), tile[inside]

    def _pairs(self, chosen: Tensor, rows: slice, columns: slice) -> Tensor:
        first, second = chosen.nonzero(as_tuple=True)
        return torch.stack([self._numbers[rows][first], self._numbers[columns][second]], dim=1)


def _tile(rows: Rows, first: slice, second: slice) -> Float[Tensor, "first second"]:
    """Cosines minus one in float32."""
    half = rows.half.float()
    return rows.single[first] @ rows.single[second].T - half[first, None] - half[second]
