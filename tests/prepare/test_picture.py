"""Reading image files: what each kind of bad file is called, and that many processes say the same as one."""

import io
import os
import signal
import subprocess
import sys
import zlib

import numpy as np
import official
import pytest
from PIL import Image

from tcm_bench.prepare.picture import CHUNK, Unreadable, header, pixel_digest, read_all


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    official.write_image(path, 1)
    return path


def reason(path):
    with pytest.raises(Unreadable) as caught:
        pixel_digest(str(path))
    return str(caught.value)


def png_header(width, height):
    """A PNG file of one row that says it is larger."""
    file = io.BytesIO()
    Image.new("L", (8, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("side", [9_500, 20_000])  # Pillow warns of the first and refuses the second
def test_an_image_that_would_fill_the_memory_is_not_decoded(photo, side):
    photo.write_bytes(png_header(side, side))
    assert reason(photo).startswith("claims more pixels than any photograph of a dataset has")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\n<!DOCTYPE html><title>403</title>", "is a web page (an error page, most likely) saved under an"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a Git LFS pointer"),
        (b"\x00\x05\x16\x07Mac OS X", "is not an image of any known format"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_called_by_its_name(photo, content, expected):
    photo.write_bytes(content)
    assert reason(photo).startswith(expected)
    with pytest.raises(Unreadable, match="is "):
        header(str(photo))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_cut_short_is_told_from_a_whole_one(tmp_path, format, share):
    path = tmp_path / "image.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path, format=format)
    assert len(pixel_digest(str(path))) == 16
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert reason(path).startswith(("is cut short or damaged (", "is not an image"))


def test_a_jpeg_without_its_last_bytes_is_cut_short(photo):
    photo.write_bytes(photo.read_bytes()[:-2])
    assert reason(photo).startswith("is cut short or damaged (image file is truncated")


def test_places_without_a_file_are_told_apart(tmp_path, photo):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    assert reason(tmp_path) == "is a folder where an image file is expected"
    assert reason(tmp_path / "pipe.jpg") == "is a device or pipe where an image file is expected"
    for missing in (tmp_path / "gone.jpg", tmp_path / "dangling.jpg", photo / "below_a_file.jpg"):
        assert reason(missing) == "is missing"


def test_a_file_that_may_not_be_read_says_so(photo):
    photo.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # the system's administrator may read anything
    try:
        assert reason(photo) == "may not be read by this user (permission denied)"
    finally:
        os.seteuid(user)


def test_the_digest_is_of_the_pixels_in_rgb_and_not_of_the_file(tmp_path, photo):
    with Image.open(photo) as image:
        image.save(tmp_path / "copy.png")
        image.convert("L").save(tmp_path / "gray.png")
        image.convert("L").convert("RGB").save(tmp_path / "gray_in_rgb.png")
        image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "other.png")
    digest = {path.name: pixel_digest(str(path)) for path in tmp_path.iterdir()}
    assert digest["copy.png"] == digest["photo.jpg"]
    assert digest["gray.png"] == digest["gray_in_rgb.png"]
    assert len(set(digest.values())) == 3


def test_pixels_of_16_bits_are_told_apart_as_training_sees_them(tmp_path):
    """Pillow's own conversion makes all that is above 255 white: two such images would count as duplicates."""
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8)
    digests = set()
    for number, levels in enumerate((ramp * 1000, ramp.T.copy() * 1000)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(levels).save(path)
        digests.add(pixel_digest(str(path)))
    assert len(digests) == 2


def test_pixels_that_training_refuses_are_refused(tmp_path):
    path = tmp_path / "depth.tiff"
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    assert "floating-point" in reason(path)


def test_the_same_bytes_in_another_shape_are_another_image(tmp_path):
    for size in ((4, 6), (6, 4)):
        Image.new("RGB", size, (1, 2, 3)).save(tmp_path / f"{size[0]}.png")
    assert pixel_digest(str(tmp_path / "4.png")) != pixel_digest(str(tmp_path / "6.png"))


def test_a_header_tells_what_the_file_is(tmp_path):
    official.write_image(tmp_path / "palette.jpg", 7)  # a PNG by content
    found = header(str(tmp_path / "palette.jpg"))
    with Image.open(tmp_path / "palette.jpg") as image:
        assert found == (image.width, image.height, "PNG", "P", (tmp_path / "palette.jpg").stat().st_size)


def test_several_processes_say_in_order_what_one_says(tmp_path):
    for number in range(3):
        official.write_image(tmp_path / f"{number}.jpg", number)
    (tmp_path / "2.jpg").write_bytes(b"")
    paths = [str(tmp_path / f"{number % 4}.jpg") for number in range(9 * CHUNK + 7)]  # every fourth is missing

    def told(processes):
        results = read_all(pixel_digest, paths, processes)
        return [found if isinstance(found, bytes) else str(found) for found in results]

    alone = told(1)
    assert len(alone) == len(paths)
    assert told(2) == alone
    assert alone[2:4] == ["is empty (0 bytes)", "is missing"]


def test_reading_can_be_given_up_half_way(photo):
    results = read_all(pixel_digest, [str(photo)] * (20 * CHUNK), 2)
    assert len(next(results)) == 16
    results.close()


def test_a_killed_process_is_a_sentence_and_no_deadlock():
    numbers = [signal.SIGKILL] * (9 * CHUNK)  # in place of paths
    with pytest.raises(ValueError, match="was killed, most likely because memory ran out"):
        list(read_all(signal.raise_signal, numbers, 2))


def test_no_process_outlives_a_killed_command(photo):
    code = f"""
import multiprocessing, os, signal
from tcm_bench.prepare.picture import pixel_digest, read_all
results = read_all(pixel_digest, [{str(photo)!r}] * 9999, 2)
next(results)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # Every process has the pipes open, so that this returns when the last one ends.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 2
