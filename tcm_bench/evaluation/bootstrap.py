"""How sure a number is: over training seeds, and over the classes of a test set.

The bootstrap over classes draws as many classes as there are, with replacement, and takes the score anew from what
each class contributed to the whole; no pair is looked at again. Its standard error and percentile interval say how
far the score would move had other classes of the same population been tested with the same network. Recall draws
among the classes with a query, and is hits over queries of those drawn; OPIS and eps-OPIS draw among the classes
with a positive pair, and mean curve and worst classes are those of the draw.

What is held fixed is not covered: the utility curve of each class, hence the calibration range, and the items that
stood against it, whose classes are not drawn anew; and the network: training with another seed moves OPIS more than
other classes do, and only :func:`paired_difference` over seeds speaks of that. A variance of few classes comes out
small, OPIS of ``n`` by a factor near ``1 - 1 / n``, and so does its interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.evaluation.evaluate import Evaluation
from tcm_bench.evaluation.settings import Ranking, Settings
from tcm_bench.evaluation.threshold import num_worst

RESAMPLES, CONFIDENCE = 1000, 0.95
AT_ONCE = 2**18  # weights of classes


def paired_difference(
    base: Sequence[float], tcm: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Mean of ``tcm - base`` over seeds and its two-sided Student t interval.

    The seeds are paired because a seed fixes initialization and batches of both arms; what they
    share cancels in the difference.

    Args:
        base: One value a seed, without TCM.
        tcm: The same seeds in the same order, with TCM.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        ``(mean, low, high)``; with fewer than two seeds the bounds are NaN, with none the mean too.

    Raises:
        ValueError: If the lengths differ or ``confidence`` is outside (0, 1).

    Example:
        >>> paired_difference([0.5, 0.75], [0.25, 0.5])
        (-0.25, -0.25, -0.25)
    """
    from scipy.special import stdtrit  # nothing else here needs it, and loading takes its time

    if len(base) != len(tcm):
        raise ValueError(f"base has {len(base)} seeds and tcm {len(tcm)}, they must be the same seeds")
    _check_confidence(confidence)
    difference = np.asarray(tcm, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    seeds = len(difference)
    mean = float(difference.mean()) if seeds else float("nan")
    if seeds < 2:
        return mean, float("nan"), float("nan")
    standard_error = float(difference.std(ddof=1)) / seeds**0.5
    half_width = float(stdtrit(seeds - 1, (1 + confidence) / 2)) * standard_error
    return mean, mean - half_width, mean + half_width


def p_value(difference: tuple[float, float, float], seeds: int) -> float:
    """Two-sided, of the paired t test whose 95 % interval `paired_difference` gives.

    Args:
        difference: ``(mean, low, high)``.
        seeds: How many there were.

    Returns:
        NaN where there is no interval; 0 or 1 where all seeds differ by the same.

    Example:
        >>> round(p_value(paired_difference([1.0, 2.0, 3.0], [2.0, 4.0, 4.5]), 3), 3)
        0.035
        >>> p_value((0.0, 0.0, 0.0), 3)
        1.0
    """
    from scipy.special import stdtr, stdtrit

    mean, low, high = difference
    standard_error = (high - low) / 2 / float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) if seeds > 1 else nan
    if standard_error == 0:
        return float(mean == 0)
    return 2 * float(stdtr(seeds - 1, -abs(mean) / standard_error))


