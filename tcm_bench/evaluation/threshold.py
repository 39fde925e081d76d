r"""One accept threshold for all classes: operating curves, utility, OPIS and eps-OPIS.

Conventions, exact and in one place:

- A pair is accepted when ``distance <= d``; distance is L2 between unit-norm rows, in [0, 2]. On
  ``axis="similarity"`` it is accepted when ``cosine >= s``. OPIS averages over the threshold axis,
  so the two axes give different numbers; store the axis with the value.
- Positives of a class are its unordered pairs, negatives the pairs with exactly one end in it.
  Sensitivity is the accepted share of the positives, specificity the rejected share of the
  negatives, so nothing here depends on how many images a class has.
- The calibration range holds the thresholds between two pooled false accept rates, each negative
  pair of the set counted once. The end for rate ``f`` is the smallest negative distance (largest
  negative cosine) that reaches it: the order statistic of rank ``ceil(f * negatives)``.
- Integrals are trapezoids over an even grid of the range, divided by its length.
- A class with one item has no positive: it is left out and counted, but its item is a negative of
  the others.

Range and counts are those of exact cosines (:mod:`tcm_bench.evaluation.counting.cosine`), so they depend on no
tile, device, number of processes or order of the items; all that follows is float64 and integer counts. A cosine is
resolved to about 1e-14: where all lie within 1e-6 of 1, OPIS shows that in its fifth digit.

References:
    Zhang et al., Threshold-Consistent Margin Loss for Open-World Deep Metric Learning, ICLR 2024,
    arXiv:2307.04047.
"""

from dataclasses import dataclass
from decimal import Decimal
from math import ceil, nan
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.scan import PairCounts, PairScan
from tcm_bench.evaluation.settings import Axis, Ranking, Settings


class OperatingCurves(NamedTuple):
    """How each class fares at each threshold, as exact counts.

    Attributes:
        classes: Labels in increasing order, singletons included.
        positives: Positive pairs of each class.
        negatives: Negative pairs of each class.
        accepted_positives: Those accepted at each threshold.
        accepted_negatives: Those accepted at each threshold.
    """

    classes: Int[Tensor, " classes"]
    positives: Int[Tensor, " classes"]
    negatives: Int[Tensor, " classes"]
    accepted_positives: Int[Tensor, "classes thresholds"]
    accepted_negatives: Int[Tensor, "classes thresholds"]

    @property
    def sensitivity(self) -> Float[Tensor, "classes thresholds"]:
        """Accepted share of the positives in [0, 1]; NaN for a class without one."""
        return self.accepted_positives.double() / self.positives[:, None]

    @property
    def specificity(self) -> Float[Tensor, "classes thresholds"]:
        """Rejected share of the negatives in [0, 1]; NaN for a class without one."""
        return (self.negatives[:, None] - self.accepted_negatives).double() / self.negatives[:, None]


@dataclass(frozen=True, eq=False)
class ThresholdConsistency:
    """What one threshold means for the classes of a set.

    Attributes:
        opis: Spread of the classes' utility curves, in [0, 0.25]; NaN if ``reason`` says why.
        eps_opis: Squared gap of the worst classes to the rest, in [0, 1]; NaN likewise.
        threshold_low: Low end of the calibration range, in units of the axis.
        threshold_high: High end. On the distance axis this is where more is accepted, on the similarity
            axis where less is.
        thresholds: Even grid from ``threshold_low`` to ``threshold_high``.
        curves: Exact counts of every class over ``thresholds``; None without a negative pair.
        utilities: Curve of each class kept, over ``thresholds``; NaN without a negative pair.
        classes: Labels of the classes kept, increasing.
        singletons: Classes left out because they have no positive pair: a single item, as a rule.
        num_positive_pairs: Unordered pairs of one class.
        num_negative_pairs: Unordered pairs of two classes.
        reason: Why a value is NaN; None if none is.
    """

    opis: float
    eps_opis: float
    threshold_low: float
    threshold_high: float
    thresholds: Float[Tensor, " thresholds"]
    curves: OperatingCurves | None
    utilities: Float[Tensor, "classes thresholds"]
    classes: Int[Tensor, " classes"]
    singletons: int
    num_positive_pairs: int
    num_negative_pairs: int
    reason: str | None


