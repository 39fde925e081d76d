"""Recall@k of a gathered set."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tcm_bench.functional.retrieval import recall_at_k
from tcm_bench.metrics.embedding_metric import DType, EmbeddingMetric


class Recall(EmbeddingMetric):
    """Leave-one-out hit rates; see :func:`tcm_bench.functional.retrieval.recall_at_k`.

    Args:
        ks: Numbers of neighbors inspected.
        dtype: What embeddings are cast to before anything is computed.
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, ks: Sequence[int] = (1,), dtype: DType = "float64", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.ks = tuple(ks)

    def evaluate(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``recall_at_<k>`` for each ``k``."""
        values = recall_at_k(embeddings, labels, k=self.ks)
        return {f"recall_at_{k}": value for k, value in zip(self.ks, values, strict=True)}
