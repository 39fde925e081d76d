"""Recall@k by exact leave-one-out search."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.functional.cosine import CosineTiles

NEVER = torch.iinfo(torch.int64).max


def recall_at_k(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    *,
    k: int | Sequence[int] = 1,
    chunk_size: int = 1024,
) -> Float[Tensor, "..."]:
    """Fraction of queries with an item of their class among their ``k`` nearest.

    This is the metric-learning convention (a hit rate), not the information-retrieval one (the
    share of relevant items found). Every item is a query against all others; it is removed by its
    index, never as "the first neighbor", which is another item wherever two coincide. Of
    neighbors equally near the one with the lower index comes first.

    One count answers every ``k``: the nearest item of the query's class is a hit if fewer than
    ``k`` items lie before it.

    Args:
        embeddings: Rows of any norm but 0; computed in their dtype, half types in float32.
        labels: Class of each row; a class with a single item can only miss.
        k: Neighbors inspected, at least 1; beyond ``items - 1`` all others are inspected.
        chunk_size: Queries at once; changes memory, in float64 never the result.

    Returns:
        float64 in [0, 1]: a scalar for an integer ``k``, else one value for each.

    Raises:
        ValueError: If ``k`` is below 1 or there are fewer than two items.

    Example:
        >>> x = torch.eye(2)[[0, 0, 1]]
        >>> recall_at_k(x, torch.tensor([0, 0, 1]), k=[1, 2])
        tensor([0.6667, 0.6667], dtype=torch.float64)
    """
    ks = torch.as_tensor(k if isinstance(k, int) else list(k), device=labels.device)
    if len(labels) < 2:
        raise ValueError(f"recall needs at least two items, got {len(labels)}")
    if ks.numel() and int(ks.min()) < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    cosine = CosineTiles(embeddings)
    items = torch.arange(len(labels), device=labels.device)
    before = torch.cat([_before(cosine, labels, items, queries) for queries in items.split(chunk_size)])
    return (before < ks.unsqueeze(-1)).double().mean(dim=-1)


def _before(cosine: CosineTiles, labels: Tensor, items: Tensor, queries: Tensor) -> Tensor:
    """Items nearer to each query than the nearest of its class; beyond any ``k`` if it has none."""
    similarity = cosine(slice(int(queries[0]), int(queries[-1]) + 1), slice(0, len(items)))
    same = labels[queries, None] == labels
    positive = same & (queries[:, None] != items)
    best = similarity.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    nearest = items.where(positive & (similarity == best), len(items)).amin(dim=1, keepdim=True)
    ahead = (similarity > best) | ((similarity == best) & (items < nearest))
    return (ahead & ~same).sum(dim=1).where(positive.any(dim=1), NEVER)