class Calibration(NamedTuple):
    """What a pass over all pairs finds.

    Attributes:
        thresholds: Even grid over the calibration range, in units of the axis, increasing; NaN without a negative pair.
        curves: Counts of every class over it; None without a negative pair.
        accepted_at_far: Positive pairs accepted at each false accept rate asked for beside the range's ends.
        rank_of_first_positive: See :meth:`PairScan.rank_of_first_positive`.
    """

    thresholds: Float[Tensor, " thresholds"]
    curves: OperatingCurves | None
    accepted_at_far: Int[Tensor, " levels"]
    rank_of_first_positive: Int[Tensor, " items"]


def calibrate(scan: PairScan, settings: Settings, max_rank: int = 0) -> Calibration:
    """The calibration range and the counts over it, in one pass as a rule."""
    points = settings.num_thresholds
    if not scan.num_negative:
        undefined = torch.full((points,), nan, dtype=torch.float64, device=scan.order.device)
        none = torch.zeros(len(settings.far_levels), dtype=torch.int64, device=undefined.device)
        return Calibration(undefined, None, none, scan.rank_of_first_positive(max_rank))

    def grid(costs: Tensor) -> Tensor:
        low, high = costs[:2].tolist()
        if scan.axis == "distance":
            return torch.linspace(low, high, points, dtype=torch.float64, device=costs.device)
        return -torch.linspace(-high, -low, points, dtype=torch.float64, device=costs.device).flip(0)

    ranks = [_rank(far, scan.num_negative) for far in (*settings.far_bounds, *settings.far_levels)]
    found = scan.calibrated(ranks, grid, max_rank)
    thresholds, curves = grid(found.costs), _curves(scan, found.counts)
    if scan.axis == "similarity":
        thresholds = -thresholds.flip(0)
    return Calibration(thresholds, curves, scan.accepted_positives(found.costs[2:]), found.rank_of_first_positive)


def consistency(scan: PairScan, calibration: Calibration, settings: Settings) -> ThresholdConsistency:
    """OPIS and eps-OPIS from counts."""
    thresholds, curves = calibration.thresholds, calibration.curves
    low, high = float(thresholds[0]), float(thresholds[-1])
    kept = scan.positives > 0
    utilities = thresholds.new_full((int(kept.sum()), len(thresholds)), nan)
    if curves is not None:
        utilities = utility(curves.sensitivity[kept], curves.specificity[kept], c=settings.c)
    reason = _reason(scan, kept=int(kept.sum()), low=low, high=high)
    score = gap = nan
    if reason is None:
        score = float(opis(utilities, thresholds))
        gap = float(eps_opis(utilities, thresholds, eps=settings.eps, ranking=settings.ranking))
        if num_worst(len(utilities), settings.eps) == len(utilities):
            reason = f"eps_opis: all {len(utilities)} classes are among the worst, none is left to compare with"
    return ThresholdConsistency(
        opis=score,
        eps_opis=gap,
        threshold_low=low,
        threshold_high=high,
        thresholds=thresholds,
        curves=curves,
        utilities=utilities,
        classes=scan.classes[kept],
        singletons=int((~kept).sum()),
        num_positive_pairs=scan.num_positive,
        num_negative_pairs=scan.num_negative,
        reason=reason,
    )


def operating_curves(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    thresholds: Float[Tensor, " thresholds"],
    *,
    axis: Axis = Settings.axis,
    tile: tuple[int, int] | None = None,
) -> OperatingCurves:
    """Sensitivity and specificity of every class at increasing ``thresholds``, by counting.

    Example:
        >>> x = torch.eye(2)[[0, 0, 1, 1]]
        >>> curves = operating_curves(x, torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0]))
        >>> curves.sensitivity.tolist(), curves.specificity.tolist()
        ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
    """
    scan, thresholds = PairScan(embeddings, labels, axis=axis, tile=tile), thresholds.double()
    return _curves(scan, scan.counts(thresholds if axis == "distance" else -thresholds.flip(0)))


def utility(
    sensitivity: Float[Tensor, "classes thresholds"],
    specificity: Float[Tensor, "classes thresholds"],
    *,
    c: float = Settings.c,
) -> Float[Tensor, "classes thresholds"]:
    r"""F-score of sensitivity and specificity, in [0, 1]; 0 where both are 0.

    .. math:: U = \frac{(1 + c^2) \, \mathrm{spec} \cdot \mathrm{sens}}{c^2 \, \mathrm{spec} + \mathrm{sens}}

    It is not the F1 of precision and recall: it does not depend on the balance of the pairs.

    Example:
        >>> utility(torch.tensor([[0.5, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.6667, 0.0000]])
    """
    denominator = c**2 * specificity + sensitivity
    value = (1 + c**2) * specificity * sensitivity / denominator
    return value.masked_fill(denominator == 0, 0.0)


