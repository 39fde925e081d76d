"""Backbone and head as one network, with its parts frozen as asked."""

from collections.abc import Callable
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from tcm_bench.models.batch_norm import freeze_batch_norm

Freeze = Literal["none", "batch_norm", "backbone"]


class Embedder(nn.Module):
    """Unit-norm embeddings of images, or of vectors that a backbone computed beforehand.

    Args:
        backbone: Maps images to vectors and says how long they are (``num_features``); None when the
            inputs are vectors already.
        head: Called with ``in_features``, returns the head.
        freeze: ``none``; ``batch_norm`` keeps the backbone's running statistics and trains everything else;
            ``backbone`` trains the head only, with the backbone in eval mode. Calls of ``train()`` keep to it.
        num_features: Length of the input vectors; needed without a backbone, and only then.
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        head: Callable[..., nn.Module],
        *,
        freeze: str = "none",
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        if freeze not in get_args(Freeze):
            raise ValueError(f"freeze must be one of {', '.join(get_args(Freeze))}, got {freeze!r}")
        if (backbone is None) == (num_features is None):
            raise ValueError("an embedder needs either a backbone or the num_features of its input vectors")
        self.backbone = backbone
        self.freeze = freeze
        self.head = head(in_features=num_features if backbone is None else backbone.num_features)
        if backbone is not None and freeze == "backbone":
            backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Embedder":
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        if self.backbone is not None and self.freeze == "backbone":
            self.backbone.eval()
        elif self.backbone is not None and self.freeze == "batch_norm":
            freeze_batch_norm(self.backbone)
        return self

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """Embed images ``(batch, 3, height, width)``, or vectors ``(batch, features)`` past the backbone.

        Raises:
            ValueError: If images come to an embedder without a backbone.
        """
        if inputs.ndim == 2:
            return self.head(inputs)
        if self.backbone is None:
            raise ValueError(
                f"this embedder takes vectors (batch, features), got a batch of shape {tuple(inputs.shape)}"
            )
        return self.head(self.backbone(inputs))
