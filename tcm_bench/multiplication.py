"""How float32 matrices are multiplied: exactly, but for the network's own if that is asked for."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["highest", "high", "medium"]  # torch's words: float32, TF32, bfloat16


def multiply(precision: Precision) -> None:
    """Set it for this process: of matrices as torch does, of convolutions on a GPU to TF32 or not.

    ``high`` is TF32 on a GPU that has it; a CPU with bfloat16 units takes them for ``medium``.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextlib.contextmanager
def multiplied(precision: Precision) -> Iterator[None]:
    """Within, products are of this precision; what they were is restored."""
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    multiply(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
