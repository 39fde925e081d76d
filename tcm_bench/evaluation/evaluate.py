"""Everything a test set says about its embeddings, from one pass over all pairs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from tcm_bench.evaluation import threshold
from tcm_bench.evaluation.counting.scan import PairScan
from tcm_bench.evaluation.own_thresholds import own_thresholds, spread
from tcm_bench.evaluation.retrieval import check_set, hit_rate
from tcm_bench.evaluation.settings import Settings
from tcm_bench.evaluation.threshold import ThresholdConsistency

DEFAULT = Settings()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracy and threshold consistency of one set.

    Attributes:
        settings: What decided it.
        recall: Recall at each of ``settings.ks``, in [0, 1]; NaN without a query.
        classes: Labels in increasing order.
        sizes: Items of each class.
        queries: Queries of each class.
        hits: Those with an item of their class among their ``k`` nearest, for each ``k``.
        ranges: OPIS, eps-OPIS, the calibration range and the counts behind them, for each of ``settings.ranges``.
        own_thresholds: Costs at which each class has a rate of its own; see
            :func:`tcm_bench.evaluation.own_thresholds.own_thresholds`.
        tar_at_far: Share of the positive pairs accepted at the threshold of each pooled false accept rate, in [0, 1];
            NaN without pairs of both kinds.
    """

    settings: Settings
    recall: Float[Tensor, " ks"]
    classes: Int[Tensor, " classes"]
    sizes: Int[Tensor, " classes"]
    queries: Int[Tensor, " classes"]
    hits: Int[Tensor, "classes ks"]
    ranges: tuple[ThresholdConsistency, ...]
    own_thresholds: dict[str, Float[Tensor, " classes"]]
    tar_at_far: dict[float, float]

    @property
    def consistency(self) -> ThresholdConsistency:
        """Of the range that is meant where none is named."""
        return self.ranges[0]

    def scores(self) -> dict[str, float]:
        """Its scores by the names they have in rows, files and logs; NaN for what is undefined.

        ``recall_at_<k>``; of the headline's range ``opis``, ``opis_<eps>pct``, ``opis_corrected``, ``noise_floor`` and
        ``mean_utility``, of the others the same and ``_far_<high>``, as in ``opis_far_1e-3``;
        ``threshold_spread_tar_90pct`` and ``threshold_spread_far_1pct``, ``tar_at_far_<far>pct``.
        """
        scores = {f"recall_at_{k}": share for k, share in zip(self.settings.ks, self.recall.tolist(), strict=True)}
        for bounds, found in zip(self.settings.ranges, self.ranges, strict=True):
            of = "" if found is self.consistency else f"_far_{scientific(bounds[1])}"
            scores |= {
                f"opis{of}": found.opis,
                f"{score_name('eps_opis', self.settings.eps)}{of}": found.eps_opis,
                f"opis_corrected{of}": found.opis_corrected,
                f"noise_floor{of}": found.noise_floor,
                f"mean_utility{of}": found.mean_utility,
            }
        return {
            **scores,
            **{f"threshold_spread_{rate}": spread(costs) for rate, costs in self.own_thresholds.items()},
            **{f"tar_at_far_{percent(far)}": share for far, share in self.tar_at_far.items()},
        }

    def counts(self) -> dict[str, int]:
        """What the scores were taken over.

        `singletons` are the classes without a positive pair, `noise_unknown` those with too few images for the noise
        to be known, `coarse` those with too few negatives for a range, the narrowest of all.
        """
        return {
            "images": int(self.sizes.sum()),
            "queries": int(self.queries.sum()),
            "classes": len(self.classes),
            "singletons": self.consistency.singletons,
            "noise_unknown": self.consistency.noise_unknown,
            "coarse": max(found.coarse for found in self.ranges),
            "positive_pairs": self.consistency.num_positive_pairs,
            "negative_pairs": self.consistency.num_negative_pairs,
        }

    @property
    def strictest_cosine(self) -> float:
        """From which cosine on pairs are accepted at the lowest FAR of the calibration range; NaN if there is none."""
        if self.settings.cost == "similarity":
            return self.consistency.threshold_high
        return 1 - self.consistency.threshold_low**2 / 2

    @property
    def reason(self) -> str | None:
        """Why a score is undefined; None if none is."""
        no_query = None if int(self.queries.sum()) else "recall: there is no query"
        further = (
            f"opis_far_{scientific(bounds[1])}: {found.reason}"
            for bounds, found in zip(self.settings.ranges[1:], self.ranges[1:], strict=True)
            if found.reason not in (None, self.consistency.reason)
        )
        return "; ".join(filter(None, (self.consistency.reason, *further, no_query))) or None


