"""The definitions once more on whole matrices of exact cosines, for sets of some hundred items; shares no pass."""

from typing import NamedTuple

import numpy as np
import torch

from tcm_bench.evaluation.counting.cosine import Cosines

KINDS = (
    *("random", "clustered", "between", "falling", "ties", "duplicates", "identical"),
    *("one-hot", "collapsed", "half", "bfloat16", "tail"),
)


def drawn(kind, items, dim, classes, seed=0):
    """Embeddings and labels of a kind that is hard in some way."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (items,), generator=generator)
    x = torch.randn(items, dim, generator=generator)
    if kind == "clustered":
        x = 0.7 * x + torch.randn(classes, dim, generator=generator)[y]
    if kind == "ties":
        x = torch.randint(0, 2, (items, dim), generator=generator).float()
        x[:, 0] = 1
    if kind == "duplicates":
        x = x[torch.randint(items // 2, (items,), generator=generator)]
    if kind == "identical":
        x = torch.ones(items, dim)
    if kind == "one-hot":
        x = torch.eye(dim)[torch.randint(dim, (items,), generator=generator)]
    if kind == "collapsed":
        x = 1 + 1e-4 * x
    if kind == "half":
        x = x.half()
    if kind == "bfloat16":
        x = x.bfloat16()
    if kind in ("between", "falling"):  # of the flat spectrum of "clustered" and that of trained networks
        x = 0.7 * x + torch.randn(classes, dim, generator=generator)[y]
        x = x * torch.arange(1, dim + 1) ** (-0.25 if kind == "between" else -0.5)
    if kind == "tail":
        y = (torch.rand(items, generator=generator) ** 4 * classes).long()
    return x, y


class Answers(NamedTuple):
    """What a scan is asked for; counts by class and threshold, ``rank_of_first_positive`` by item."""

    costs: torch.Tensor
    accepted_positives: torch.Tensor
    accepted_negatives: torch.Tensor
    rank_of_first_positive: torch.Tensor


class BruteForce:
    """Every pair of a set, in matrices ``(items, items)``."""

    def __init__(self, x, y, axis="distance", query=None, gallery=None):
        items = len(y)
        everyone = torch.ones(items, dtype=torch.bool)
        query, gallery = (everyone if role is None else role for role in (query, gallery))
        self.cosine = Cosines(x).tile(slice(0, items), slice(0, items))
        distance = torch.from_numpy(np.sqrt((2 - 2 * self.cosine).clamp(min=0).numpy()))  # rounded as IEEE 754 says
        self.cost = -self.cosine if axis == "similarity" else distance
        self.label, self.index = y, torch.arange(items)
        self.same = y[:, None] == y
        self.searched = query[:, None] & gallery & (self.index[:, None] != self.index)
        self.pair = (self.searched | self.searched.T).triu(1)
        self.negatives = self.cost[self.pair & ~self.same].sort().values

    def accepted(self, thresholds):
        """Accepted positives and negatives ``(classes, thresholds)``."""
        first, second = self.pair.nonzero(as_tuple=True)
        taken = (self.cost[first, second, None] <= thresholds).long()
        classes, of = self.label.unique(return_inverse=True)
        positives = torch.zeros(len(classes), len(thresholds), dtype=torch.int64)
        negatives, inside = torch.zeros_like(positives), self.same[first, second]
        positives.index_add_(0, of[first[inside]], taken[inside])
        for end in (first, second):
            negatives.index_add_(0, of[end[~inside]], taken[~inside])
        return positives, negatives

    def rank_of_first_positive(self, max_rank):
        """Items before the nearest positive of each row as a query."""
        positive = self.same & self.searched
        best = self.cosine.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
        nearest = self.index.where(positive & (self.cosine == best), len(self.index)).amin(dim=1, keepdim=True)
        earlier = (self.cosine > best) | ((self.cosine == best) & (self.index < nearest))
        rank_of_first_positive = (earlier & self.searched & ~self.same).sum(dim=1).clamp(max=max_rank)
        return rank_of_first_positive.masked_fill(~positive.any(dim=1), max_rank)

    def answers(self, ranks, grid, max_rank):
        costs = self.negatives[torch.tensor(ranks) - 1]
        return Answers(costs, *self.accepted(grid(costs)), self.rank_of_first_positive(max_rank))
