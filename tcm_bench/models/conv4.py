"""The network of four convolutions that few-shot learning measures Omniglot with, under a name of timm's."""

from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn

__all__ = ["conv4"]


class Conv4(nn.Module):
    """Four times a 3x3 convolution, BatchNorm, ReLU and a maximum over 2x2: an image of 28 px becomes one position.

    Args:
        channels: Of each convolution.

    References:
        Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, arXiv:1606.04080.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.num_features = channels
        self.blocks = nn.Sequential(*(self._block(3 if first else channels) for first in (True, False, False, False)))

    def _block(self, in_channels: int) -> nn.Sequential:
        convolution = nn.Conv2d(in_channels, self.num_features, kernel_size=3, padding=1)
        return nn.Sequential(convolution, nn.BatchNorm2d(self.num_features), nn.ReLU(), nn.MaxPool2d(2))

    def forward_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """A map of a sixteenth of the height and width."""
        return self.blocks(images)


@register_model
def conv4(
    pretrained: bool = False,
    num_classes: int = 0,
    channels: int = 64,
    *,
    pretrained_cfg: object = None,
    pretrained_cfg_overlay: object = None,
    cache_dir: object = None,
) -> Conv4:
    """What timm calls to make one, with arguments that all its networks take; there are no weights to load."""
    if pretrained or num_classes:
        raise ValueError("conv4 has neither pretrained weights nor a classifier")
    return Conv4(channels)
