"""Recall@k, OPIS and eps-OPIS of a gathered set."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tcm_bench.evaluation import evaluate, threshold
from tcm_bench.evaluation.counting.scan import Axis
from tcm_bench.evaluation.gathered import EmbeddingMetric


class Evaluation(EmbeddingMetric):
    """Accuracy and threshold consistency, from one pass over all pairs that the ranks share.

    See :func:`tcm_bench.evaluation.evaluate.evaluate`.

    Args:
        ks: Numbers of neighbors inspected.
        axis: Threshold axis, ``distance`` or ``similarity``.
        far_bounds: Pooled false accept rates at the two ends of the calibration range.
        steps: Points of the threshold grid.
        c: Weight of sensitivity against specificity.
        eps: Share of the classes called worst.
        ranking: How they are chosen, ``mean`` or ``pointwise``.
        far_levels: False accept rates at which the true accept rate is wanted.

    Attributes:
        settings: What decides OPIS, by name, as plain values; to be stored with every result.
        result: The last computed :class:`~tcm_bench.evaluation.evaluate.Evaluation`, with counts and curves; None
            before.
    """

    def __init__(
        self,
        ks: Sequence[int] = (1,),
        axis: Axis = "distance",
        far_bounds: Sequence[float] = threshold.FAR_BOUNDS,
        steps: int = 101,
        c: float = 1.0,
        eps: float = 0.1,
        ranking: threshold.Ranking = "mean",
        far_levels: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "axis": axis,
            "far_bounds": list(far_bounds),
            "steps": steps,
            "c": c,
            "eps": eps,
            "ranking": ranking,
        }
        self.options = {"ks": tuple(ks), "far_levels": tuple(far_levels), "far_bounds": tuple(far_bounds)}
        self.result: evaluate.Evaluation | None = None

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``recall_at_<k>``, ``opis``, ``opis_<eps>pct``, ``tpr_at_far_<far>pct``, ``d_min``, ``d_max`` and counts.

        Each is a float64 scalar.
        """
        # Rows are everybody's only once they have been exchanged.
        group = (self.process_group or dist.group.WORLD) if self._is_synced else None
        options = self.settings | self.options
        self.result = evaluate.evaluate(embeddings, labels, query=query, gallery=gallery, group=group, **options)
        found = self.result.consistency
        values = {
            **self.result.scores(self.settings["eps"]),
            "num_classes": len(self.result.classes),
            "num_singletons": found.singletons,
            "num_positive_pairs": found.num_positive_pairs,
            "num_negative_pairs": found.num_negative_pairs,
        }
        return {name: embeddings.new_tensor(value, dtype=torch.float64) for name, value in values.items()}
