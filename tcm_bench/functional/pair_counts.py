"""Exact counts over all pairs of a set, in bounded memory: the engine under ``threshold``.

Two questions are answered without a list of pairs: which negative pair has a given rank, and how
many pairs of each class lie within each threshold. A pair is described by its *cost*, smaller for
closer: the distance, or the negated cosine. ``threshold`` knows nothing else of this file, so a
faster engine replaces :class:`AllPairs` alone.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.functional.cosine import CosineTiles

Axis = Literal["distance", "similarity"]

DIGIT_BITS = 16
LARGEST_INT64 = 2**63 - 1
KEPT_PAIRS = 2**23  # 24 bytes each: up to here the pairs are kept between passes


class Block(NamedTuple):
    """Some pairs, each once; the classes of both ends as dense indices."""

    positive: Float[Tensor, " positives"]
    positive_class: Int[Tensor, " positives"]
    negative: Float[Tensor, " negatives"]
    negative_first: Int[Tensor, " negatives"]
    negative_second: Int[Tensor, " negatives"]


class Counts(NamedTuple):
    """Pairs of each class, and those accepted at each threshold.

    A class's positives are the unordered pairs inside it, its negatives those with exactly one end
    in it, so that a negative pair counts for two classes.
    """

    positives: Int[Tensor, " classes"]
    negatives: Int[Tensor, " classes"]
    accepted_positives: Int[Tensor, "classes steps"]
    accepted_negatives: Int[Tensor, "classes steps"]


class AllPairs:
    """Every unordered pair of a set once.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        axis: What a pair's cost is.
        chunk_size: Rows and columns of a tile, at least 1; memory is ``O(chunk_size^2)``.

    Attributes:
        classes: The distinct labels in increasing order.
        sizes: Items of each.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "items dim"],
        labels: Int[Tensor, " items"],
        *,
        axis: Axis,
        chunk_size: int,
    ) -> None:
        self.cosine = CosineTiles(embeddings)
        self.classes, self.dense, self.sizes = labels.unique(return_inverse=True, return_counts=True)
        self.axis, self.chunk_size = axis, chunk_size
        self.num_pairs = len(labels) * (len(labels) - 1) // 2
        self.num_positive = int((self.sizes * (self.sizes - 1) // 2).sum())
        self.num_negative = self.num_pairs - self.num_positive
        self._kept: list[Block] | None = None

    def __iter__(self) -> Iterator[Block]:
        """Blocks of pairs, recomputed in each pass unless they are few."""
        if self.num_pairs > KEPT_PAIRS:
            return self._blocks()
        if self._kept is None:
            self._kept = list(self._blocks())
        return iter(self._kept)

    def order_statistics(self, ranks: Sequence[int]) -> Float[Tensor, " ranks"]:
        """Costs of the negative pairs of the given ranks, 1 for the smallest.

        Radix selection: a float's bits, read as an integer, sort as the float does. Each of four
        passes counts the next 16 bits among the pairs that agree so far. The result is the bits of
        one pair's cost, never an interpolation, and memory does not grow with the pairs.
        """
        found = [-(2 ** (DIGIT_BITS - 1))] * len(ranks)  # smallest value of the first, signed digit
        left = list(ranks)
        for shift in range(64 - DIGIT_BITS, -1, -DIGIT_BITS):
            counts = self.sizes.new_zeros(len(ranks), 2**DIGIT_BITS)
            for block in self:
                digits = _ordered_bits(block.negative) >> shift
                for row, base in enumerate(found):
                    digit = digits - base
                    inside = digit[(digit >= 0) & (digit < 2**DIGIT_BITS)]
                    counts[row] += inside.bincount(minlength=2**DIGIT_BITS)
            for row, upto in enumerate(counts.cumsum(dim=1)):
                digit = int(torch.searchsorted(upto, left[row]))
                left[row] -= int(upto[digit] - counts[row, digit])
                found[row] = (found[row] + digit) << (DIGIT_BITS if shift else 0)
        return _from_ordered_bits(torch.tensor(found, device=self.dense.device))

    def counts(self, thresholds: Float[Tensor, " steps"]) -> Counts:
        """Pairs with ``cost <= threshold``, by class; thresholds in increasing order."""
        classes, buckets = len(self.classes), len(thresholds) + 1
        histogram = self.sizes.new_zeros(2, classes * buckets)
        for block in self:
            positive, negative = (torch.bucketize(cost, thresholds) for cost in (block.positive, block.negative))
            cells = (
                (0, block.positive_class * buckets + positive),
                (1, block.negative_first * buckets + negative),
                (1, block.negative_second * buckets + negative),
            )
            for side, cell in cells:
                histogram[side] += cell.bincount(minlength=classes * buckets)
        upto = histogram.view(2, classes, buckets).cumsum(dim=2)
        (accepted_positives, accepted_negatives), (positives, negatives) = upto[..., :-1], upto[..., -1]
        return Counts(positives, negatives, accepted_positives, accepted_negatives)

    def _blocks(self) -> Iterator[Block]:
        starts = range(0, len(self.dense), self.chunk_size)
        for top in starts:
            for left in starts[top // self.chunk_size :]:
                yield self._block(slice(top, top + self.chunk_size), slice(left, left + self.chunk_size))

    def _block(self, rows: slice, columns: slice) -> Block:
        similarity = self.cosine(rows, columns)
        cost = -similarity if self.axis == "similarity" else (2 - 2 * similarity).clamp(min=0).sqrt()
        first = self.dense[rows, None].expand_as(cost)
        second = self.dense[columns].expand_as(cost)
        once = torch.ones_like(cost, dtype=torch.bool)
        if rows == columns:
            once = once.triu(diagonal=1)
        positive, negative = once & (first == second), once & (first != second)
        return Block(cost[positive], first[positive], cost[negative], first[negative], second[negative])


def _ordered_bits(values: Tensor) -> Tensor:
    """float64 as int64 that sort alike; its own inverse on the integers."""
    bits = values.view(torch.int64)
    return bits ^ ((bits >> 63) & LARGEST_INT64)


def _from_ordered_bits(keys: Tensor) -> Tensor:
    """Inverse of :func:`_ordered_bits`."""
    return (keys ^ ((keys >> 63) & LARGEST_INT64)).view(torch.float64)
