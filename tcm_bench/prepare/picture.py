"""Image files as they lie on disk, decoded as in training, by many processes at once.

Imports are few and light: every process starts with this module.
"""

import hashlib
import multiprocessing
import os
import signal
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import IO, NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from tcm_bench.data.decode import DAMAGED, picture
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
    with _naming_faults(path), _file(path) as file:
        _opened(file)
        file.seek(0)
        pixels = picture(file.read(), path).pixels()
    return digest_of_pixels((pixels.shape[1], pixels.shape[0]), pixels.tobytes())


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
    with _naming_faults(path), _file(path) as file:
        image = _opened(file)
        return Header(*image.size, str(image.format), image.mode, os.fstat(file.fileno()).st_size)


def _file(path: str) -> IO[bytes]:
    """A file that holds something."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "device or pipe"
        raise Unreadable(f"is a {kind} where an image file is expected")
    if not status.st_size:
        raise Unreadable("is empty (0 bytes)")
    return open(path, "rb")


def _opened(file: IO[bytes]) -> Image.Image:
    """The image of which the header has been read; one that claims to be vast is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file)


@contextmanager
def _naming_faults(path: str) -> Iterator[None]:
    """Turn all that can be wrong with a file into one sentence."""
    try:
        yield
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
        cause = error.__cause__ or error  # the reader's own sentence names the file, which stands before this one
        words = " ".join(str(cause).split()) or type(cause).__name__
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


def read_all(read: Callable[[str], T], paths: Sequence[str], processes: int | None = None) -> Iterator[T | Unreadable]:
    """What `read` returns or finds unreadable, in the order of the paths.

    Args:
        read: :func:`pixel_digest` or :func:`header`.
        paths: Files.
        processes: How many read; ``None``: one a core. A single one is this process.

    Raises:
        ValueError: If a process is killed.
    """
    processes = processes or cores()
    found = partial(_result, read)
    if processes == 1 or len(paths) <= FEW_CHUNKS * CHUNK:
        yield from map(found, paths)
        return
    # Forked from a process without threads: a fork of this one could inherit a lock that nobody will release.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    with ProcessPoolExecutor(processes, context, initializer=_stay_with_parent) as pool:
        try:
            yield from pool.map(found, paths, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that reads images was killed, most likely because memory ran out; use fewer: --processes 1"
            ) from error


def _stay_with_parent() -> None:
    """Leave an interrupt from the keyboard to the process that waits for this one, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the queue that work comes from would never say that nobody is left

    threading.Thread(target=follow, daemon=True).start()


def _result(read: Callable[[str], T], path: str) -> T | Unreadable:
    try:
        return read(path)
    except Unreadable as reason:
        return reason
