"""Large arrays on disk: computed once, however many processes ask; never read from a damaged or unfinished file."""

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tcm_bench.files import file_sha256, locked, write_atomic
from tcm_bench.progress import progress

log = logging.getLogger(__name__)
WAITING = "another process computes the same %s: waiting for it"


def cached_array(
    name: str,
    folder: str | Path,
    description: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: str,
    blocks: Callable[[], Iterator[np.ndarray]],
    *,
    items: int,
    items_in: Callable[[np.ndarray], int] = len,
    facts: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
) -> Path:
    """The file of an array that was computed for this description; computed now if there is none.

    A second process that needs the same array waits for the first. A file that is not what its sidecar says is
    computed again with a warning; one cut short by a full disk or a kill is never used.

    Args:
        name: Of what the array holds, for people.
        folder: Made if it does not exist. Holds ``<key>.npy``, ``<key>.json`` and ``<key>.lock``.
        description: All that decides the content, as plain values; its hash is the key.
        shape: Of the array.
        dtype: Of the array, as numpy writes it: ``<f4``, ``|u1``.
        blocks: Makes the array's parts, in order of its first axis.
        items: How many there are, for the progress.
        items_in: Counts those in a block.
        facts: What else the sidecar is to say.
        on_progress: Called with the items done and their total, at the start and after every block.
        progress_bar: Also show a bar if stderr is a terminal.

    Returns:
        A file for ``numpy.load``.

    Raises:
        ValueError: If the folder cannot be written.
    """
    file = Path(folder) / f"{cache_key(description)}.npy"
    with contextlib.ExitStack() as held:
        with _writing(name, file):
            held.enter_context(locked(file.with_suffix(".lock"), lambda: log.info(WAITING, name)))
        if not _is_whole(name, file, shape, dtype):
            started = time.monotonic()
            watched = _watched(name, blocks(), items, items_in, on_progress, progress_bar)
            sha256 = _write(name, file, shape, dtype, watched)
            seconds = time.monotonic() - started
            record = {"sha256": sha256, "shape": shape, "dtype": np.dtype(dtype).name, **(facts or {})}
            cost = {"seconds": round(seconds, 1), "images_per_s": round(items / seconds, 1)}
            with _writing(name, file):  # the sidecar vouches for the array, so it comes last
                content = json.dumps({**record, **cost, "of": dict(description)}, indent=2)
                write_atomic(file.with_suffix(".json"), content + "\n")
    return file


def cache_key(description: Mapping[str, Any]) -> str:
    """The name of what these plain values decide, in a cache."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]


def _watched(
    name: str,
    blocks: Iterator[np.ndarray],
    total: int,
    items_in: Callable[[np.ndarray], int],
    on_progress: Callable[[int, int], None] | None,
    progress_bar: bool,
) -> Iterator[np.ndarray]:
    """The blocks, with their progress shown and reported."""
    with progress(name, visible=progress_bar) as tell:
        done = 0
        tell(done, total)
        if on_progress:
            on_progress(done, total)
        for block in blocks:
            yield block
            done += items_in(block)
            tell(done, total)
            if on_progress:
                on_progress(done, total)


def _is_whole(name: str, file: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether the file is finished and as it was written; a warning if it was finished once."""
    sidecar = file.with_suffix(".json")
    if not sidecar.exists():
        return False  # never finished
    try:
        if json.loads(sidecar.read_text())["sha256"] != file_sha256(file):
            raise ValueError("its hash differs from the sidecar's")
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        if found.shape != shape or found.dtype != np.dtype(dtype):
            raise ValueError(f"it holds {found.dtype} {found.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cached %s %s are damaged (%s): computing them again", name, file, error)
        return False
    return True


def _write(name: str, file: Path, shape: tuple[int, ...], dtype: str, blocks: Iterator[np.ndarray]) -> str:
    """Write the blocks as one array, beside the file and then in its place; return the file's SHA-256."""
    file.with_suffix(".json").unlink(missing_ok=True)  # what it vouched for is about to change
    partial = file.with_suffix(".partial")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    digest = hashlib.sha256()
    try:
        with _writing(name, file, size), partial.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        digest.update(partial.read_bytes())
        for block in blocks:
            data = np.ascontiguousarray(block, dtype=dtype).tobytes()
            digest.update(data)
            with _writing(name, file, size), partial.open("ab") as stream:
                stream.write(data)
        with _writing(name, file, size):
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


@contextlib.contextmanager
def _writing(name: str, file: Path, size: int = 0) -> Iterator[None]:
    """Turn the system's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{file.parent} cannot be written ({error.strerror}): a cache of {name} needs {size / 1e6:.0f} MB there; "
            "free space or set paths.cache_dir to another folder"
        ) from error
