"""Recall@k, mAP@R and R-precision by exact leave-one-out search."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.evaluation.counting.cosine import Cosines, exact_products
from tcm_bench.evaluation.counting.scan import PairScan

BLOCK = 2**25  # cosines held at once
COLUMNS = 2**12


def recall_at_k(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    *,
    k: int | Sequence[int] = 1,
    query: Bool[Tensor, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | None = None,
    tile: tuple[int, int] | None = None,
) -> Float[Tensor, "..."]:
    """Fraction of queries with an item of their class among their ``k`` nearest.

    This is the metric-learning convention (a hit rate), not the information-retrieval one (the
    share of relevant items found). Every item is a query against all others; it is removed by its
    index, never as "the first neighbor", which is another item wherever two coincide. Of
    neighbors equally near the one with the lower index comes first.

    One count answers every ``k``: the nearest item of the query's class is a hit if fewer than
    ``k`` items lie before it.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row; a class with a single item can only miss.
        k: Neighbors inspected, at least 1; beyond ``items - 1`` all others are inspected.
        query: Which rows ask; by default all.
        gallery: Which rows are searched; by default all.
        tile: Rows and columns multiplied at once; changes time and memory, never the result.

    Returns:
        float64 in [0, 1]: a scalar for an integer ``k``, else one value for each.

    Raises:
        ValueError: If ``k`` is below 1, there are fewer than two items, there is no query, shapes or types do
            not go together, or a row is zero or not finite.

    Example:
        >>> x = torch.eye(2)[[0, 0, 1]]
        >>> recall_at_k(x, torch.tensor([0, 0, 1]), k=[1, 2])
        tensor([0.6667, 0.6667], dtype=torch.float64)
    """
    ks = torch.as_tensor(k if isinstance(k, int) else list(k), device=labels.device)
    check_set(embeddings, labels, query, gallery)
    if len(labels) < 2:
        raise ValueError(f"recall needs at least two items, got {len(labels)}")
    if ks.numel() and int(ks.min()) < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if query is not None and not query.any():
        raise ValueError("recall needs at least one query, got none")
    scan = PairScan(embeddings, labels, query=query, gallery=gallery, tile=tile)
    rank_of_first_positive = scan.rank_of_first_positive(int(ks.max()) if ks.numel() else 1)
    return hit_rate(rank_of_first_positive if query is None else rank_of_first_positive[query], ks)


def hit_rate(rank_of_first_positive: Int[Tensor, " queries"], k: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Share of the queries with fewer than ``k`` items before their nearest positive."""
    return (rank_of_first_positive < k.unsqueeze(-1)).double().mean(dim=-1)


class PrecisionAtR(NamedTuple):
    """What the ``R`` nearest items of each query hold, where ``R`` is how many items of its class there are to find.

    Attributes:
        map_at_r: Mean over the queries of ``sum(P(i) for i = 1 .. R if item i is of the class) / R``, in [0, 1], with
            ``P(i)`` the share of the class among the first ``i``.
        r_precision: Mean over the queries of the share of the class among the first ``R``, in [0, 1].
    """

    map_at_r: Float[Tensor, ""]
    r_precision: Float[Tensor, ""]


def precision_at_r(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    *,
    query: Bool[Tensor, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | None = None,
) -> PrecisionAtR:
    """mAP@R and R-precision, exactly, from one search.

    The query is removed by its index, and of items equally near the one with the lower index comes first, as in
    :func:`recall_at_k`. A query without another item of its class in the gallery (``R = 0``) has nothing to find: it
    is left out of both means, whereas recall counts it as a miss.

    The ``R`` nearest are searched in float64 among all items, block by block, which takes several times as long as
    everything :func:`~tcm_bench.evaluation.evaluate.evaluate` does.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        query: Which rows ask; by default all.
        gallery: Which rows are searched; by default all.

    Returns:
        float64 scalars; NaN if no query has anything to find.

    Raises:
        ValueError: If shapes or types do not go together, or a row is zero or not finite.

    References:
        Musgrave et al., A Metric Learning Reality Check, ECCV 2020, arXiv:2003.08505.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.9, 0.1], [0.0, 1.0]])
        >>> [round(float(value), 4) for value in precision_at_r(x, torch.tensor([0, 0, 1, 0]))]
        [0.3333, 0.5]
    """
    check_set(embeddings, labels, query, gallery)
    rows = Cosines(embeddings).rows
    everyone = torch.ones_like(labels, dtype=torch.bool)
    asked, searched = (everyone if role is None else role for role in (query, gallery))
    classes, of = labels.unique(return_inverse=True)
    found = of[searched].bincount(minlength=len(classes))[of] - searched.long()  # R: the query itself is not searched
    queries, columns = (asked & (found > 0)).nonzero()[:, 0], searched.nonzero()[:, 0]
    average, share = [rows.new_empty(0)], [rows.new_empty(0)]
    for block in queries.split(max(1, BLOCK // max(1, len(columns)))) if len(queries) else ():
        nearest = columns[_nearest(rows, block, columns, int(found[block].max()))]
        right = labels[nearest] == labels[block, None]
        place = torch.arange(1, right.shape[1] + 1, device=labels.device)
        right &= place <= found[block, None]
        precision = right.cumsum(dim=1) / place.double()
        average.append((precision * right).sum(dim=1) / found[block])
        share.append(right.sum(dim=1).double() / found[block])
    return PrecisionAtR(torch.cat(average).mean(), torch.cat(share).mean())


def _nearest(
    rows: Float[Tensor, "items dim"], queries: Int[Tensor, " queries"], columns: Int[Tensor, " columns"], number: int
) -> Int[Tensor, "queries number"]:
    """Places in ``columns`` of the nearest to each query but itself, of equally near ones the first."""
    cosines = torch.cat([exact_products(rows[queries], rows[part]) for part in columns.split(COLUMNS)], dim=1)
    cosines.masked_fill_(queries[:, None] == columns, -torch.inf)
    # `topk` breaks ties as it likes: take all that tie with the last, then sort.
    last = cosines.topk(number).values[:, -1:]
    near, place = cosines.topk(int((cosines >= last).sum(dim=1).max()))
    place, order = place.sort(dim=1)
    order = near.gather(1, order).sort(dim=1, descending=True, stable=True).indices[:, :number]
    return place.gather(1, order)


def check_set(embeddings: Tensor, labels: Tensor, query: Tensor | None, gallery: Tensor | None) -> None:
    """Refuse embeddings, labels and roles that do not go together.

    Raises:
        ValueError: See above.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (items, dim) and labels (items,), "
            f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    for name, role in {"query": query, "gallery": gallery}.items():
        if role is not None and (role.dtype != torch.bool or role.shape != labels.shape):
            raise ValueError(
                f"{name} must say true or false of each of the {len(labels)} items, "
                f"got {role.dtype} {tuple(role.shape)}"
            )
