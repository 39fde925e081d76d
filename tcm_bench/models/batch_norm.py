"""BatchNorm held at its running statistics, in training and folded away for inference."""

import copy

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def freeze_batch_norm(module: nn.Module) -> int:
    """Let every BatchNorm use, and keep, its running statistics; its affine parameters still learn.

    Call it after each ``train()``, which undoes it; :class:`~tcm_bench.models.embedder.Embedder` does.

    Returns:
        How many layers were frozen; 0 for most vision transformers.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.eval()
    return len(layers)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy for inference in which each BatchNorm right after a convolution became part of it.

    Saves about a tenth of a ResNet's time on a CPU and changes its output by rounding only (about 1e-6
    relative). A pair is a plain ``Conv2d`` whose next sibling is a plain ``BatchNorm2d``, which is how timm
    writes its ResNets; layers of any other kind are left as they are.

    Returns:
        The copy, in eval mode and without gradients.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in module.modules():
        previous_name, previous = "", parent
        for name, child in list(parent.named_children()):
            if type(previous) is nn.Conv2d and type(child) is nn.BatchNorm2d:
                setattr(parent, previous_name, fuse_conv_bn_eval(previous, child))
                setattr(parent, name, nn.Identity())
            previous_name, previous = name, child
    return module.requires_grad_(False)
