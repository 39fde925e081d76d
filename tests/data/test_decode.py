import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tcm_bench.data.decode import FACTORS, Jpeg, Pixels, picture


def photo(width, height, seed=0):
    """Smooth colors with some texture, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def by_pillow(data, factor=1):
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (image.width // factor, image.height // factor))
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(160, 120), (53, 37), (119, 161)])
@pytest.mark.parametrize(
    "settings", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 20}]
)
def test_a_jpeg_is_what_pillow_makes_of_it_bit_for_bit_at_every_factor(size, settings):
    data = encoded(photo(*size), **settings)
    image = picture(data, "x.jpg")
    assert (image.width, image.height) == size
    assert isinstance(image, Jpeg)
    assert image.is_turbo
    assert image.factors == FACTORS
    for factor in FACTORS:
        pixels = image.pixels(factor)
        assert pixels.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)
        np.testing.assert_array_equal(pixels, by_pillow(data, factor))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(mode):
    data = encoded(photo(40, 30).convert(mode))
    for factor in FACTORS:
        np.testing.assert_array_equal(picture(data, "x.jpg").pixels(factor), by_pillow(data, factor))


@pytest.mark.parametrize(
    ("mode", "kind", "settings"),
    [
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("P", "GIF", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
        ("CMYK", "TIFF", {}),
    ],
)
def test_other_formats_become_rgb(mode, kind, settings):
    original = photo(40, 30).convert(mode)
    image = picture(encoded(original, kind, **settings), "x")
    assert image.factors == (1,)
    assert (image.height, image.width) == (30, 40)
    np.testing.assert_array_equal(image.pixels(), np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_levels(kind):
    levels = (np.arange(30 * 40, dtype=np.uint16) * 54).reshape(30, 40)
    pixels = picture(encoded(Image.fromarray(levels), kind), "x").pixels()
    np.testing.assert_array_equal(pixels, np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_of_an_animation_the_first_frame_is_taken():
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert picture(data, "x.gif").pixels()[4, 4].tolist() == [255, 0, 0]


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image = photo(40, 30)
    turned = picture(encoded(image, exif=exif), "x.jpg")
    assert (turned.width, turned.height) == (40, 30)
    np.testing.assert_array_equal(turned.pixels(), picture(encoded(image), "x.jpg").pixels())


JPEG = encoded(photo(160, 120))
PROGRESSIVE = encoded(photo(160, 120), progressive=True)
PNG = encoded(photo(40, 30), "PNG")


def lying_png():
    """A header that promises a billion pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return PNG[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + PNG[33:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        JPEG[:2],
        JPEG[:20],
        JPEG[:300],
        JPEG[: len(JPEG) // 2],
        JPEG[:-40],
        JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2),
        JPEG[:1500] + bytes([0xFF, 0x00, 0x12, 0x99]) * 100 + JPEG[1900:],
        PROGRESSIVE[: len(PROGRESSIVE) // 2],
        encoded(photo(160, 120).convert("CMYK"))[:2000],
        PNG[: len(PNG) // 2],
        encoded(photo(40, 30), "GIF")[:500],
        encoded(photo(40, 30), "WEBP")[:200],
        encoded(Image.new("F", (4, 4)), "TIFF"),
        lying_png(),
    ],
)
def test_a_file_that_is_not_whole_is_named_and_never_becomes_pixels(data):
    for factor in (1, 2):
        with pytest.raises(ValueError, match=r"birds/7\.jpg cannot be decoded \(.*\): get the file again"):
            picture(data, "birds/7.jpg").pixels(factor)


def test_what_follows_or_precedes_the_end_of_a_jpeg_does_no_harm():
    whole = picture(JPEG, "x").pixels()
    for data in (JPEG + b"trailing bytes", JPEG[:-2] + b"\0\0\0" + JPEG[-2:]):
        np.testing.assert_array_equal(picture(data, "x").pixels(), whole)


def test_pixels_are_a_picture():
    array = np.zeros((3, 4, 3), dtype=np.uint8)
    image = Pixels(array)
    assert (image.height, image.width, image.factors) == (3, 4, (1,))
    assert image.pixels() is array
