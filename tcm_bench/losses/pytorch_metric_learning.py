"""Any ``loss(embeddings, labels)`` as a base loss."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcm_bench.losses.pairs import Pairs


class PytorchMetricLearning(nn.Module):
    """Adapter for losses in the style of pytorch-metric-learning.

    The loss sees the unit-norm embeddings in full precision and builds its own distances. It is a
    submodule, so its parameters (proxies) reach the optimizer and the checkpoint. Whether it takes
    any batch composition is its own affair.

    Args:
        loss: A module called as ``loss(embeddings, labels)`` that returns a scalar.
        miner: Called likewise; what it finds of pairs or triplets is the loss's third argument. None: all.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, pairs: Pairs) -> Float[Tensor, ""]:
        """The loss of a batch."""
        with torch.autocast(pairs.embeddings.device.type, enabled=False):
            mined = () if self.miner is None else (self.miner(pairs.embeddings, pairs.labels),)
            return self.loss(pairs.embeddings, pairs.labels, *mined)
