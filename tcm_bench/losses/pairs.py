"""Unit-norm rows and the pairs of a batch: what every loss starts from."""

from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcm_bench.unit_norm import full_precision

NORM_TOLERANCE = 1e-2  # wide enough for unit rows that were rounded to bfloat16


class UnusableBatch(ValueError):
    """Embeddings, or terms of them, of which no gradient may be taken.

    Attributes:
        terms: Value of each term, if they were computed.
    """

    def __init__(self, sentence: str, terms: Mapping[str, float] | None = None) -> None:
        super().__init__(sentence)
        self.terms = dict(terms or {})


class Pairs:
    """All pairs of a batch, computed once and shared by the base loss and TCM.

    The input must be unit-norm already, because a dot product is a cosine only then. This is
    checked (one reduction over the rows, no pair is touched) and not repaired: normalizing here
    would hide an embedder that forgot its last layer.

    Attributes:
        embeddings: Rows in float32 or float64; half types become float32.
        labels: Class of each row.
        norm: L2 norm of each row.
        is_unit: Whether it is 1 within 1e-2; not if it is NaN.
    """

    def __init__(
        self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"], *, check: bool = True
    ) -> None:
        """Keep the rows.

        Args:
            embeddings: Of unit norm.
            labels: Class of each row.
            check: False leaves it to the caller to call :meth:`check`.

        Raises:
            UnusableBatch: If a row's norm differs from 1 by more than 1e-2, or is NaN.
        """
        self.embeddings = full_precision(embeddings)
        self.labels = labels
        self.norm = torch.linalg.vector_norm(self.embeddings.detach(), dim=1)
        self.is_unit = (self.norm - 1).abs() <= NORM_TOLERANCE  # False for NaN
        if check:
            self.check()

    def check(self, terms: Mapping[str, float] | None = None) -> None:
        """Refuse rows that are not of unit norm; a GPU is waited for.

        Args:
            terms: What was computed of them, for the error.

        Raises:
            UnusableBatch: See above.
        """
        if not self.is_unit.all():
            row = int((~self.is_unit).nonzero()[0, 0])
            fault = f"embedding {row} of the batch has norm {self.norm[row].item()}, a loss needs norm 1"
            raise UnusableBatch(fault, terms)

    @cached_property
    def similarity(self) -> Float[Tensor, "batch batch"]:
        """Cosine of every two rows, in full precision even under autocast."""
        with torch.autocast(self.embeddings.device.type, enabled=False):
            return self.embeddings @ self.embeddings.T

    @cached_property
    def positive(self) -> Bool[Tensor, "batch batch"]:
        """Pairs of one class; an item is no pair with itself."""
        return (~self.negative).fill_diagonal_(False)

    @cached_property
    def negative(self) -> Bool[Tensor, "batch batch"]:
        """Pairs of two classes."""
        return self.labels[:, None] != self.labels[None, :]
