"""One threshold for a system in use: chosen on some classes, judged on others.

Whoever deploys an embedding picks one threshold on the classes at hand, for a false accept rate (FAR) or a false reject
rate (FRR) over all pairs, and meets other classes. How far their own rates then lie from the wanted one is what OPIS
measures in a single number; here it is said class by class.

The classes are split at random, and the threshold is found among the pairs of the first part alone. Its interval is
Woodruff's: the pooled rate at the threshold has a standard error, and the ends are the thresholds at which the same
pairs reach the wanted rate moved by that error, up and down on the scale of its log-odds, which keeps it in 0..1. The
error is a jackknife over classes, each left out once with all of its pairs, also those of two classes; it asks neither
for pairs that are independent nor for classes of one size. How many errors an end is away is Student's t, with the
degrees of freedom of as many equal classes as the unequal ones are worth (Kish's effective number): where a few classes
hold most of the pairs, the error itself is known badly. An end beyond the closest or the farthest pair is infinite.

A jackknife counts twice what only a pair of classes has in common, so the interval of a FAR may be longer than it has
to be, by the root of 2 or so; that of an FRR is too short where few of the sizes in a long tail were drawn.
``tests/benchmarks/thresholds.py`` prints the coverage on known populations.

References:
    Woodruff, Confidence intervals for medians and other position measures, JASA 47, 1952.
    Korn and Graubard, Analysis of Health Surveys, 1999, 5.2: log-odds, and degrees of freedom.
"""

from dataclasses import dataclass
from decimal import ROUND_UP, Context
from math import ceil, inf
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.settings import Cost

Rate = Literal["far", "frr"]
FEWEST_PAIRS = 10  # beyond the threshold: fewer say nothing about where it lies
CONFIDENCE = 0.95
POINTS = 257  # costs that are looked at together
RESOLVED = 1e-14  # of a cosine, see `counting.cosine`


