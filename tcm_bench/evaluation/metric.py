"""Recall@k, OPIS and eps-OPIS of a gathered set."""

import inspect
from typing import Any

import torch.distributed as dist
from torch import Tensor, float64

from tcm_bench.evaluation.evaluate import Evaluation, evaluate
from tcm_bench.evaluation.gathered import EmbeddingMetric
from tcm_bench.evaluation.settings import Settings


class EvaluationMetric(EmbeddingMetric):
    """Accuracy and threshold consistency, from one pass over all pairs that the ranks share.

    See :func:`tcm_bench.evaluation.evaluate.evaluate`.

    Args:
        **settings: Those of :class:`~tcm_bench.evaluation.settings.Settings`.

    Attributes:
        settings: How it evaluates.
        result: What was computed last; None before.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = Settings(**settings)
        self.result: Evaluation | None = None

    # For whoever asks what it takes, as the check of a configuration does.
    __init__.__signature__ = inspect.signature(Settings.__init__)  # type: ignore[attr-defined]

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The scores by name, float64 scalars; counts, curves and the calibration range are in ``result``."""
        # Rows are everybody's only once they have been exchanged.
        group = (self.process_group or dist.group.WORLD) if self._is_synced else None
        self.result = evaluate(embeddings, labels, self.settings, query=query, gallery=gallery, group=group)
        return {name: embeddings.new_tensor(score, dtype=float64) for name, score in self.result.scores().items()}
