"""Tiles of the cosine matrix of a whole set, reproducible to the last bit in float64.

A library's matrix product adds a dot product's terms in an order that depends on the shape of the
tile and on where in it the entry lies, so equal rows get cosines that differ in the last bit, ties
break at random and counts depend on the chunk size. In float64 every product here is exact
instead: a row is rounded to multiples of 2^-46 and split into ``coarse + fine``, integers scaled
by powers of two and so small that no partial sum needs more than 53 bits. Exact sums are the same
in any order, hence on any tile, any number of threads and any device. The price is three products
in place of one and an absolute error near 1e-14 in the cosine.

In float32 one ordinary product is taken: fast, and reproducible only for equal tile shapes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tcm_bench.functional.pairs import unit_norm

COARSE, FINE = 2.0**26, 2.0**46
# |coarse| rows have norm 2^26: the sum of |products| stays below 2^53 at any dimension. A fine row
# of integers up to 2^19 has norm 2^19 sqrt(dim): two cross sums stay below 2^53 while dim <= 2^14.
LARGEST_DIM = 2**14


class CosineTiles:
    """Cosines of any block of rows against any block of columns, as float64.

    Args:
        embeddings: Rows of any norm but 0; normalized here in float64, or float32 if they are not
            float64.

    Raises:
        ValueError: If a row is zero or not finite, or a float64 row is longer than 2^14.

    Example:
        >>> tiles = CosineTiles(torch.eye(2).double()[[0, 1, 1]])
        >>> tiles(slice(0, 1), slice(0, 3))
        tensor([[1., 0., 0.]], dtype=torch.float64)
    """

    def __init__(self, embeddings: Float[Tensor, "items dim"]) -> None:
        rows = unit_norm(embeddings.detach())
        if rows.dtype == torch.float32:
            self.parts: tuple[tuple[Tensor, Tensor], ...] = ((rows, rows),)
            return
        if rows.shape[1] > LARGEST_DIM:
            raise ValueError(f"embeddings have {rows.shape[1]} dimensions, float64 takes up to {LARGEST_DIM}")
        coarse = (rows * COARSE).round() / COARSE
        fine = ((rows - coarse) * FINE).round() / FINE
        cross = torch.cat([coarse, fine], dim=1), torch.cat([fine, coarse], dim=1)
        self.parts = ((coarse, coarse), cross)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.parts[0][0])

    def __call__(self, rows: slice, columns: slice) -> Float[Tensor, "rows columns"]:
        """Cosines of ``rows`` with ``columns``."""
        left = self.parts[0][0]
        with torch.autocast(left.device.type, enabled=False):
            first, *rest = (a[rows] @ b[columns].T for a, b in self.parts)
        return sum(rest, start=first).double()
