"""Lists of nearest neighbors, by faiss: for looking at, where no threshold metric is asked."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.unit_norm import unit_norm


def nearest_neighbors(
    embeddings: Float[Tensor, "items dim"], k: int, gallery: Float[Tensor, "others dim"] | None = None
) -> tuple[Float[Tensor, "items k"], Int[Tensor, "items k"]]:
    """The ``k`` rows with the highest cosine for each row, by exhaustive search in single precision.

    A GPU is used if the rows are on one and faiss was built for it, else the CPU with as many threads as torch may
    use. Products are rounded to float32, so the order of rows that are equally near up to that is arbitrary;
    :func:`~tcm_bench.evaluation.retrieval.recall_at_k` has an exact rule.

    Args:
        embeddings: Rows of any norm but 0.
        k: Neighbors of each, at least 1 and at most as many as there are to find.
        gallery: Rows to search, of any norm but 0; by default ``embeddings`` themselves, each row among all others:
            it is removed by its index, not as the first one found, which is another where images repeat.

    Returns:
        Cosines, decreasing, and row numbers in ``gallery``.

    Raises:
        ValueError: If faiss is not installed, ``k`` is out of range, or a row is zero or not finite.

    Example:
        >>> similarities, indices = nearest_neighbors(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), k=1)
        >>> similarities[:2].tolist(), indices[:2].tolist()
        ([[1.0], [1.0]], [[1], [0]])
    """
    try:
        import faiss  # an extra
    except ImportError:
        raise ValueError(
            "nearest neighbors are searched by faiss, which is not installed: make setup, or make setup EXTRAS=gpu,dev"
        ) from None
    queries = unit_norm(embeddings.detach()).float().contiguous()
    among = queries if gallery is None else unit_norm(gallery.detach()).float().contiguous()
    others = len(among) - (gallery is None)
    if not 1 <= k <= others:
        raise ValueError(f"k must be at least 1 and at most the {others} rows there are to find, got {k}")
    index: faiss.Index = faiss.IndexFlatIP(queries.shape[1])
    if queries.is_cuda and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), queries.device.index, index)
    team = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())  # its team is not torch's
    try:
        index.add(among.cpu().numpy())
        found = index.search(queries.cpu().numpy(), k + (gallery is None))
    finally:
        faiss.omp_set_num_threads(team)
    similarities, indices = (torch.from_numpy(part).to(embeddings.device) for part in found)
    if gallery is not None:
        return similarities, indices
    own = indices == torch.arange(len(indices), device=indices.device)[:, None]
    own[:, -1] |= ~own.any(dim=1)  # more than k repeats came before the row itself
    return similarities[~own].view(-1, k), indices[~own].view(-1, k)
