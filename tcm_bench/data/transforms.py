"""From an image to the network's input: random in training, fixed in evaluation.

A chain ends in 8-bit pixels, which is what loaders ship; whole batches are normalized where the network is. Resizing is
antialiased, as PIL's is, and equal to it within one of 256 levels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from tcm_bench.data.decode import RGB, Picture, Pixels

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


class Box(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def shrunk(self, factor: int) -> "Box":
        """The same part of the image at ``1 / factor`` of its size, each edge at the nearest pixel."""
        top, left = round(self.top / factor), round(self.left / factor)
        bottom, right = round((self.top + self.height) / factor), round((self.left + self.width) / factor)
        return Box(top, left, bottom - top, right - left)


class ImageTransform(ABC):
    """A chain of steps that knows its settings.

    With ``scaled_decode`` an image whose chosen part would shrink to half or less is decoded at 1/2, 1/4 or 1/8 of its
    size, which JPEG offers for less work. The part is the same, chosen on the full size: each edge moves by at most
    half a pixel of what is decoded, so by at most half a pixel of the result. Its levels differ a little, so that the
    setting is part of the identity.

    Args:
        size_px: Side of the result.
        mean: Subtracted from each channel, on a scale of [0, 1].
        std: Divides each channel, on a scale of [0, 1].
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        shrink_px: First shrink images whose shorter side is longer than this to it; ``None``: never. What remains is
            what :func:`~tcm_bench.data.image_cache.cached_images` has to keep.
        scaled_decode: See above.
        **settings: Of the chain, as plain values.

    Attributes:
        identity: The name of the chain and every setting, in plain types; equal exactly when the settings
            are, so that it can key a cache.
    """

    def __init__(
        self,
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        interpolation: str,
        shrink_px: int | None,
        scaled_decode: bool,
        **settings: Any,
    ) -> None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std need three values each, std above 0, got {list(mean)} and {list(std)}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
        self.size_px, self.shrink_px, self.scaled_decode = int(size_px), shrink_px, bool(scaled_decode)
        self.interpolation = interpolation
        self.identity = {
            "name": type(self).__name__.lower(),
            "size_px": self.size_px,
            **settings,
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
            "interpolation": interpolation,
            "shrink_px": shrink_px,
            "scaled_decode": self.scaled_decode,
        }
        if shrink_px is not None and shrink_px < self.kept_px:
            raise ValueError(f"shrink_px must be at least {self.kept_px}, to which images are resized, got {shrink_px}")

    @property
    def kept_px(self) -> int:
        """The shorter side that the chain makes of a whole image."""
        return self.size_px

    def __call__(self, picture: Picture) -> UInt8[Tensor, "3 size size"]:
        """The network's input for one image, before :meth:`normalize`.

        Random steps draw from torch's global generator.
        """
        return self._pixels(self.shrunk(picture)).squeeze(0)

    def shrunk(self, picture: Picture) -> Picture:
        """The image with its shorter side at most ``shrink_px``; one that is small enough as it is."""
        height, width = self.shrunk_size(picture.height, picture.width)
        if (height, width) == (picture.height, picture.width):
            return picture
        small = self._resized(picture.pixels(), Box(0, 0, picture.height, picture.width), height, width)
        return Pixels(small[0].permute(1, 2, 0).numpy())

    def shrunk_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image of this size after :meth:`shrunk`."""
        short = min(height, width)
        if self.shrink_px is None or short <= self.shrink_px:
            return height, width
        return height * self.shrink_px // short, width * self.shrink_px // short

    def normalize(self, images: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
        """Pixels on a scale of [0, 1], less the mean, divided by the deviation; on the device where they are.

        They keep their order in memory: convolutions take a quarter less time where a pixel's channels lie together.
        """
        mean, std = (torch.tensor(self.identity[name], device=images.device).view(3, 1, 1) for name in ("mean", "std"))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    @abstractmethod
    def _pixels(self, picture: Picture) -> UInt8[Tensor, "1 3 size size"]:
        """All steps but the first and the last."""

    def _factor(self, picture: Picture, sides: tuple[int, int], target: int) -> int:
        """By how much the image may shrink while it is decoded, so that `sides` keep `target` pixels."""
        if not self.scaled_decode:
            return 1
        return max(factor for factor in picture.factors if factor == 1 or min(sides) >= factor * target)

    def _resized(self, pixels: RGB, box: Box, height: int, width: int) -> UInt8[Tensor, "1 3 height width"]:
        """A part of an image at another size."""
        part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        # Torch resizes bytes twice as fast, and keeps their order, if it sees that they lie pixel after pixel: a batch
        # of one before the channels move, not after.
        images = torch.from_numpy(np.ascontiguousarray(part))[None].permute(0, 3, 1, 2)
        if (box.height, box.width) == (height, width):
            return images
        smooth = self.interpolation != "nearest"
        return interpolate(images, size=(height, width), mode=self.interpolation, antialias=smooth)

    def __repr__(self) -> str:
        """The call that makes this chain."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self.identity.items() if key != "name")
        return f"{type(self).__name__}({settings})"


class Augmentation(ImageTransform):
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
        shrink_px: See :class:`ImageTransform`.
        scaled_decode: See :class:`ImageTransform`.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        interpolation: str = "bilinear",
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: bool = True,
        shrink_px: int | None = None,
        scaled_decode: bool = False,
    ) -> None:
        scale, ratio = _interval("scale", scale), _interval("ratio", ratio)
        if scale[1] > 1:
            raise ValueError(f"scale is a share of the image's area and at most 1, got {scale}")
        super().__init__(
            size_px,
            mean,
            std,
            interpolation=interpolation,
            shrink_px=shrink_px,
            scaled_decode=scaled_decode,
            scale=scale,
            ratio=ratio,
            flip=bool(flip),
        )
        self._flip = bool(flip)
        self._crop = v2.RandomResizedCrop(self.size_px, scale=scale, ratio=ratio)

    def _pixels(self, picture: Picture) -> UInt8[Tensor, "1 3 size size"]:
        whole = torch.empty(1).expand(3, picture.height, picture.width)
        box = Box(**self._crop.make_params([whole]))
        mirrored = self._flip and float(torch.rand(1)) < 0.5
        factor = self._factor(picture, (box.height, box.width), self.size_px)
        images = self._resized(picture.pixels(factor), box.shrunk(factor), self.size_px, self.size_px)
        return images.flip(-1) if mirrored else images


class Preprocessing(ImageTransform):
    """Resize the shorter side and crop the center: the field's evaluation transform.

    Args:
        size_px: Side of the result.
        mean: Subtracted from each channel, on a scale of [0, 1].
        std: Divides each channel, on a scale of [0, 1].
        resize_px: The shorter side before the crop, at least ``size_px``; ``None``: equal to it.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        shrink_px: See :class:`ImageTransform`.
        scaled_decode: See :class:`ImageTransform`.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        resize_px: int | None = None,
        interpolation: str = "bilinear",
        shrink_px: int | None = None,
        scaled_decode: bool = False,
    ) -> None:
        self._resize_px = int(resize_px or size_px)
        if self._resize_px < size_px:
            raise ValueError(f"resize_px must be at least size_px = {size_px}, got {resize_px}")
        super().__init__(
            size_px,
            mean,
            std,
            interpolation=interpolation,
            shrink_px=shrink_px,
            scaled_decode=scaled_decode,
            resize_px=self._resize_px,
        )

    @property
    def kept_px(self) -> int:
        """The shorter side that the chain makes of a whole image."""
        return self._resize_px

    def _pixels(self, picture: Picture) -> UInt8[Tensor, "1 3 size size"]:
        sides = picture.height, picture.width
        factor = self._factor(picture, sides, self._resize_px)
        height, width = (side * self._resize_px // min(sides) for side in sides)
        images = self._resized(picture.pixels(factor), Box(0, 0, *sides).shrunk(factor), height, width)
        top, left = round((height - self.size_px) / 2), round((width - self.size_px) / 2)
        return images[..., top : top + self.size_px, left : left + self.size_px]


def _interval(name: str, ends: Sequence[float]) -> list[float]:
    """A checked positive interval."""
    if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
        raise ValueError(f"{name} must be two positive numbers in increasing order, got {list(ends)}")
    return [float(end) for end in ends]
