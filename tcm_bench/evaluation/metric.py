"""Scores of a test set as torchmetrics: rows are gathered over batches and ranks, then evaluated."""

import inspect
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tcm_bench.evaluation.evaluate import Evaluation, evaluate
from tcm_bench.evaluation.retrieval import precision_at_r, recall_at_k
from tcm_bench.evaluation.settings import Settings


class EmbeddingMetric(Metric, ABC):
    """Gathers ``(embedding, label, index)`` rows; subclasses turn the table into numbers.

    Rows are keyed by their index in the dataset and each is kept once, because a distributed
    sampler pads the last batch with repeats and a repeated row would be its own perfect neighbor.
    The table is sorted by index, so the result does not depend on the order or the rank in which
    rows came. Metrics of one ``MetricCollection`` share a single copy of it (compute groups).


    Attributes:
        query: Which items of the dataset are queries, by index; None: all. To be set before anything is computed.
        gallery: Which are searched, likewise.
    """

    full_state_update = False
    is_differentiable = False

    embeddings: list[Tensor]
    labels: list[Tensor]
    indices: list[Tensor]

    query: Bool[Tensor, " dataset"] | None
    gallery: Bool[Tensor, " dataset"] | None

    def __init__(self) -> None:
        super().__init__()
        self.query = self.gallery = None
        for state in ("embeddings", "labels", "indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        indices: Int[Tensor, " batch"],
    ) -> None:
        """Add rows; half types are kept as float32, which loses nothing."""
        self.embeddings.append(
            embeddings.detach() if embeddings.dtype == torch.float64 else embeddings.float().detach()
        )
        self.labels.append(labels)
        self.indices.append(indices)

    def compute(self) -> dict[str, Tensor]:
        """Values by name, over every distinct row seen."""
        embeddings, labels, indices = self.table()
        query, gallery = (
            None if role is None else role[indices.to(role.device)].to(labels.device)
            for role in (self.query, self.gallery)
        )
        return self.evaluate(embeddings, labels, query, gallery)

    def table(self) -> tuple[Float[Tensor, "items dim"], Int[Tensor, " items"], Int[Tensor, " items"]]:
        """Embeddings, labels and indices of every distinct row seen, sorted by index.

        Raises:
            ValueError: If one index came with two labels: rows of two datasets were mixed.
        """
        embeddings, labels, indices = map(dim_zero_cat, (self.embeddings, self.labels, self.indices))
        indices, order = indices.sort(stable=True)
        labels = labels[order]
        repeated = indices[1:] == indices[:-1]
        if (clash := repeated & (labels[1:] != labels[:-1])).any():
            index = int(indices[1:][clash][0])
            raise ValueError(f"index {index} came with two labels, rows must be keyed by one dataset's index")
        first = torch.cat([repeated.new_ones(1), ~repeated])
        return embeddings[order[first]], labels[first], indices[first]

    @abstractmethod
    def evaluate(
        self,
        embeddings: Float[Tensor, "items dim"],
        labels: Int[Tensor, " items"],
        query: Bool[Tensor, " items"] | None = None,
        gallery: Bool[Tensor, " items"] | None = None,
    ) -> dict[str, Tensor]:
        """Scalars by name from the table of distinct rows, sorted by index."""


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
        return {name: embeddings.new_tensor(score, dtype=torch.float64) for name, score in self.result.scores().items()}


class PrecisionAtRMetric(EmbeddingMetric):
    """What the R nearest items hold; see :func:`tcm_bench.evaluation.retrieval.precision_at_r`."""

    higher_is_better = True

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``map_at_r`` and ``r_precision``."""
        return precision_at_r(embeddings, labels, query=query, gallery=gallery)._asdict()


class RecallMetric(EmbeddingMetric):
    """R@1 alone; see :func:`tcm_bench.evaluation.retrieval.recall_at_k`."""

    higher_is_better = True

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``recall_at_1``."""
        return {"recall_at_1": recall_at_k(embeddings, labels, query=query, gallery=gallery)}
