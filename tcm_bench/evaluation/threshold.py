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
- Integrals are trapezoids over an even grid of the range, divided by its length. On ``axis="far"`` the grid is even in
  the logarithm of the pooled false accept rate, and each of its points is the threshold of its rate: OPIS is then the
  same for every monotone transform of the similarity.
- All ranges are found and counted in one pass; ``far_bounds`` is the one that OPIS is meant of where none is named.
- A class whose false accept rate moves in steps larger than the range's upper end, because it has fewer than
  ``1 / far_high`` negatives, stays (its specificity is coarse, but right in the mean) and is counted as coarse.
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
from math import ceil, log10, nan
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation import noise
from tcm_bench.evaluation.counting.scan import PairCounts, PairScan
from tcm_bench.evaluation.settings import Axis, Cost, Ranking, Settings


@dataclass(frozen=True, eq=False)
class OperatingCurves:
    """How each class fares at each threshold, as exact counts.

    Attributes:
        classes: Labels in increasing order, singletons included.
        counts: Pairs of each class, and those accepted at each of increasing thresholds of the axis.
    """

    classes: Int[Tensor, " classes"]
    counts: PairCounts

    @property
    def positives(self) -> Int[Tensor, " classes"]:
        """Positive pairs of each class."""
        return self.counts.positives

    @property
    def negatives(self) -> Int[Tensor, " classes"]:
        """Negative pairs of each class."""
        return self.counts.negatives.sum(dim=1)

    @property
    def accepted_positives(self) -> Int[Tensor, "classes thresholds"]:
        """Positives accepted at each threshold."""
        return self.counts.accepted_positives

    @property
    def accepted_negatives(self) -> Int[Tensor, "classes thresholds"]:
        """Negatives accepted at each threshold."""
        return self.counts.accepted_negatives.sum(dim=1)

    @property
    def sensitivity(self) -> Float[Tensor, "classes thresholds"]:
        """Accepted share of the positives in [0, 1]; NaN for a class without one."""
        return self.accepted_positives.double() / self.positives[:, None]

    @property
    def specificity(self) -> Float[Tensor, "classes thresholds"]:
        """Rejected share of the negatives in [0, 1]; NaN for a class without one."""
        return (self.negatives[:, None] - self.accepted_negatives).double() / self.negatives[:, None]

    def at(self, thresholds: Int[Tensor, " chosen"]) -> "OperatingCurves":
        """At some of the thresholds, by number."""
        return OperatingCurves(self.classes, self.counts.at(thresholds))


@dataclass(frozen=True, eq=False)
class ThresholdConsistency:
    """What one threshold of a calibration range means for the classes of a set.

    Attributes:
        opis: Spread of the classes' utility curves, in [0, 0.25]; NaN if ``reason`` says why.
        eps_opis: Squared gap of the worst classes to the rest, in [0, 1]; NaN likewise.
        opis_corrected: OPIS without the noise of few images a class (:mod:`~tcm_bench.evaluation.noise`), over the
            classes of which that noise is known; NaN if there is none.
        noise_floor: Share of these classes' OPIS that is noise, in [0, 1].
        mean_utility: Of all classes, over the range, in [0, 1].
        threshold_low: Low end of the calibration range, as a distance or a cosine.
        threshold_high: High end. As distances this is where more is accepted, as cosines where less is.
        thresholds: Grid from ``threshold_low`` to ``threshold_high``.
        places: Of the thresholds on the axis, see `axis_places`.
        curves: Exact counts of every class over ``thresholds``; None without a negative pair.
        utilities: Curve of each class kept, over ``thresholds``; NaN without a negative pair.
        classes: Labels of the classes kept, increasing.
        singletons: Classes left out because they have no positive pair: a single item, as a rule.
        coarse: Classes kept that have too few negatives to show a false accept rate within the range.
        noise_unknown: Classes kept of which no two positive pairs share no item, so that their noise is not known.
        num_positive_pairs: Unordered pairs of one class.
        num_negative_pairs: Unordered pairs of two classes.
        reason: Why a value is NaN; None if none is.
    """

    opis: float
    eps_opis: float
    opis_corrected: float
    noise_floor: float
    mean_utility: float
    threshold_low: float
    threshold_high: float
    thresholds: Float[Tensor, " thresholds"]
    places: Float[Tensor, " thresholds"]
    curves: OperatingCurves | None
    utilities: Float[Tensor, "classes thresholds"]
    classes: Int[Tensor, " classes"]
    singletons: int
    coarse: int
    noise_unknown: int
    num_positive_pairs: int
    num_negative_pairs: int
    reason: str | None


