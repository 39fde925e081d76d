"""OPIS and eps-OPIS of a gathered set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tcm_bench.functional import threshold
from tcm_bench.functional.pair_counts import Axis
from tcm_bench.metrics.embedding_metric import DType, EmbeddingMetric


class ThresholdConsistency(EmbeddingMetric):
    """How one threshold fares over classes; see :mod:`tcm_bench.functional.threshold`.

    Args:
        axis: Threshold axis, ``distance`` or ``similarity``.
        far_bounds: Pooled false accept rates at the two ends of the calibration range.
        steps: Points of the threshold grid.
        c: Weight of sensitivity against specificity.
        eps: Share of the classes called worst.
        ranking: How they are chosen, ``mean`` or ``pointwise``.
        dtype: What embeddings are cast to before anything is computed.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Attributes:
        settings: All of the above by name, as plain values; to be stored with every result.
        result: The last computed
            :class:`~tcm_bench.functional.threshold.ThresholdConsistency`, with grid and curves;
            None before.
    """

    higher_is_better = False

    def __init__(
        self,
        axis: Axis = "distance",
        far_bounds: Sequence[float] = threshold.FAR_BOUNDS,
        steps: int = 101,
        c: float = 1.0,
        eps: float = 0.1,
        ranking: threshold.Ranking = "mean",
        dtype: DType = "float64",
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.options: dict[str, Any] = {
            "axis": axis,
            "far_bounds": tuple(far_bounds),
            "steps": steps,
            "c": c,
            "eps": eps,
            "ranking": ranking,
        }
        self.settings = self.options | {"far_bounds": list(far_bounds), "dtype": dtype}
        self.result: threshold.ThresholdConsistency | None = None

    def evaluate(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``opis``, ``opis_<eps>pct``, ``d_min``, ``d_max`` and counts, each a float64 scalar."""
        result = threshold.threshold_consistency(embeddings, labels, **self.options)
        self.result = result
        percent = f"{100 * self.options['eps']:g}".replace(".", "_")
        values = {
            "opis": result.opis,
            f"opis_{percent}pct": result.eps_opis,
            "d_min": result.d_min,
            "d_max": result.d_max,
            "num_classes": len(result.classes),
            "num_singletons": result.singletons,
            "num_positive_pairs": result.num_positive_pairs,
            "num_negative_pairs": result.num_negative_pairs,
        }
        return {name: labels.new_tensor(value, dtype=torch.float64) for name, value in values.items()}
