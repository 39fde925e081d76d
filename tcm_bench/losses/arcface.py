"""ArcFace, with a gradient that is finite everywhere."""

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor


class ArcFace(ArcFaceLoss):
    """The published library's, but for embeddings that lie at a class center or opposite to it.

    There the derivative of the angle after the cosine is infinite, and the library's gradient is none. On a circle (two
    dimensions) a batch soon holds such an embedding, in hundreds of dimensions hardly ever one.

    References:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, arXiv:1801.07698.
    """

    def get_angles(self, cosine_of_target_classes: Tensor) -> Tensor:
        """Angles between embeddings and their centers, in radians, to 5e-4 of 0 and pi in float32."""
        most = 1 - torch.finfo(cosine_of_target_classes.dtype).eps
        return super().get_angles(cosine_of_target_classes.clamp(-most, most))