class Calibration(NamedTuple):
    """What a pass over all pairs finds.

    Attributes:
        thresholds: Of every range, the headline's first: its grid in units of the axis, increasing; NaN without a
            negative pair.
        curves: Counts of every class over the thresholds of all ranges, increasing; None without a negative pair.
        counted: These thresholds.
        accepted_at_far: Positive pairs accepted at each false accept rate asked for beside the range's ends.
        rank_of_first_positive: See :meth:`PairScan.rank_of_first_positive`.
    """

    thresholds: list[Float[Tensor, " thresholds"]]
    curves: OperatingCurves | None
    counted: Float[Tensor, " counted"]
    accepted_at_far: Int[Tensor, " levels"]
    rank_of_first_positive: Int[Tensor, " items"]


def calibrate(scan: PairScan, settings: Settings, max_rank: int = 0) -> Calibration:
    """The calibration ranges and the counts over them, in one pass as a rule."""
    ranges, points = settings.ranges, settings.num_thresholds
    device = scan.order.device
    if not scan.num_negative:
        undefined = [torch.full((points,), nan, dtype=torch.float64, device=device) for _ in ranges]
        none = torch.zeros(len(settings.far_levels), dtype=torch.int64, device=device)
        return Calibration(undefined, None, undefined[0], none, scan.rank_of_first_positive(max_rank))
    # The rates at which a range's thresholds are found; all others lie evenly between.
    rates = [_log_rates(*bounds, points) if settings.axis == "far" else bounds for bounds in ranges]

    def grids(costs: Tensor) -> list[Tensor]:
        """Costs of each range's thresholds, increasing."""
        found = costs.split([*map(len, rates), len(settings.far_levels)])[:-1]
        return [part if settings.axis == "far" else _even(part, points, settings.cost) for part in found]

    ranks = [
        _rank(far, scan.num_negative) for far in (*(rate for part in rates for rate in part), *settings.far_levels)
    ]
    found = scan.calibrated(ranks, lambda costs: torch.cat(grids(costs)).sort().values, max_rank)
    of_ranges = grids(found.costs)
    counted = torch.cat(of_ranges).sort().values
    curves = OperatingCurves(scan.classes, found.counts)
    at_far = scan.accepted_positives(found.costs[len(ranks) - len(settings.far_levels) :])
    if settings.cost == "similarity":  # cosines are negated costs
        of_ranges, counted = [-part.flip(0) for part in of_ranges], -counted.flip(0)
        curves = curves.at(torch.arange(len(counted), device=device).flip(0))
    return Calibration(of_ranges, curves, counted, at_far, found.rank_of_first_positive)


