"""From an image to the network's input: random in training, fixed in evaluation.

All steps but the last two work on 8-bit tensors, which is faster than on PIL images and equal to within one
of 256 levels (resizing is antialiased, as PIL's is).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2


class ImageTransform:
    """A chain of steps that knows its settings.

    Attributes:
        identity: The name of the chain and every setting, in plain types; equal exactly when the settings
            are, so that it can key a cache.
    """

    def __init__(self, name: str, settings: dict[str, Any], steps: Sequence[torch.nn.Module]) -> None:
        self.identity = {"name": name, **settings}
        self._steps = v2.Compose([v2.ToImage(), *steps, v2.ToDtype(torch.float32, scale=True)])
        self._normalize = v2.Normalize(settings["mean"], settings["std"])

    def __call__(self, image: Image.Image | UInt8[Tensor, "3 h w"]) -> Float[Tensor, "3 size size"]:
        """The network's input for one RGB image.

        Random steps draw from torch's global generator.
        """
        return self._normalize(self._steps(image)).as_subclass(Tensor)

    def __repr__(self) -> str:
        """The call that makes this chain."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.identity.items() if key != "name")
        return f"{self.identity['name']}({settings})"


def augmentation(
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: str = "bilinear",
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> ImageTransform:
    """Random crop, resized to a square, and random mirroring: the field's training transform.

    Args:
        size_px: Side of the result.
        mean: Subtracted from each channel, on a scale of [0, 1].
        std: Divides each channel, on a scale of [0, 1].
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        scale: Smallest and largest area of the crop, as a share of the image.
        ratio: Smallest and largest width / height of the crop.
        flip: Mirror every other image left to right. Wrong where mirroring changes the meaning, as for
            characters.

    Raises:
        ValueError: If a setting is out of range.
    """
    settings = {
        "size_px": int(size_px),
        **_channels(mean, std),
        "interpolation": _interpolation(interpolation).value,
        "scale": _interval("scale", scale),
        "ratio": _interval("ratio", ratio),
        "flip": bool(flip),
    }
    if settings["scale"][1] > 1:
        raise ValueError(f"scale is a share of the image's area and at most 1, got {settings['scale']}")
    crop = v2.RandomResizedCrop(
        settings["size_px"],
        scale=settings["scale"],
        ratio=settings["ratio"],
        interpolation=_interpolation(interpolation),
        antialias=True,
    )
    steps = [crop, v2.RandomHorizontalFlip()] if flip else [crop]
    return ImageTransform("augmentation", settings, steps)


def preprocessing(
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize_px: int | None = None,
    interpolation: str = "bilinear",
) -> ImageTransform:
    """Resize the shorter side and crop the center: the field's evaluation transform.

    Args:
        size_px: Side of the result.
        mean: Subtracted from each channel, on a scale of [0, 1].
        std: Divides each channel, on a scale of [0, 1].
        resize_px: The shorter side before the crop, at least ``size_px``; ``None``: equal to it.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.

    Raises:
        ValueError: If a setting is out of range.
    """
    settings = {
        "size_px": int(size_px),
        "resize_px": int(resize_px or size_px),
        **_channels(mean, std),
        "interpolation": _interpolation(interpolation).value,
    }
    if settings["resize_px"] < settings["size_px"]:
        raise ValueError(f"resize_px must be at least size_px = {size_px}, got {resize_px}")
    resize = v2.Resize([settings["resize_px"]], interpolation=_interpolation(interpolation), antialias=True)
    return ImageTransform("preprocessing", settings, [resize, v2.CenterCrop(settings["size_px"])])


def _channels(mean: Sequence[float], std: Sequence[float]) -> dict[str, list[float]]:
    """Checked statistics of the three channels."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std need three values each, std above 0, got {list(mean)} and {list(std)}")
    return {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}


def _interval(name: str, ends: Sequence[float]) -> list[float]:
    """A checked positive interval."""
    if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
        raise ValueError(f"{name} must be two positive numbers in increasing order, got {list(ends)}")
    return [float(end) for end in ends]


def _interpolation(name: str) -> v2.InterpolationMode:
    """The mode of that name."""
    known = ("nearest", "bilinear", "bicubic")
    if name not in known:
        raise ValueError(f"interpolation must be one of {', '.join(known)}, got {name!r}")
    return v2.InterpolationMode(name)
