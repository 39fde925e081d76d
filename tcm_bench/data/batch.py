"""What one step of training or evaluation receives."""

from typing import NamedTuple

from jaxtyping import Int, Shaped
from torch import Tensor


class Batch(NamedTuple):
    """Items of one batch, aligned row by row.

    Attributes:
        inputs: Images ``(batch, 3, height, width)`` or feature vectors ``(batch, features)``. A loader of images gives
            uint8; they are normalized, in float32, once they are on the device.
        labels: Class of each row.
        indices: Row of each item in its table; identifies an item across batches and ranks.
    """

    inputs: Shaped[Tensor, "batch ..."]
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]