class Estimate(NamedTuple):
    """A number and how sure it is.

    Attributes:
        value: As measured.
        standard_error: Standard deviation over the resamples.
        low: Low end of their percentile interval.
        high: High end.
    """

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PerClass:
    """What each class contributes to the scores of its set.

    Attributes:
        ks: Numbers of neighbors inspected.
        queries: Queries of each class.
        hits: Those with an item of their class among their ``k`` nearest, for each ``k``.
        utilities: Utility curve of each class; NaN for a class without a positive pair, or where it is undefined.
        places: Of the calibration range's thresholds on its axis.
        eps: Share of the classes called worst.
        ranking: How they are chosen.
    """

    ks: tuple[int, ...]
    queries: Int[Tensor, " classes"]
    hits: Int[Tensor, "classes ks"]
    utilities: Float[Tensor, "classes thresholds"]
    places: Float[Tensor, " thresholds"]
    eps: float = Settings.eps
    ranking: Ranking = Settings.ranking

    @classmethod
    def of(cls, evaluation: Evaluation) -> "PerClass":
        """Of an evaluation."""
        found = evaluation.consistency
        utilities = found.utilities.new_full((len(evaluation.classes), len(found.thresholds)), nan)
        utilities[torch.searchsorted(evaluation.classes, found.classes)] = found.utilities
        return cls(
            ks=evaluation.settings.ks,
            queries=evaluation.queries.cpu(),
            hits=evaluation.hits.cpu(),
            utilities=utilities.cpu(),
            places=found.places.cpu(),
            eps=evaluation.settings.eps,
            ranking=evaluation.settings.ranking,
        )


def class_bootstrap(
    sample: PerClass, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, Estimate]:
    """Every score of a set, with its error had other classes been tested; see the module.

    Args:
        sample: The set, by class.
        resamples: How many sets of as many classes are drawn.
        confidence: Coverage of the percentile interval, in (0, 1).
        seed: Of the draws; the same seed draws the same classes.

    Returns:
        ``recall_at_<k>`` for each ``k``, ``opis`` and ``eps_opis``. A score that is undefined is NaN throughout, one
        of a single class has NaN for its error.

    Raises:
        ValueError: If ``confidence`` is outside (0, 1) or there are fewer than two resamples.

    Example:
        >>> hits = torch.tensor([[0], [2], [2]])
        >>> curves = torch.full((3, 2), torch.nan)
        >>> sample = PerClass((1,), torch.tensor([2, 2, 2]), hits, curves, torch.tensor([0.0, 1.0]))
        >>> found = class_bootstrap(sample)["recall_at_1"]
        >>> round(found.value, 4), round(found.standard_error, 1), found.low, found.high
        (0.6667, 0.3, 0.0, 1.0)
    """
    drawn = _resampled(sample, resamples, seed)
    return _estimates(_measured(sample), drawn, confidence)


def class_difference(
    base: PerClass, other: PerClass, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, Estimate]:
    """``other - base`` of every score, of two networks on the same test set.

    The same classes are drawn for both, so what makes a class easy or hard for both cancels.

    Args:
        base: What each class contributed with the network that is compared with.
        other: The same with the other network, classes in the same order.
        resamples: As in :func:`class_bootstrap`.
        confidence: As in :func:`class_bootstrap`.
        seed: As in :func:`class_bootstrap`.

    Returns:
        By name as there, for the scores that both have.

    Raises:
        ValueError: If the classes differ in number, in queries or in which have a positive pair, or as there.
    """
    same = torch.equal(base.queries, other.queries) and torch.equal(_has_curve(base), _has_curve(other))
    if not same:
        raise ValueError(
            f"the two were not measured on the same test set: {len(base.queries)} and {len(other.queries)} classes, "
            f"{int(base.queries.sum())} and {int(other.queries.sum())} queries, "
            f"{int(_has_curve(base).sum())} and {int(_has_curve(other).sum())} utility curves"
        )
    first, second = _measured(base), _measured(other)
    drawn_first, drawn_second = _resampled(base, resamples, seed), _resampled(other, resamples, seed)
    shared = [name for name in first if name in second]
    return _estimates(
        {name: second[name] - first[name] for name in shared},
        {name: drawn_second[name] - drawn_first[name] for name in shared},
        confidence,
    )