@dataclass(frozen=True, eq=False)
class Deployment:
    """A threshold, and what it does to classes that it was not chosen on.

    Attributes:
        rate: What was asked for, ``far`` or ``frr``; `wanted` is its value, a fraction.
        axis: Of the threshold: pairs are accepted at a distance of at most it, or at a cosine of at least it.
        threshold: Chosen on the calibration classes.
        reached: The rate that was asked for, of their pairs: not the wanted one where many pairs are equally alike.
        low: Low end of its interval; -inf where these classes do not show one.
        high: High end; inf likewise.
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
    reached: float
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
        seed: Of the split.
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
    chosen = np.sort(np.random.default_rng(seed).permutation(len(classes))[: ceil(share * len(classes))])
    calibration = classes[torch.from_numpy(chosen).to(classes.device)]
    is_calibration = torch.isin(labels, calibration)

    def scan(rows: Bool[Tensor, " items"]) -> PairScan:
        queries, searched = (None if role is None else role[rows] for role in (query, gallery))
        return PairScan(embeddings[rows], labels[rows], axis=axis, query=queries, gallery=searched)

    left = len(classes) - len(calibration)
    if min(len(calibration), left) < 2:
        raise ValueError(
            f"by a share of {share:g}, {len(calibration)} of {len(classes)} classes would choose the threshold"
            f" and {left} judge it; two of each are needed: give another share, or more classes"
        )
    cost, reached, low, high = _chosen(scan(is_calibration), rate, wanted)
    others = scan(~is_calibration)
    counts = others.counts(torch.tensor([cost], dtype=torch.float64, device=embeddings.device))
    kept, negatives = counts.positives > 0, counts.negatives.sum(dim=1)
    if not others.num_negative:
        raise ValueError(
            f"no query of the {len(others.classes)} classes to judge by has an item of another to be told from"
        )
    if not kept.any():
        raise ValueError(f"of the {len(others.classes)} classes to judge by none has two items")
    rejected = counts.positives - counts.accepted_positives[:, 0]
    wrongly = counts.accepted_negatives.sum(dim=1)[:, 0]
    sign = -1 if axis == "similarity" else 1
    return Deployment(
        rate=rate,
        wanted=wanted,
        axis=axis,
        threshold=sign * cost,
        reached=reached,
        low=min(sign * low, sign * high),
        high=max(sign * low, sign * high),
        calibration=calibration.cpu(),
        judged=others.classes[kept].cpu(),
        far=int(wrongly.sum()) / int(negatives.sum()),
        frr=int(rejected.sum()) / int(counts.positives.sum()),
        class_far=(wrongly[kept] / negatives[kept].double()).cpu(),
        class_frr=(rejected[kept] / counts.positives[kept].double()).cpu(),
    )


def _chosen(scan: PairScan, rate: Rate, wanted: float) -> tuple[float, float, float, float]:
    """The cost at which a pooled rate is reached, that rate, and the ends of the interval of the cost."""
    pairs = scan.num_negative if rate == "far" else scan.num_positive
    kind = "two classes" if rate == "far" else "one class"
    if wanted * pairs < FEWEST_PAIRS:
        # Rounded up, that it would not be refused in its turn.
        seen = float(Context(prec=2, rounding=ROUND_UP).divide(FEWEST_PAIRS, max(pairs, 1)))
        instead = f", or a rate of at least {seen:g}" if seen < 1 else ""
        raise ValueError(
            f"{rate.upper()} {wanted:g} cannot be seen in {pairs} pairs of {kind}, of which it would be "
            f"{wanted * pairs:.2g}: at least {ceil(FEWEST_PAIRS / wanted)} are needed{instead}"
        )
    share = wanted if rate == "far" else 1 - wanted  # of the pairs, to be accepted
    rank = _rank(share, pairs)
    if rate == "far":
        found = scan.calibrated([rank], lambda costs: costs)
        cost = float(found.costs[0])
        accepted, every = found.counts.accepted_negatives.sum(dim=1)[:, 0], found.counts.negatives.sum(dim=1)
        ends_of_a_pair = 2  # it is among the pairs of two classes
    else:
        cost = _cost_of_positives(scan, rank)
        counts = scan.counts(torch.tensor([cost], dtype=torch.float64, device=scan.order.device))
        accepted, every = counts.accepted_positives[:, 0], counts.positives
        ends_of_a_pair = 1
    accepted_share = int(accepted.sum()) / int(every.sum())
    reached = accepted_share if rate == "far" else 1 - accepted_share
    reach = _reach(accepted.cpu().numpy(), every.cpu().numpy(), ends_of_a_pair, share)
    if reach is None:
        return cost, reached, -inf, inf
    fewest, most = reach[0] * pairs, reach[1] * pairs
    ranks = [_rank(end, pairs) for end in reach]
    low, high = (
        scan.calibrated(ranks, lambda costs: costs).costs.tolist()
        if rate == "far"
        else (_cost_of_positives(scan, end) for end in ranks)
    )
    # An end at which less than one pair is accepted, or rejected, is beyond all pairs.
    return cost, reached, low if fewest >= 1 else -inf, high if pairs - most >= 1 else inf


def _reach(
    accepted: Int[np.ndarray, " classes"], every: Int[np.ndarray, " classes"], ends_of_a_pair: int, share: float
) -> tuple[float, float] | None:
    """Between which shares of accepted pairs the wanted one lies for all that these classes can tell.

    Args:
        accepted: Pairs of each class that the threshold accepts.
        every: All pairs of each class.
        ends_of_a_pair: Among the pairs of how many classes each pair is.
        share: The wanted share of accepted pairs, in (0, 1).

    Returns:
        Both ends; None where one class is part of all pairs, so that nothing is left without it.
    """
    from scipy.special import expit, logit, stdtrit  # nothing else here needs it, and loading takes its time

    held = every > 0
    accepted, every = accepted[held], every[held]
    left = every.sum() // ends_of_a_pair - every
    if not left.all():
        return None
    without = (accepted.sum() // ends_of_a_pair - accepted) / left
    error = without.std() * (len(without) - 1) ** 0.5
    weights = every / every.sum()
    freedom = 1 / (weights**2).sum() - 1
    moved = stdtrit(freedom, (1 + CONFIDENCE) / 2) * error / (share * (1 - share))
    return float(expit(logit(share) - moved)), float(expit(logit(share) + moved))


def _rank(share: float, pairs: int) -> int:
    return min(max(ceil(share * pairs), 1), pairs)


def _cost_of_positives(scan: PairScan, rank: int) -> float:
    """The least cost that accepts so many pairs of one class, to the last digits of its own."""
    low, high = (-1.0, 1.0) if scan.axis == "similarity" else (0.0, 2.0)
    while True:
        grid = torch.linspace(low, high, POINTS, dtype=torch.float64, device=scan.order.device)
        place = int((scan.accepted_positives(grid) < rank).sum())  # of the first that accepts enough
        if place == 0 or grid[place] - grid[place - 1] < RESOLVED:
            return float(grid[place])
        low, high = float(grid[place - 1]), float(grid[place])
