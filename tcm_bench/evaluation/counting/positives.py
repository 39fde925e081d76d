"""Pairs inside the classes: few enough for their exact cosines."""

import weakref
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.cosine import exact_products
from tcm_bench.evaluation.counting.kernels import count
from tcm_bench.evaluation.counting.prepared import PreparedSet
from tcm_bench.evaluation.counting.thresholds import FixedThresholds, cost_of, cumulated

SMALL_CLASS = 32  # items
STRIP = 2**22  # entries of a block of exact cosines
LARGEST_KEPT = 2**25  # exact cosines that are kept from one use to the next
HISTOGRAM = 2**21  # places of the histograms of single items


class PositiveCounts(NamedTuple):
    """Pairs inside classes.

    Attributes:
        pairs: Unordered pairs of two items.
        disjoint: Of these the ordered pairs of two that share no item: two independent looks at one class.
    """

    pairs: Int[Tensor, "classes ..."]
    disjoint: Int[Tensor, "classes ..."]


class Positives:
    """The exact cosines inside the classes of a set."""

    def __init__(self, prepared: PreparedSet) -> None:
        self._set: PreparedSet = weakref.proxy(prepared)  # it holds this object: no circle that outlives both

    def nearest(self) -> tuple[Float[Tensor, " items"], Int[Tensor, " items"]]:
        """Of each query's nearest positive the cosine, infinite if it has none, and the item in the caller's order."""
        best = self._set.cosines.rows.new_full((self._set.num_items,), torch.inf)
        nearest = torch.full_like(self._set.order, -1)
        for queries, members, cosines in self._strips():
            cosines = cosines.masked_fill(~self._searched_by(queries, members), -torch.inf)
            highest = cosines.amax(dim=2)
            best[queries] = highest.where(highest > -torch.inf, torch.inf)
            is_highest = cosines == highest[:, :, None]
            ties = self._set.order[members][:, None].where(is_highest, self._set.num_items)
            nearest[queries] = ties.amin(dim=2)
        return best, nearest

    def accepted(self, fixed: FixedThresholds) -> tuple[PositiveCounts, PositiveCounts]:
        """What each threshold accepts of the pairs inside each class, and all there is to accept."""
        places = len(fixed.costs) + 1
        found = torch.zeros(2, len(self._set.sizes), places, dtype=torch.int64, device=fixed.costs.device)
        for queries, members, cosines in self._strips():
            is_pair = self._are_pairs(queries, members)
            together = max(1, HISTOGRAM // places)
            rows = (queries.flatten(), cosines.flatten(0, 1), is_pair.flatten(0, 1))
            for items, values, chosen in zip(*(part.split(together) for part in rows), strict=True):
                histogram = found.new_zeros(len(items), places)
                number = torch.arange(len(items), device=items.device)[:, None].expand_as(chosen)[chosen]
                count(histogram, number, fixed.accepting(values[chosen]))
                partners, classes = cumulated(histogram), self._set.rows.groups[items] // 2
                found[0].index_add_(0, classes, partners)
                found[1].index_add_(0, classes, partners.square())
        # Each pair was found at both of its ends; two different pairs share at most one item, whose partners both hold.
        pairs = found[0] // 2
        disjoint = pairs * (pairs + 1) - found[1]
        return PositiveCounts(pairs[:, :-1], disjoint[:, :-1]), PositiveCounts(pairs[:, -1], disjoint[:, -1])

    def costs_of_share(self, share: float) -> Float[Tensor, " classes"]:
        """The least cost at which a share of each class's pairs is accepted; infinite for a class without a pair."""
        sizes, exact = self._set.sizes, Fraction(repr(share))
        ranks = -(-self._set.positives * exact.numerator // exact.denominator)
        costs = torch.full(sizes.shape, torch.inf, dtype=torch.float64, device=sizes.device)
        parts: list[Tensor] = []
        for queries, members, cosines in self._strips():
            is_pair = self._are_pairs(queries, members)
            # A large class comes in several strips; each pair is found at both of its ends.
            parts.append(cosines.masked_fill(~is_pair, -torch.inf))
            if queries[0, -1] < members[0, -1]:
                continue
            values, parts = torch.cat(parts, dim=1).flatten(1), []
            classes = self._set.rows.groups[members[:, 0]].long() // 2
            for number, found, rank in zip(classes.tolist(), values, ranks[classes].tolist(), strict=True):
                if rank:
                    costs[number] = found.kthvalue(len(found) - 2 * rank + 1).values
        return torch.where(costs == torch.inf, torch.inf, cost_of(costs, self._set.axis))

    def _are_pairs(self, queries: Tensor, members: Tensor) -> Bool[Tensor, "g q n"]:
        """Which of two items are a pair, whichever is the query."""
        return self._searched_by(queries, members) | self._searched_by(members, queries).mT

    def _searched_by(self, queries: Tensor, members: Tensor) -> Bool[Tensor, "g q n"]:
        """Which members are in the gallery of which query, ``(g, q)`` and ``(g, n)`` rows."""
        roles = self._set.rows.roles
        is_query, is_searched = (roles & 1).bool(), (roles & 2).bool()
        return (queries[:, :, None] != members[:, None]) & is_query[queries][:, :, None] & is_searched[members][:, None]

    def _strips(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Classes of one size together: query rows ``(g, q)``, class rows ``(g, n)``, their cosines ``(g, q, n)``."""
        if int(self._set.sizes.square().sum()) > LARGEST_KEPT:
            return self._multiplied_strips()
        return self._kept_strips

    @cached_property
    def _kept_strips(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return list(self._multiplied_strips())

    def _multiplied_strips(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        sizes, rows = self._set.sizes, self._set.cosines.rows
        for size in sizes[sizes > 1].unique().tolist():
            queries = min(size, max(1, STRIP // size))
            together = max(1, STRIP // (size * max(queries, rows.shape[1])))
            for starts in self._set.starts[sizes == size].split(together):
                members = starts[:, None] + torch.arange(size, device=starts.device)
                if size <= SMALL_CLASS:
                    yield members, members, self._pair_by_pair(members)
                    continue
                inside = rows[members]
                for asking, queried in zip(members.split(queries, dim=1), inside.split(queries, dim=1), strict=True):
                    yield asking, members, exact_products(queried, inside)

    def _pair_by_pair(self, members: Int[Tensor, "g n"]) -> Float[Tensor, "g n n"]:
        """Exact cosines inside small classes: their rows are too few to be worth splitting for a product."""
        groups, size = members.shape
        first, second = torch.triu_indices(size, size, 1, device=members.device)
        found = self._set.cosines.pairs(members[:, first].flatten(), members[:, second].flatten()).view(groups, -1)
        cosines = found.new_ones(groups, size, size)
        cosines[:, first, second] = cosines[:, second, first] = found
        return cosines