def multiplicities(classes: int, resamples: int, seed: int) -> Iterator[Float[Tensor, "resamples classes"]]:
    """How often each class is in each resample, in blocks; each row sums to ``classes``."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, AT_ONCE // max(1, classes))
    for begin in range(0, resamples, at_once):
        drawn = torch.randint(classes, (min(at_once, resamples - begin), classes), generator=generator)
        weights = torch.zeros(drawn.shape, dtype=torch.float64)
        yield weights.scatter_add_(1, drawn, torch.ones_like(weights))


def _has_curve(sample: PerClass) -> Tensor:
    return ~sample.utilities.isnan().any(dim=1)


def _resampled(sample: PerClass, resamples: int, seed: int) -> dict[str, Float[Tensor, " resamples"]]:
    """Every score of every resample; NaN where a single class leaves nothing to draw."""
    if resamples < 2:
        raise ValueError(f"a bootstrap needs at least two resamples, got {resamples}")
    found: dict[str, Tensor] = {}
    for scores in (_Recall(sample), _Spread(sample)):
        if scores.classes < 2:
            found |= {name: torch.full((resamples,), nan, dtype=torch.float64) for name in scores.names}
            continue
        blocks = [scores(weights) for weights in multiplicities(scores.classes, resamples, seed)]
        found |= {name: torch.cat([block[name] for block in blocks]) for name in scores.names}
    return found


def _measured(sample: PerClass) -> dict[str, float]:
    """Every score of the set itself: each class once; NaN without a class."""
    found: dict[str, float] = {}
    for scores in (_Recall(sample), _Spread(sample)):
        once = scores(torch.ones(1, scores.classes, dtype=torch.float64))
        found |= {name: float(value) for name, value in once.items()}
    return found


class _Recall:
    """Recall of weighted classes."""

    def __init__(self, sample: PerClass) -> None:
        asked = sample.queries > 0
        self.classes = int(asked.sum())
        self.names = tuple(f"recall_at_{k}" for k in sample.ks)
        self._queries, self._hits = sample.queries[asked].double(), sample.hits[asked].double()

    def __call__(self, weights: Tensor) -> dict[str, Tensor]:
        recall = weights @ self._hits / (weights @ self._queries)[:, None]
        return dict(zip(self.names, recall.unbind(1), strict=True))


class _Spread:
    """OPIS and eps-OPIS of weighted classes."""

    names = ("opis", "eps_opis")

    def __init__(self, sample: PerClass) -> None:
        kept = _has_curve(sample)
        self.classes = int(kept.sum())
        self._places = sample.places.double()
        curves = sample.utilities[kept].double()
        # Classes by increasing utility, over the range or at each threshold; of equal ones the first.
        key = self._range_mean(curves)[:, None] if sample.ranking == "mean" else curves
        self._orders = key.argsort(dim=0, stable=True).unbind(1)
        self._worst = num_worst(self.classes, sample.eps)
        self._curves = curves
        # Deviations in place of utilities: their squares lose no digits where the curves lie close together.
        self._deviations = curves - curves.mean(dim=0)
        self._squares = self._deviations.square()

    def __call__(self, weights: Tensor) -> dict[str, Tensor]:
        mean = weights @ self._deviations / self.classes
        variance = (weights @ self._squares / self.classes - mean.square()).clamp(min=0)
        gap = self._gap(weights) if self._worst < self.classes else torch.full_like(mean, nan)
        return {"opis": self._range_mean(variance), "eps_opis": self._range_mean(gap.square())}

    def _gap(self, weights: Tensor) -> Tensor:
        """Mean of the worst less that of the rest, at each threshold."""
        if len(self._orders) == 1:
            (order,) = self._orders
            worst = self._among_worst(weights[:, order]) @ self._curves[order]
        else:
            steps = zip(self._orders, self._curves.unbind(1), strict=True)
            worst = torch.stack([self._among_worst(weights[:, order]) @ curve[order] for order, curve in steps], dim=1)
        every = weights @ self._curves
        return worst / self._worst - (every - worst) / (self.classes - self._worst)

    def _among_worst(self, weights: Tensor) -> Tensor:
        """How many of each class's copies are among the worst, of classes by increasing utility."""
        before = weights.cumsum(dim=1) - weights
        return before.neg_().add_(self._worst).clamp_(min=0).minimum(weights)

    def _range_mean(self, curves: Tensor) -> Tensor:
        return torch.trapezoid(curves, self._places) / (self._places[-1] - self._places[0])


def _estimates(measured: Mapping[str, float], drawn: Mapping[str, Tensor], confidence: float) -> dict[str, Estimate]:
    _check_confidence(confidence)
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    found = {}
    for name, values in drawn.items():
        low, high = values.quantile(ends).tolist()
        found[name] = Estimate(measured[name], float(values.std()), low, high)
    return found


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
