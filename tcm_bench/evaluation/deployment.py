"""One threshold for a system in use: chosen on some classes, judged on others.

Whoever deploys an embedding picks one threshold on the classes at hand, for a false accept rate (FAR) or a false reject
rate (FRR) over all pairs, and meets other classes. How far their own rates then lie from the wanted one is what OPIS
measures in a single number; here it is said class by class.

The classes are split at random, and the threshold is found among the pairs of the first part alone. Its interval is a
bootstrap over these classes. A pair of two classes is drawn with both, so to first order its weight deviates from 1 by
the sum of what its classes' weights do: a class that was drawn ``w`` times weighs ``2 w - 1`` in the false accept rate,
where each pair counts for two classes. Pairs inside a class weigh ``w``.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.settings import Cost

Rate = Literal["far", "frr"]
AROUND = 4  # the wanted rate is looked for between this part of it and this multiple of it
POINTS = 257  # thresholds between
FEWEST_PAIRS = 10  # beyond the threshold: fewer say nothing about where it lies
RESAMPLES, CONFIDENCE = 1000, 0.95
RESOLVED = 1e-14  # of a cosine, see `counting.cosine`


@dataclass(frozen=True, eq=False)
class Deployment:
    """A threshold, and what it does to classes that it was not chosen on.

    Attributes:
        rate: What was asked for, ``far`` or ``frr``; `wanted` is its value, a fraction.
        axis: Of the threshold: pairs are accepted at a distance of at most it, or at a cosine of at least it.
        threshold: Chosen on the calibration classes; ``low`` and ``high`` are the ends of its interval.
        calibration: Labels of the classes it was chosen on, increasing.
        judged: Labels of the others that have a positive pair, increasing.
        far: Share of their pairs of two classes that are accepted, each pair counted once.
        frr: Share of their pairs of one class that are rejected.
        class_far: The same of each class's own pairs; a fraction.
        class_frr: Likewise.
    """

    rate: Rate
    wanted: float
    axis: Cost
    threshold: float
    low: float
    high: float
    calibration: Int[Tensor, " calibration"]
    judged: Int[Tensor, " judged"]
    far: float
    frr: float
    class_far: Float[Tensor, " judged"]
    class_frr: Float[Tensor, " judged"]

    @property
    def class_rate(self) -> Float[Tensor, " judged"]:
        """Of each judged class the rate that was asked for."""
        return self.class_far if self.rate == "far" else self.class_frr


def deploy(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    *,
    rate: Rate,
    wanted: float,
    axis: Cost = "similarity",
    share: float = 0.5,
    seed: int = 0,
    query: Bool[Tensor, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | None = None,
) -> Deployment:
    """Choose a threshold on a part of the classes, and judge it on the others.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        rate: Which pooled rate is wanted.
        wanted: Its value, in (0, 1).
        axis: What a threshold is; which pairs it accepts does not depend on that.
        share: Of the classes, to choose by, in (0, 1).
        seed: Of the split and the bootstrap.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched; by default all.

    Raises:
        ValueError: If the rate cannot be seen in the pairs that there are, or no class is left to judge.

    Example:
        >>> found = deploy(torch.eye(8).repeat(5, 1), torch.arange(8).repeat(5), rate="frr", wanted=0.5)
        >>> found.threshold, found.frr, found.far
        (1.0, 0.0, 0.0)
    """
    if not 0 < wanted < 1:
        raise ValueError(f"a wanted {rate.upper()} must lie between 0 and 1, got {wanted:g}")
    if not 0 < share < 1:
        raise ValueError(f"the share of classes to choose by must lie between 0 and 1, got {share:g}")
    classes = labels.unique()
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(classes))[: ceil(share * len(classes))])
    calibration = classes[torch.from_numpy(chosen).to(classes.device)]
    is_calibration = torch.isin(labels, calibration)

    def scan(rows: Bool[Tensor, " items"]) -> PairScan:
        queries, searched = (None if role is None else role[rows] for role in (query, gallery))
        return PairScan(embeddings[rows], labels[rows], axis=axis, query=queries, gallery=searched)

    if len(calibration) == len(classes) or len(calibration) < 2:
        raise ValueError(f"{len(classes)} classes are too few to choose a threshold by some and judge it by others")
    cost, low, high = _chosen(scan(is_calibration), rate, wanted, generator)
    others = scan(~is_calibration)
    counts = others.counts(torch.tensor([cost], dtype=torch.float64, device=embeddings.device))
    kept, negatives = counts.positives > 0, counts.negatives.sum(dim=1)
    if not kept.any() or not others.num_negative:
        raise ValueError(f"of the {len(others.classes)} classes to judge by none has two items, or there is only one")
    accepted, wrongly = counts.accepted_positives[:, 0], counts.accepted_negatives.sum(dim=1)[:, 0]
    sign = -1 if axis == "similarity" else 1
    return Deployment(
        rate=rate,
        wanted=wanted,
        axis=axis,
        threshold=sign * cost,
        low=min(sign * low, sign * high),
        high=max(sign * low, sign * high),
        calibration=calibration.cpu(),
        judged=others.classes[kept].cpu(),
        far=float(wrongly.sum() / negatives.sum()),
        frr=float(1 - accepted.sum() / counts.positives.sum()),
        class_far=(wrongly[kept] / negatives[kept].double()).cpu(),
        class_frr=(1 - accepted[kept] / counts.positives[kept].double()).cpu(),
    )


def _chosen(scan: PairScan, rate: Rate, wanted: float, generator: np.random.Generator) -> tuple[float, float, float]:
    """The cost at which a pooled rate is reached, and the ends of its interval."""
    pairs = scan.num_negative if rate == "far" else scan.num_positive
    kind = "two classes" if rate == "far" else "one class"
    if wanted * pairs < FEWEST_PAIRS:
        raise ValueError(
            f"a {rate.upper()} of {wanted:g} cannot be seen in {pairs} pairs of {kind}, of which it is "
            f"{wanted * pairs:.1g}: at least {ceil(FEWEST_PAIRS / wanted)} are needed, or a rate of "
            f"{FEWEST_PAIRS / max(pairs, 1):.1g}"
        )
    device = scan.order.device
    if rate == "far":
        # The closest pairs of two classes are the first to be accepted.
        ranks = [_rank(min(factor * wanted, 1.0), pairs) for factor in (1 / AROUND, 1, AROUND)]
        found = scan.calibrated(ranks, lambda costs: _grid(costs[0], costs[-1]))
        low, cost, high = found.costs.tolist()
        grid, counts = _grid(found.costs[0], found.costs[-1]), found.counts
        reached, every = counts.accepted_negatives.sum(dim=1), counts.negatives.sum(dim=1)
        share = wanted
    else:
        share = 1 - wanted
        low, cost, high = (
            _cost_of_positives(scan, _rank(min(max(part, 0.0), 1.0), pairs))
            for part in (1 - AROUND * wanted, share, 1 - wanted / AROUND)
        )
        grid = _grid(torch.tensor(low, device=device), torch.tensor(high, device=device))
        counts = scan.counts(grid)
        reached, every = counts.accepted_positives, counts.positives
    classes = len(every)
    times = torch.from_numpy(generator.multinomial(classes, np.full(classes, 1 / classes), RESAMPLES)).to(device)
    weights = (2 * times - 1 if rate == "far" else times).double()  # see the head of this file
    rates = (weights @ reached.double()) / (weights @ every.double())[:, None]
    rates = rates.cummax(dim=1).values  # a class may weigh less than nothing
    places = torch.searchsorted(rates, torch.full_like(rates[:, :1], share)).clamp(max=len(grid) - 1)[:, 0]
    tail = (1 - CONFIDENCE) / 2
    ends = grid[places].quantile(grid.new_tensor([tail, 1 - tail])).tolist()
    return cost, ends[0], ends[1]


def _rank(share: float, pairs: int) -> int:
    return min(max(ceil(share * pairs), 1), pairs)


def _grid(low: Float[Tensor, ""], high: Float[Tensor, ""]) -> Float[Tensor, " thresholds"]:
    """Costs between two, increasing."""
    steps = torch.linspace(0, 1, POINTS, dtype=torch.float64, device=low.device)
    return low.double() + (high - low).double() * steps


def _cost_of_positives(scan: PairScan, rank: int) -> float:
    """The least cost that accepts so many pairs of one class, to the last digits of its own."""
    low, high = (-1.0, 1.0) if scan.axis == "similarity" else (0.0, 2.0)
    while True:
        grid = torch.linspace(low, high, POINTS, dtype=torch.float64, device=scan.order.device)
        place = int((scan.accepted_positives(grid) < rank).sum())  # of the first that accepts enough
        if place == 0 or grid[place] - grid[place - 1] < RESOLVED:
            return float(grid[place])
        low, high = float(grid[place - 1]), float(grid[place])
