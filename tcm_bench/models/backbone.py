"""timm networks as backbones."""

from collections.abc import Mapping
from typing import Any

import timm
from jaxtyping import Float
from torch import Tensor, nn

import tcm_bench.models.conv4  # noqa: F401  # registers its network with timm
from tcm_bench.models.batch_norm import fold_batch_norm
from tcm_bench.models.pooling import checked_pooling, pooled
from tcm_bench.models.weights import Weights

INPUT_KEYS = frozenset({"size_px", "resize_px", "mean", "std", "interpolation"})


class TimmBackbone(nn.Module):
    """A timm network without its classifier, pooled to one vector an image.

    Args:
        architecture: A timm name without its weights tag, e.g. ``resnet50``.
        weights: Where the weights come from; see :mod:`tcm_bench.models.weights`.
        pooling: ``average``, ``gem``, ``cls`` or ``cls_mean``; see :func:`tcm_bench.models.pooling.pooled`.
        input: The preprocessing that the weights expect: ``size_px`` (side of the square given to the
            network), ``resize_px`` (shorter side before the center crop), ``mean`` and ``std`` (by channel, of
            pixels in [0, 1]), ``interpolation``. Not applied here: the data's transforms read it.
        options: Further arguments of timm's constructor.

    Attributes:
        num_features: Length of the vectors.
        input: As given.
        identity: Everything that decides the vectors of an image, as plain values: recorded in results and
            hashed into the key of cached features.

    Raises:
        ValueError: If the architecture or pooling is unknown or they do not go together, ``input`` is
            incomplete, or the weights are missing or altered.
    """

    network: Any  # timm's networks share attributes that nn.Module does not declare

    def __init__(
        self,
        architecture: str,
        *,
        weights: Weights,
        pooling: str,
        input: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(architecture) or "." in architecture:
            raise ValueError(
                f"architecture must be a timm model without a weights tag, got {architecture!r}; "
                "timm.list_models() names them"
            )
        if set(input) != INPUT_KEYS:
            raise ValueError(f"input must have the keys {sorted(INPUT_KEYS)}, got {sorted(input)}")
        options = dict(options or {})
        self.input = dict(input)
        self.network, weights_identity = weights.build(architecture, options)
        self._prefix_tokens: int | None = getattr(self.network, "num_prefix_tokens", None)
        self._pooling = checked_pooling(pooling, prefix_tokens=self._prefix_tokens)
        self.num_features = int(self.network.num_features) * (2 if pooling == "cls_mean" else 1)
        self.identity: dict[str, Any] = {
            "architecture": architecture,
            "options": options,
            "weights": weights_identity,
            "pooling": pooling,
            "input": self.input,
            "timm": timm.__version__,
        }

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Pooled features, not normalized."""
        features = self.network.forward_features(images)
        return pooled(features, self._pooling, prefix_tokens=self._prefix_tokens)

    def for_inference(self) -> nn.Module:
        """A frozen copy of the same function with its BatchNorm folded into the convolutions."""
        return fold_batch_norm(self)
