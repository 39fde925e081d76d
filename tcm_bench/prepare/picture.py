"""Image files as they lie on disk, read by many processes at once.

The readers here are Pillow's own and as strict as they come, whatever training decodes with; what they read becomes RGB
as in training. Imports are few and light: every process starts with this module.
"""

import hashlib
import multiprocessing
import os
import signal
import stat
import struct
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeVar

from PIL import Image, ImageFile, UnidentifiedImageError

from tcm_bench.data.decode import DAMAGED, rgb
from tcm_bench.process import cores

DIGEST_BYTES = 16  # a chance of 1e-27 that two of half a million images share one
CHUNK = 64  # files handed to a process at a time
FEW_CHUNKS = 8  # are read before other processes have started
T = TypeVar("T")


class Unreadable(ValueError):
    """What a file is in place of an image."""


class Header(NamedTuple):
    """What an image says of itself before its pixels are decoded."""

    width: int
    height: int
    format: str
    mode: str
    size_bytes: int


def pixel_digest(path: str) -> bytes:
    """Hash of what an image shows, 16 bytes: two files of the same size in RGB and the same pixels have the same one.

    Raises:
        Unreadable: If any of it cannot be decoded.
    """
    _, image = _decoded(path, whole=True)
    return digest_of_pixels(image.size, image.tobytes())


def digest_of_pixels(size: tuple[int, int], pixels: bytes) -> bytes:
    """Hash of pixels in RGB, row by row, with the (width, height) they are arranged in."""
    digest = hashlib.sha256(struct.pack("<II", *size))
    digest.update(pixels)
    return digest.digest()[:DIGEST_BYTES]


def header(path: str) -> Header:
    """Size, format and mode; the pixels are not read.

    Raises:
        Unreadable: If the file is not an image.
    """
    size_bytes, image = _decoded(path, whole=False)
    return Header(*image.size, str(image.format), image.mode, size_bytes)


def _decoded(path: str, *, whole: bool) -> tuple[int, Image.Image]:
    """The file's size and its image, opened or decoded as a whole."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "device or pipe"
            raise Unreadable(f"is a {kind} where an image file is expected")
        if not status.st_size:
            raise Unreadable("is empty (0 bytes)")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(file)
            if whole:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                image = Image.fromarray(rgb(image))
            return status.st_size, image
    except Unreadable:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unreadable("is missing") from error
    except PermissionError as error:
        raise Unreadable("may not be read by this user (permission denied)") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(f"claims more pixels than any photograph of a dataset has ({error})") from error
    except UnidentifiedImageError as error:
        raise Unreadable(_other_kind(path)) from error
    except DAMAGED as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"is cut short or damaged ({words})") from error


def _other_kind(path: str) -> str:
    """What a file is that no image reader knows."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "is a web page (an error page, most likely) saved under an image's name"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer; the image itself was not fetched"
    return "is not an image of any known format"


def read_all(
    read: Callable[[str], T], paths: Sequence[str], processes: int | None = None
) -> Iterator[list[T | Unreadable]]:
    """What `read` returns or finds unreadable, chunk after chunk in the order of the paths.

    Few chunks are under way at any time: neither paths nor results pile up.

    Args:
        read: :func:`pixel_digest` or :func:`header`.
        paths: Files.
        processes: How many read; ``None``: one a core. A single one is this process.

    Raises:
        ValueError: If a process is killed.
    """
    processes = processes or cores()
    chunks = (list(paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK))
    if processes == 1 or len(paths) <= FEW_CHUNKS * CHUNK:
        yield from (_chunk(read, chunk) for chunk in chunks)
        return
    # Forked from a process without threads: a fork of this one could inherit a lock that nobody will release.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    pool = ProcessPoolExecutor(processes, context, initializer=_stay_with_parent)
    under_way: deque[Future[list[T | Unreadable]]] = deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(_chunk, read, chunk))
            if len(under_way) >= 4 * processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that reads images was killed, most likely because memory ran out; use fewer: --processes 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _stay_with_parent() -> None:
    """Leave an interrupt from the keyboard to the process that waits for this one, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the queue that work comes from would never say that nobody is left

    threading.Thread(target=follow, daemon=True).start()


def _chunk(read: Callable[[str], T], paths: list[str]) -> list[T | Unreadable]:
    found: list[T | Unreadable] = []
    for path in paths:
        try:
            found.append(read(path))
        except Unreadable as reason:
            found.append(reason)
    return found
