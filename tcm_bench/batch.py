"""What one step of training or evaluation receives."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Batch(NamedTuple):
    """Items of one batch, aligned row by row.

    Attributes:
        inputs: Images ``(batch, 3, height, width)`` or feature vectors ``(batch, features)``.
        labels: Class of each row.
        indices: Row of each item in its table; identifies an item across batches and ranks.
    """

    inputs: Float[Tensor, "batch ..."]
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]
