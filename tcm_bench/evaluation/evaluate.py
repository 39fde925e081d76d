"""Everything a test set says about its embeddings, from one pass over all pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from tcm_bench.evaluation import threshold
from tcm_bench.evaluation.counting.scan import Axis, PairScan, check_set
from tcm_bench.evaluation.retrieval import hit_rate
from tcm_bench.evaluation.threshold import Ranking, ThresholdConsistency


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracy and threshold consistency of one set.

    Attributes:
        ks: Numbers of neighbors inspected.
        recall: Recall at each of them, in [0, 1]; NaN without a query.
        classes: Labels in increasing order.
        sizes: Items of each class.
        queries: Queries of each class.
        hits: Those with an item of their class among their ``k`` nearest, for each ``k``.
        consistency: OPIS, eps-OPIS, the calibration range and the counts behind them.
        tpr_at_far: Share of the positive pairs accepted at the threshold of each pooled false accept rate, in [0, 1];
            NaN without pairs of both kinds.
    """

    ks: tuple[int, ...]
    recall: Float[Tensor, " ks"]
    classes: Int[Tensor, " classes"]
    sizes: Int[Tensor, " classes"]
    queries: Int[Tensor, " classes"]
    hits: Int[Tensor, "classes ks"]
    consistency: ThresholdConsistency
    tpr_at_far: dict[float, float]

    def scores(self, eps: float) -> dict[str, float]:
        """Its numbers by the names they have in rows, files and logs; ``eps`` is what it was evaluated with.

        ``recall_at_<k>``, ``opis``, ``opis_<eps>pct``, ``tpr_at_far_<far>pct``, ``d_min`` and ``d_max``.
        """
        found = self.consistency
        return {
            **{f"recall_at_{k}": share for k, share in zip(self.ks, self.recall.tolist(), strict=True)},
            "opis": found.opis,
            score_name("eps_opis", eps): found.eps_opis,
            **{f"tpr_at_far_{percent(far)}": share for far, share in self.tpr_at_far.items()},
            "d_min": found.d_min,
            "d_max": found.d_max,
        }


def evaluate(
    embeddings: Float[Tensor, "items dim"] | Float[np.ndarray, "items dim"],
    labels: Integer[Tensor, " items"] | Integer[np.ndarray, " items"],
    *,
    ks: Sequence[int] = (1,),
    axis: Axis = "distance",
    far_bounds: tuple[float, float] = threshold.FAR_BOUNDS,
    steps: int = 101,
    c: float = 1.0,
    eps: float = 0.1,
    ranking: Ranking = "mean",
    far_levels: Sequence[float] = (),
    query: Bool[Tensor, " items"] | Bool[np.ndarray, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | Bool[np.ndarray, " items"] | None = None,
    group: dist.ProcessGroup | None = None,
    tile: tuple[int, int] | None = None,
) -> Evaluation:
    """Recall@k, OPIS and eps-OPIS over all pairs, exactly; see :mod:`~tcm_bench.evaluation.threshold`.

    Args:
        embeddings: Rows of any norm but 0, torch or numpy, half types too.
        labels: Class of each row.
        ks: Numbers of neighbors inspected, each at least 1; see :func:`~tcm_bench.evaluation.retrieval.recall_at_k`.
        axis: Threshold axis.
        far_bounds: Pooled false accept rates at the ends of the calibration range, ``0 < low < high <= 1``.
        steps: Points of the threshold grid, at least 2.
        c: Weight of sensitivity against specificity in the utility, above 0.
        eps: Share of the classes called worst, in (0, 1).
        ranking: How they are chosen.
        far_levels: False accept rates in (0, 1] at which the true accept rate is wanted.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched; by default all. Where the two differ a pair is a query and an item of the
            gallery.
        group: Processes that hold the same rows and share the work; every one of them must call.
        tile: Rows and columns multiplied at once; changes time and memory, never a result.

    Raises:
        ValueError: If an argument is outside its range, a row is zero or not finite, or there are fewer than two rows.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]], dtype=np.float32)
        >>> result = evaluate(x, np.array([0, 0, 1, 1]), ks=(1, 2), far_bounds=(0.25, 1.0))
        >>> result.recall.tolist(), round(result.consistency.opis, 4)
        ([0.5, 1.0], 0.0413)
    """
    x, y = _tensor(embeddings), _tensor(labels)
    asked, searched = (None if role is None else _tensor(role).to(y.device) for role in (query, gallery))
    check_set(x, y, asked, searched)
    if len(y) < 2:
        raise ValueError(f"evaluation needs at least two items, got {len(y)}")
    check_settings(ks, far_levels, far_bounds=far_bounds, axis=axis, steps=steps, c=c, eps=eps, ranking=ranking)
    y = y.long()
    scan = PairScan(x, y, axis=axis, query=asked, gallery=searched, group=group, tile=tile)
    enough = min(max(ks, default=0), len(y))
    calibrated = threshold.calibration(scan, far_bounds, steps, far_levels=far_levels, enough=enough)
    ahead, of = calibrated.ahead, torch.searchsorted(scan.classes, y.contiguous())
    if asked is not None:
        ahead, of = ahead[asked], of[asked]
    # More than all are all: a query without a positive has as many before it as were counted, and misses at any k.
    numbers = torch.tensor(tuple(ks), dtype=torch.int64, device=y.device).clamp(max=enough)
    hits = torch.zeros(len(scan.classes), len(numbers), dtype=torch.int64, device=y.device)
    hits.index_add_(0, of, (ahead[:, None] < numbers).long())
    defined = scan.num_positive and scan.num_negative
    accepted = calibrated.accepted_at_far.double() / (scan.num_positive if defined else torch.nan)
    return Evaluation(
        ks=tuple(ks),
        recall=hit_rate(ahead, numbers),
        classes=scan.classes,
        sizes=scan.sizes,
        queries=of.bincount(minlength=len(scan.classes)),
        hits=hits,
        consistency=threshold.consistency(scan, calibrated, c=c, eps=eps, ranking=ranking),
        tpr_at_far=dict(zip(far_levels, accepted.tolist(), strict=True)),
    )


def percent(share: float) -> str:
    """A share as part of an identifier: the metric's ``opis_10pct``, ``tpr_at_far_0_1pct``.

    Example:
        >>> percent(0.1), percent(0.125)
        ('10pct', '12_5pct')
    """
    return f"{100 * share:g}pct".replace(".", "_")


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


def check_settings(
    ks: Sequence[int], far_levels: Sequence[float], *, far_bounds: tuple[float, float], **others: Any
) -> None:
    """Refuse settings of `evaluate` outside their ranges, whatever is evaluated.

    Raises:
        ValueError: With one sentence that names the setting.
    """
    threshold.check(far_bounds, **others)
    if any(k < 1 for k in ks):
        raise ValueError(f"k must be at least 1, got {list(ks)}")
    if any(not 0 < far <= 1 for far in far_levels):
        raise ValueError(f"far_levels must be rates in (0, 1], got {list(far_levels)}")
