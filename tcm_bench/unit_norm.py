"""Unit-norm rows: what every loss and every evaluation starts from."""

import torch
from jaxtyping import Float
from torch import Tensor


def unit_norm(x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Rows scaled to L2 norm 1, in float32 or float64; half types become float32 first.

    Raises:
        ValueError: If a row is zero or not finite; the first such row is named.

    Example:
        >>> unit_norm(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    x = full_precision(x)
    norm = row_norms(x)[:, None]
    return x / norm


def row_norms(x: Float[Tensor, "rows dim"], dtype: torch.dtype | None = None) -> Float[Tensor, " rows"]:
    """L2 norm of each row, in the type of the rows or in ``dtype``.

    Raises:
        ValueError: If a row is zero or not finite; the first such row is named.
    """
    norm = torch.linalg.vector_norm(x, dim=1, dtype=dtype)
    smallest = 1e-150 if norm.dtype == torch.float64 else 0  # below it squares lose their digits
    usable = norm.isfinite() & (norm > smallest)
    if not usable.all():
        row = int((~usable).nonzero()[0, 0])
        raise ValueError(
            f"row {row} has norm {norm[row].item()}, every row must be finite and non-zero, its norm above {smallest:g}"
        )
    return norm


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float64 if it is, else in float32."""
    return x if x.dtype == torch.float64 else x.float()