def consistency(scan: PairScan, calibration: Calibration, settings: Settings, of: int = 0) -> ThresholdConsistency:
    """OPIS, eps-OPIS and what they are made of from counts, for one of the ranges: 0 is the headline."""
    thresholds, curves = calibration.thresholds[of], calibration.curves
    bounds = settings.ranges[of]
    places = axis_places(settings.axis, bounds, thresholds)
    kept = scan.positives > 0
    utilities = thresholds.new_full((int(kept.sum()), len(thresholds)), nan)
    if curves is not None:
        curves = curves.at(torch.searchsorted(calibration.counted, thresholds))
        utilities = utility(curves.sensitivity[kept], curves.specificity[kept], c=settings.c)
    reason = _reason(scan, kept=int(kept.sum()), low=float(thresholds[0]), high=float(thresholds[-1]))
    score = gap = corrected = floor = mean = nan
    known = kept & (curves.counts.disjoint > 0) if curves is not None else torch.zeros_like(kept)
    if curves is not None and reason is None:
        score = float(opis(utilities, places))
        gap = float(eps_opis(utilities, places, eps=settings.eps, ranking=settings.ranking))
        mean = float(_range_mean(utilities.mean(dim=0), places))
        if num_worst(len(utilities), settings.eps) == len(utilities):
            reason = f"eps_opis: all {len(utilities)} classes are among the worst, none is left to compare with"
        if known.any():
            corrected = float(opis(_less_noise(curves, known, settings.c), places))
            plain = float(opis(utilities[known[kept]], places))
            floor = min(max(1 - corrected / plain, 0.0), 1.0) if plain else 0.0
    negatives = scan.negatives.sum(dim=1)
    return ThresholdConsistency(
        opis=score,
        eps_opis=gap,
        opis_corrected=corrected,
        noise_floor=floor,
        mean_utility=mean,
        threshold_low=float(thresholds[0]),
        threshold_high=float(thresholds[-1]),
        thresholds=thresholds,
        places=places,
        curves=curves,
        utilities=utilities,
        classes=scan.classes[kept],
        singletons=int((~kept).sum()),
        coarse=int((kept & (negatives * bounds[1] < 1)).sum()),
        noise_unknown=int((kept & ~known).sum()),
        num_positive_pairs=scan.num_positive,
        num_negative_pairs=scan.num_negative,
        reason=reason,
    )


def axis_places(
    axis: Axis, bounds: tuple[float, float], thresholds: Float[Tensor, " thresholds"]
) -> Float[Tensor, " thresholds"]:
    """Where thresholds lie on the axis: at themselves, or at the decimal logarithm of their false accept rates.

    Args:
        axis: Of the settings.
        bounds: False accept rates at the ends of the range.
        thresholds: Its grid.
    """
    if axis != "far":
        return thresholds
    return torch.linspace(log10(bounds[0]), log10(bounds[1]), len(thresholds)).to(thresholds)


def operating_curves(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    thresholds: Float[Tensor, " thresholds"],
    *,
    axis: Cost = "distance",
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
    if axis == "distance":
        return OperatingCurves(scan.classes, scan.counts(thresholds))
    backwards = torch.arange(len(thresholds), device=thresholds.device).flip(0)
    return OperatingCurves(scan.classes, scan.counts(-thresholds.flip(0)).at(backwards))


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


def _log_rates(low: float, high: float, points: int) -> list[float]:
    """Rates from low to high whose logarithms lie evenly; the ends as they are written."""
    inner = torch.logspace(log10(low), log10(high), points, dtype=torch.float64)[1:-1].tolist()
    return [low, *inner, high]


def _even(ends: Float[Tensor, "2"], points: int, cost: Cost) -> Float[Tensor, " points"]:
    """Costs of an even grid of the axis between two costs; a cosine is a negated cost."""
    low, high = ends.tolist()
    if cost == "distance":
        return torch.linspace(low, high, points, dtype=torch.float64, device=ends.device)
    return -torch.linspace(-high, -low, points, dtype=torch.float64, device=ends.device).flip(0)


def _less_noise(curves: OperatingCurves, known: Tensor, c: float) -> Float[Tensor, "classes thresholds"]:
    """Utilities of the classes whose noise is known, without its share in their spread."""
    counts = PairCounts(*(part[known] for part in curves.counts))
    sensitivity, specificity = curves.sensitivity[known], curves.specificity[known]
    return utility(
        noise.less_noise(sensitivity, noise.sensitivity_noise(sensitivity, counts.disjoint, counts.accepted_disjoint)),
        noise.less_noise(specificity, noise.specificity_noise(counts.negatives, counts.accepted_negatives)),
        c=c,
    )


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
