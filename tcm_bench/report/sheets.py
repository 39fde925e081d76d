"""Retrieval sheets: queries that tell, and what lies next to them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.report.curves import spread
from tcm_bench.unit_norm import unit_norm

NEIGHBORS = 5
MOST_QUERIES = 2000  # that are looked through for those that tell
KINDS = {"worst": 2, "near the threshold": 3, "best": 2}  # and how many of each are shown


class Shown(NamedTuple):
    """A query and its nearest items.

    Attributes:
        kind: Why it is shown, of `KINDS`.
        query: Its row.
        neighbors: Rows of the nearest, nearest first.
        cosines: Of these to the query.
        right: Which are of its class.
    """

    kind: str
    query: int
    neighbors: list[int]
    cosines: list[float]
    right: list[bool]


def telling_queries(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    threshold: float | None,
    *,
    query: Bool[Tensor, " items"] | None = None,
    gallery: Bool[Tensor, " items"] | None = None,
) -> list[tuple[str, int]]:
    """Queries to show, and why: confident and right, confident and wrong, wrong close to the threshold.

    Args:
        embeddings: Rows of any norm but 0.
        labels: Class of each row.
        threshold: A cosine; None: there is none to be close to.
        query: Which rows are queries; by default all.
        gallery: Which rows are searched; by default all.
    """
    asked = torch.arange(len(labels)) if query is None else query.nonzero()[:, 0]
    asked = asked[_partners(labels, gallery)[asked] > 0]  # without one it cannot be right
    asked = asked[spread(len(asked), MOST_QUERIES)]
    nearest, cosines = neighbors(embeddings, asked, 1, gallery=gallery)
    right = labels[nearest[:, 0]] == labels[asked]
    cosine = cosines[:, 0]
    orders = {
        "worst": torch.where(right, -torch.inf, cosine),
        "near the threshold": torch.where(right, -torch.inf, -(cosine - (threshold or 0.0)).abs()),
        "best": torch.where(right, cosine, -torch.inf),
    }
    if threshold is None:
        del orders["near the threshold"]
    chosen: dict[int, str] = {}
    for kind, order in orders.items():
        found = 0
        for number in order.argsort(descending=True, stable=True).tolist():
            if found == KINDS[kind] or order[number] == -torch.inf:
                break
            if number not in chosen:
                chosen[number] = kind
                found += 1
    return [(kind, int(asked[number])) for number, kind in chosen.items()]


def _partners(labels: Int[Tensor, " items"], gallery: Bool[Tensor, " items"] | None) -> Int[Tensor, " items"]:
    """How many others of its class each item could find."""
    searched = torch.ones_like(labels, dtype=torch.bool) if gallery is None else gallery
    _, classes = labels.unique(return_inverse=True)
    return torch.bincount(classes, weights=searched.double()).long()[classes] - searched.long()


def sheet(
    embeddings: Float[Tensor, "items dim"],
    labels: Int[Tensor, " items"],
    queries: list[tuple[str, int]],
    *,
    gallery: Bool[Tensor, " items"] | None = None,
) -> list[Shown]:
    """The nearest items of some queries."""
    rows = torch.tensor([row for _, row in queries], dtype=torch.int64)
    nearest, cosines = neighbors(embeddings, rows, NEIGHBORS, gallery=gallery)
    return [
        Shown(kind, row, near.tolist(), cosine.tolist(), (labels[near] == labels[row]).tolist())
        for (kind, row), near, cosine in zip(queries, nearest, cosines, strict=True)
    ]


def neighbors(
    embeddings: Float[Tensor, "items dim"],
    rows: Int[Tensor, " queries"],
    k: int,
    *,
    gallery: Bool[Tensor, " items"] | None = None,
) -> tuple[Int[Tensor, "queries k"], Float[Tensor, "queries k"]]:
    """The nearest of some rows, themselves left out, and their cosines: to look at, not to measure by.

    Without faiss, which is an extra: the queries are few.

    Args:
        embeddings: Rows of any norm but 0.
        rows: The queries.
        k: So many, or all that there are for each of the queries.
        gallery: Which rows are searched; by default all.
    """
    unit = unit_norm(embeddings).float()
    searched = torch.arange(len(unit)) if gallery is None else gallery.nonzero()[:, 0]
    k = min(k, len(searched) - int(torch.isin(rows, searched).any()))
    indices, values = [rows.new_empty(0, k)], [unit.new_empty(0, k)]
    for block in rows.split(256):
        cosines = unit[block] @ unit[searched].T
        highest = cosines.masked_fill(block[:, None] == searched, -torch.inf).topk(k, dim=1)
        indices.append(searched[highest.indices])
        values.append(highest.values)
    return torch.cat(indices), torch.cat(values)