def evaluate(
    embeddings: Float[Tensor, "items dim"] | Float[np.ndarray, "items dim"],
    labels: Integer[Tensor, " items"] | Integer[np.ndarray, " items"],
    settings: Settings = DEFAULT,
    *,
    query: Bool[Tensor, " items"] | Bool[np.ndarray, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | Bool[np.ndarray, " items"] | None = None,
    group: dist.ProcessGroup | None = None,
    tile: tuple[int, int] | None = None,
    **changed: Any,
) -> Evaluation:
    """Recall@k, OPIS and eps-OPIS over all pairs, exactly; see :mod:`~tcm_bench.evaluation.threshold`.

    Args:
        embeddings: Rows of any norm but 0, torch or numpy, half types too.
        labels: Class of each row.
        settings: How it is made.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched, likewise. Where the two differ a pair is a query and an item of the gallery.
        group: Processes that hold the same rows and share the work; every one of them must call.
        tile: Rows and columns multiplied at once; changes time and memory, never a result.
        **changed: Single settings by name, in place of those of ``settings``.

    Raises:
        ValueError: If a setting is outside its range, a row is zero or not finite, or there are fewer than two rows.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]], dtype=np.float32)
        >>> result = evaluate(x, np.array([0, 0, 1, 1]), ks=(1, 2), far_bounds=(0.25, 1.0))
        >>> result.recall.tolist(), round(result.consistency.opis, 4)
        ([0.5, 1.0], 0.0413)
    """
    x, y = _tensor(embeddings), _tensor(labels)
    is_query, is_searched = (None if role is None else _tensor(role).to(y.device) for role in (query, gallery))
    check_set(x, y, is_query, is_searched)
    if len(y) < 2:
        raise ValueError(f"evaluation needs at least two items, got {len(y)}")
    settings = replace(settings, **changed)
    y = y.long()
    scan = PairScan(x, y, axis=settings.cost, query=is_query, gallery=is_searched, group=group, tile=tile)
    max_rank = min(max(settings.ks, default=0), len(y))
    calibration = threshold.calibrate(scan, settings, max_rank)
    rank, of = calibration.rank_of_first_positive, torch.searchsorted(scan.classes, y.contiguous())
    if is_query is not None:
        rank, of = rank[is_query], of[is_query]
    # More than all are all: a query without a positive has as many before it as were counted, and misses at any k.
    ks = torch.tensor(settings.ks, dtype=torch.int64, device=y.device).clamp(max=max_rank)
    hits = rank.new_zeros(len(scan.classes), len(ks)).index_add_(0, of, (rank[:, None] < ks).long())
    defined = scan.num_positive and scan.num_negative
    accepted = calibration.accepted_at_far.double() / (scan.num_positive if defined else torch.nan)
    return Evaluation(
        settings=settings,
        recall=hit_rate(rank, ks),
        classes=scan.classes,
        sizes=scan.sizes,
        queries=of.bincount(minlength=len(scan.classes)),
        hits=hits,
        ranges=tuple(threshold.consistency(scan, calibration, settings, of) for of in range(len(settings.ranges))),
        own_thresholds=own_thresholds(scan, calibration),
        tar_at_far=dict(zip(settings.far_levels, accepted.tolist(), strict=True)),
    )


def percent(share: float) -> str:
    """A share as part of an identifier: the metric's ``opis_10pct``, ``tar_at_far_0_1pct``.

    Example:
        >>> percent(0.1), percent(0.125)
        ('10pct', '12_5pct')
    """
    return f"{100 * share:g}pct".replace(".", "_")


def scientific(rate: float) -> str:
    """A small rate as part of an identifier.

    Example:
        >>> scientific(0.001), scientific(0.025)
        ('1e-3', '2.5e-2')
    """
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def score_name(name: str, eps: float) -> str:
    """What a score is called: ``eps_opis`` by its share of the classes, others as they are.

    Example:
        >>> score_name("opis", 0.1), score_name("eps_opis", 0.1)
        ('opis', 'opis_10pct')
    """
    return f"opis_{percent(eps)}" if name == "eps_opis" else name


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    """Any array as a tensor, without a copy if it can be one."""
    return torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
