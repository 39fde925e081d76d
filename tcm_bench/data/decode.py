"""From the bytes of an image file to 8-bit RGB pixels, as the field's loaders see them.

EXIF orientation is ignored, alpha is dropped, of an animation the first frame is taken: as Pillow's
``convert("RGB")`` does. JPEGs go through libjpeg-turbo directly: a third faster than by way of Pillow, and equal to it
bit for bit.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

FACTORS = (1, 2, 4, 8)  # libjpeg can also decode at 3/8, 5/8, 6/8 and 7/8: without SIMD, slower than at full size
# Complaints of libjpeg about JPEGs whose pixels may be whole: Pillow decides, which never makes up for missing ones.
DOUBTFUL = ("Premature end of JPEG file", "extraneous bytes before marker", "JFIF revision number", "SOS parameters")
# What Pillow's readers raise on bytes that are not what their header promises.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

RGB = UInt8[np.ndarray, "height width 3"]


class Picture(Protocol):
    """An image whose size is known and whose pixels can be had, whole or shrunk."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def factors(self) -> tuple[int, ...]:
        """By what :meth:`pixels` can shrink; 1 is among them."""

    def pixels(self, factor: int = 1) -> RGB:
        """The image at ``1 / factor`` of its size, rounded up."""


@dataclass(frozen=True)
class Pixels:
    """An image that is decoded already."""

    array: RGB
    factors: tuple[int, ...] = (1,)

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.array.shape[1])

    def pixels(self, factor: int = 1) -> RGB:
        """The image itself."""
        assert factor == 1
        return self.array


@dataclass(frozen=True)
class Jpeg:
    """A JPEG of which the header has been read."""

    data: bytes
    name: str
    height: int
    width: int
    is_turbo: bool
    factors: tuple[int, ...] = FACTORS

    def pixels(self, factor: int = 1) -> RGB:
        """Decode; a factor above 1 spares most of the work after the entropy decoder.

        Raises:
            ValueError: If the file is damaged or ends too early.
        """
        if not self.is_turbo:
            return _by_pillow(self.data, self.name, factor)
        # The scale is asked for by the size it gives; without one, simplejpeg decodes at full size.
        size = {} if factor == 1 else {"min_height": -(-self.height // factor), "min_width": -(-self.width // factor)}
        try:
            return simplejpeg.decode_jpeg(self.data, **size)
        except ValueError as error:
            if not any(complaint in str(error) for complaint in DOUBTFUL):
                raise _damaged(self.name, error) from error
            return _by_pillow(self.data, self.name, factor)


def picture(data: bytes, name: str) -> Picture:
    """The image in a file. Of a JPEG only the header is decoded yet.

    Args:
        data: The file's content.
        name: The file's name, for messages.

    Raises:
        ValueError: If it is no image, damaged, or ends too early.
    """
    if not data.startswith(b"\xff\xd8"):
        return Pixels(_by_pillow(data, name))
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # the header is damaged, or of a rare kind
        return Pixels(_by_pillow(data, name))
    return Jpeg(data, name, height, width, is_turbo=colors not in ("CMYK", "YCCK"))


def _by_pillow(data: bytes, name: str, factor: int = 1) -> RGB:
    """What Pillow makes of any format it knows."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if factor > 1:
                image.draft(None, (image.width // factor, image.height // factor))
            return rgb(image)
    except DAMAGED as error:
        raise _damaged(name, error) from error


def rgb(image: Image.Image) -> RGB:
    """8 bits a channel."""
    if image.mode.startswith("I"):  # 16 bits, at times held in 32: Pillow's conversion would make all of it white
        levels = np.asarray(image)
        gray = (levels >> 8 if image.mode != "I" or levels.max() > 255 else levels).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # or Pillow warns
    return np.array(image.convert("RGB"))  # a copy: Pillow lends its pixels for reading only


def _damaged(name: str, error: Exception) -> ValueError:
    """One sentence for all the ways in which a file can fail."""
    reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error).strip().rstrip(".")
    return ValueError(f"{name} cannot be decoded ({reason}): get the file again, or leave it out")