def opis(utilities: Float[Tensor, "classes thresholds"], thresholds: Float[Tensor, " thresholds"]) -> Float[Tensor, ""]:
    r"""Operating-point inconsistency score: how far the classes' utility curves spread.

    .. math:: \frac{1}{C (b - a)} \sum_{i=1}^{C} \int_a^b (U_i(d) - \bar U(d))^2 \, \mathrm{d}d

    Args:
        utilities: One curve per class, unweighted.
        thresholds: The range ``a .. b`` in increasing order, ``a < b``.

    Returns:
        A variance in [0, 0.25]; 0 when every class has the same curve. Papers print it x 1e-3.

    Example:
        >>> t = torch.linspace(0.0, 1.0, 5)
        >>> opis(torch.stack([torch.zeros(5), torch.ones(5)]), t)
        tensor(0.2500)
    """
    return _range_mean((utilities - utilities.mean(dim=0)).square().mean(dim=0), thresholds)


def eps_opis(
    utilities: Float[Tensor, "classes thresholds"],
    thresholds: Float[Tensor, " thresholds"],
    *,
    eps: float = Settings.eps,
    ranking: Ranking = Settings.ranking,
) -> Float[Tensor, ""]:
    r"""Squared gap of the worst classes' mean utility to the others', averaged over the range.

    The worst are the ``ceil(eps * C)`` classes with the lowest utility, of equal ones the first.
    ``ranking="mean"`` chooses them once by their mean over the range (the same trapezoid mean as
    every integral here), ``"pointwise"`` anew at each threshold.

    Args:
        utilities: One curve per class, by increasing label.
        thresholds: The range in increasing order, first below last.
        eps: Share of the classes called worst, in (0, 1).
        ranking: See above.

    Returns:
        A value in [0, 1]; NaN if no class is left beside the worst.

    Example:
        >>> t = torch.linspace(0.0, 1.0, 5)
        >>> eps_opis(torch.stack([torch.zeros(5), torch.ones(5), torch.ones(5)]), t)
        tensor(1.)
    """
    if ranking == "mean":
        order = _range_mean(utilities, thresholds).argsort(stable=True)
        ordered = utilities[order]
    else:
        ordered = utilities.sort(dim=0).values
    worst = num_worst(len(utilities), eps)
    return _range_mean((ordered[:worst].mean(dim=0) - ordered[worst:].mean(dim=0)).square(), thresholds)


def num_worst(classes: int, eps: float) -> int:
    """``ceil(eps * classes)`` with ``eps`` taken as the decimal it is written as.

    Example:
        >>> num_worst(100, 0.07), 0.07 * 100
        (7, 7.000000000000001)
    """
    return ceil(Decimal(repr(float(eps))) * classes)


def _rank(far: float, negatives: int) -> int:
    """``ceil(far * negatives)`` with ``far`` taken as the decimal it is written as."""
    return ceil(Decimal(repr(float(far))) * negatives)


def _curves(scan: PairScan, counts: PairCounts) -> OperatingCurves:
    """Counts over increasing thresholds of the axis; a similarity's costs are its negative."""
    if scan.axis == "distance":
        return OperatingCurves(scan.classes, *counts)
    positives, negatives, *accepted = counts
    return OperatingCurves(scan.classes, positives, negatives, *(side.flip(1) for side in accepted))


def _range_mean(curves: Tensor, thresholds: Tensor) -> Tensor:
    """Mean of each curve over the range by the trapezoid rule."""
    return torch.trapezoid(curves, thresholds) / (thresholds[-1] - thresholds[0])


def _reason(scan: PairScan, *, kept: int, low: float, high: float) -> str | None:
    """Why OPIS is undefined here, if it is."""
    classes = len(scan.classes)
    if not scan.num_negative:
        why = f"{scan.num_items} items of one class" if classes == 1 else "no query meets an item of another class"
        return f"no negative pair: {why}"
    if not kept:
        alone = int(scan.sizes.max()) == 1
        why = f"each of {classes} classes has a single item" if alone else "no query meets another item of its class"
        return f"no positive pair: {why}"
    if low == high:
        return f"degenerate calibration range: both false accept rates are reached at {low}"
    return None
