"""Gathering of embeddings over batches and ranks."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


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
