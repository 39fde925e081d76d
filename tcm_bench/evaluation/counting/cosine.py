"""Cosines of a whole set, reproducible to the last bit, by tile or by pair.

A library's matrix product adds a dot product's terms in an order that depends on the shape of the
tile and on where in it the entry lies, so equal rows get cosines that differ in the last bit, ties
break at random and counts depend on the chunk size. Here every product is exact instead: a row is
rounded to multiples of 2^-46 and split into ``coarse + fine``, integers scaled by powers of two and
so small that no partial sum needs more than 53 bits. Exact sums are the same in any order, hence on
any tile, any number of threads and any device. The price is three products in place of one and an
absolute error near 1e-14 in the cosine; rows nearer than that to each other count as identical, cosine 1.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcm_bench.unit_norm import row_norms

COARSE, FINE = 2.0**26, 2.0**46
# |coarse| rows have norm 2^26: the sum of |products| stays below 2^53 at any dimension. A fine row
# of integers up to 2^19 has norm 2^19 sqrt(dim): two cross sums stay below 2^53 while dim <= 2^14.
LARGEST_DIM = 2**14
IDENTICAL = 1 - 2.0**-43  # above it a cosine is that of a row with itself, up to its own error
PAIRS_AT_ONCE = 2**10


class Cosines:
    """The exact definition of every cosine of a set.

    Args:
        embeddings: Rows of any norm but 0; normalized here in float64.

    Attributes:
        rows: float64 ``(items, dim)``, norm 1.

    Raises:
        ValueError: If a row is zero or not finite, or longer than 2^14.

    Example:
        >>> cosines = Cosines(torch.eye(2)[[0, 1, 1]])
        >>> cosines.tile(slice(0, 1), slice(0, 3))
        tensor([[1., 0., 0.]], dtype=torch.float64)
        >>> cosines.pairs(torch.tensor([1, 0]), torch.tensor([2, 2]))
        tensor([1., 0.], dtype=torch.float64)
    """

    def __init__(self, embeddings: Float[Tensor, "items dim"]) -> None:
        if embeddings.shape[1] > LARGEST_DIM:
            raise ValueError(f"embeddings have {embeddings.shape[1]} dimensions, at most {LARGEST_DIM} are taken")
        self.rows = embeddings.detach().to(torch.float64, copy=True)
        self.rows /= row_norms(self.rows)[:, None]

    def tile(self, rows: slice, columns: slice) -> Float[Tensor, "rows columns"]:
        """Cosines of ``rows`` with ``columns``."""
        return exact_products(self.rows[rows], self.rows[columns])

    def pairs(self, first: Int[Tensor, " pairs"], second: Int[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Cosine of each row of ``first`` with that of ``second``: the same bits as in any tile."""
        if self.rows.device.type == "cpu":
            from tcm_bench.evaluation.counting import compiled  # compiled on first use

            out = np.empty(len(first))
            compiled.exact_products(self.rows.numpy(), torch.stack([first, second], dim=1).numpy(), COARSE, FINE, out)
            return _settled(torch.from_numpy(out))
        found = []
        for i, j in zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True):
            (coarse_left, fine_left), (coarse_right, fine_right) = _split(self.rows[i]), _split(self.rows[j])
            cross = (coarse_left * fine_right).sum(dim=1) + (fine_left * coarse_right).sum(dim=1)
            found.append(_settled((coarse_left * coarse_right).sum(dim=1) + cross))
        return torch.cat(found) if found else self.rows.new_empty(0)


def exact_products(
    left: Float[Tensor, "*batch rows dim"], right: Float[Tensor, "*batch columns dim"]
) -> Float[Tensor, "*batch rows columns"]:
    """Products of unit rows in float64, in which no sum is ever rounded but the last."""
    coarse_left, fine_left = _split(left)
    coarse_right, fine_right = _split(right)
    with torch.autocast(left.device.type, enabled=False):
        cross = torch.cat([coarse_left, fine_left], dim=-1) @ torch.cat([fine_right, coarse_right], dim=-1).mT
        return _settled(coarse_left @ coarse_right.mT + cross)


def _settled(cosines: Tensor) -> Tensor:
    """Identical rows have cosine 1, whatever rounding their norms went through: none above, none just below."""
    return cosines.masked_fill_(cosines > IDENTICAL, 1.0)


def product_error(dim: int, precision: float) -> float:
    """Bound on how far any product of two vectors of norm 1, rounded to a precision, lies from the true one.

    The rounding of the vectors moves it by at most 2 x ``precision``, and a sum of ``dim`` products in any order, with
    or without fused operations, by dim x ``precision`` (Higham, Accuracy and Stability of Numerical Algorithms, 3.1),
    because the products' magnitudes sum to at most 1. For shorter vectors it shrinks with the product of their norms.

    Args:
        dim: Terms of a product.
        precision: Unit roundoff, 2^-24 in float32.
    """
    return 1.01 * (dim + 4) * precision


def single_error(dim: int, largest: float) -> float:
    """Bound on how far a cosine minus one in float32 lies from that of the rows, none longer than ``largest``.

    It is a product less half of both squares; of these halves and their subtraction come four and a half roundings.
    """
    return largest**2 * product_error(dim + 5, 2.0**-24)


def halves_error(dim: int, largest: float, low: float, rest: float) -> float:
    """The same of a product by bfloat16 halves; see :mod:`tcm_bench.evaluation.counting.halves`.

    With ``x = high + low + rest`` the product leaves out low x low and what has a rest in it. All terms are exact, and
    their magnitudes sum to at most that of ``(high + low)^2``. A term goes through the sum of 16 in its instruction,
    the sum of even and odd, and one sum an instruction: three for 32 dimensions. A result too small for a normal
    number counts as 0, which moves a sum by less than 1e-34, far less than :func:`cosine_error` leaves room for.
    Seven more roundings are those of the rows and of :func:`single_error`.

    Args:
        dim: Terms of a product.
        largest: The largest norm of a row.
        low: That of the low half of one.
        rest: That of what the halves leave of one.
    """
    roundings = 16 + 1 + 3 * -(-dim // 32) + 7
    summed = (largest + 2 * low + rest) ** 2
    return 1.01 * (roundings * 2.0**-24 * summed + low**2 + (2 * largest + rest) * rest)


def cosine_error(dim: int) -> float:
    """Bound on how far a cosine as defined here lies from that of the rows before they were rounded.

    Norms, the rounding of both rows to multiples of 2^-46, the product of two fine parts, which is left out, and what
    counts as identical.
    """
    return (dim + 8) * 2.0**-52 + dim**0.5 / FINE + dim / (2 * COARSE) ** 2 + (1 - IDENTICAL)


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse and fine parts."""
    coarse = (rows * COARSE).round() / COARSE
    return coarse, ((rows - coarse) * FINE).round() / FINE
