"""Features of a frozen backbone in place of images: computed once, then read from a file."""

import contextlib
import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tcm_bench.data.table import FeatureTable, ImageTable, Splits

log = logging.getLogger(__name__)

CACHE_FORMAT = 1  # part of the key: a change of layout or meaning must not meet old files


@runtime_checkable
class FrozenBackbone(Protocol):
    """What :func:`frozen_features` asks of a network.

    Attributes:
        num_features: Length of its vectors.
        identity: Everything that decides the vector of an image, as plain values.
    """

    num_features: int
    identity: dict[str, Any]

    def for_inference(self) -> nn.Module:
        """The same function of an image, as fast as it can be had without gradients."""


@runtime_checkable
class Transform(Protocol):
    """A fixed transform that knows its settings."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name and settings, as plain values."""

    def __call__(self, image: Image.Image) -> Tensor:
        """The network's input ``(3, height, width)``."""


def frozen_features(
    backbone: FrozenBackbone,
    splits: Splits,
    transform: Transform,
    *,
    cache_dir: str | Path,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
) -> Splits:
    """The backbone's vectors of every image, computed once and then read from a file.

    They are keyed by the backbone (weights included), the transform, the data, the kind of device and the
    version of torch. A second process that needs the same vectors waits for the first. A file that is not
    what its sidecar says is computed again with a warning; one cut short by a full disk or a kill is never used.

    Args:
        backbone: See :class:`FrozenBackbone`.
        splits: Two tables of images.
        transform: Applied to each image.
        cache_dir: Made if it does not exist. Holds ``<key>.npy``, ``<key>.json`` and ``<key>.lock``.
        batch_size: Images at a time. Fewer than 32 are slower on a CPU.
        num_workers: Processes that decode images; 0 decodes in this one.
        device: Where the backbone runs.
        on_progress: Called with the images done and their total, at the start and after every batch.
        progress_bar: Also show a bar if stderr is a terminal.

    Returns:
        The splits with tables of vectors, float32 and memory-mapped, in the same order; labels and names as
        they were.

    Raises:
        ValueError: If a split holds no images, a vector is not finite, or the cache cannot be written.
    """
    for table in (splits.train, splits.test):
        if not isinstance(table, ImageTable):
            raise ValueError(f"a frozen backbone needs tables of images, got a {type(table).__name__}")
    device = torch.device(device)
    description = {
        "format": CACHE_FORMAT,
        "backbone": backbone.identity,
        "transform": dict(transform.identity),
        "data": splits.fingerprint,
        "device": device.type,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]
    shape = (len(splits.train) + len(splits.test), backbone.num_features)
    file = Path(cache_dir) / f"{key}.npy"
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.with_suffix(".lock")):
        features = _cached(file, shape)
        if features is None:
            started = time.monotonic()
            blocks = _extracted(backbone.for_inference(), splits, transform, batch_size, num_workers, device)
            sha256 = _write(file, shape, _watched(blocks, shape[0], on_progress, progress_bar))
            seconds = time.monotonic() - started
            facts = {"sha256": sha256, "shape": shape, "dtype": "float32", "rows": "train, then test"}
            cost = {"seconds": round(seconds, 1), "images_per_s": round(shape[0] / seconds, 1)}
            setting = {"threads": torch.get_num_threads(), "batch_size": batch_size}
            _write_json(file.with_suffix(".json"), {**facts, **cost, **setting, "of": description})
            features = np.load(file, mmap_mode="c", allow_pickle=False)
    train, test = features[: len(splits.train)], features[len(splits.train) :]
    return Splits(
        train=FeatureTable(splits.train.labels, splits.train.class_names, train),
        test=FeatureTable(splits.test.labels, splits.test.class_names, test),
        fingerprint=splits.fingerprint,
    )


class _Images(Dataset[Tensor]):
    """A table's images, transformed."""

    def __init__(self, table: ImageTable, transform: Transform) -> None:
        self.table = table
        self.transform = transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(self.table.image(row))


def _extracted(
    network: nn.Module,
    splits: Splits,
    transform: Transform,
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Blocks of vectors, train's first."""
    torch.set_flush_denormal(True)
    network.to(device).eval()
    for weights in network.parameters():
        if weights.ndim == 4:  # the layout that convolutions are a sixth faster with on a CPU
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    for name, table in (("train", splits.train), ("test", splits.test)):
        assert isinstance(table, ImageTable)
        row = 0
        own = torch.Generator()  # a loader draws a seed even without shuffling: leave the run's generator alone
        loader = DataLoader(_Images(table, transform), batch_size, num_workers=num_workers, generator=own)
        for images in loader:
            with torch.inference_mode():
                inputs = images.to(device).contiguous(memory_format=torch.channels_last)
                block = network(inputs).float().cpu().numpy()
            if not np.isfinite(block).all():
                bad = row + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise ValueError(f"the backbone's vector of image {bad} of {name} is not finite")
            row += len(block)
            yield block


def _watched(
    blocks: Iterator[np.ndarray], total: int, on_progress: Callable[[int, int], None] | None, progress_bar: bool
) -> Iterator[np.ndarray]:
    """The blocks, with their progress shown and reported."""
    columns = (TextColumn("backbone features"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    visible = progress_bar and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not visible, transient=True) as bar:
        task = bar.add_task("", total=total)
        done = 0
        if on_progress:
            on_progress(done, total)
        for block in blocks:
            yield block
            done += len(block)
            bar.update(task, completed=done)
            if on_progress:
                on_progress(done, total)


def _cached(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The array of a finished file; None, after a warning if there is something wrong, for any other."""
    sidecar = file.with_suffix(".json")
    if not sidecar.exists():
        return None  # never finished
    try:
        if json.loads(sidecar.read_text())["sha256"] != _file_sha256(file):
            raise ValueError("its hash differs from the sidecar's")
        features = np.load(file, mmap_mode="c", allow_pickle=False)
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"it holds {features.dtype} {features.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cached features %s are damaged (%s): computing them again", file, error)
        return None
    return features


def _write(file: Path, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> str:
    """Write the blocks as one array, beside the file and then in its place; return the file's SHA-256."""
    file.with_suffix(".json").unlink(missing_ok=True)  # what it vouched for is about to change
    partial = file.with_suffix(".partial")
    size = math.prod(shape) * 4
    digest = hashlib.sha256()
    try:
        with _writing(file, size), partial.open("wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
        digest.update(partial.read_bytes())
        for block in blocks:
            data = np.ascontiguousarray(block, dtype="<f4").tobytes()
            digest.update(data)
            with _writing(file, size), partial.open("ab") as stream:
                stream.write(data)
        with _writing(file, size):
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def _write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a sidecar in one step: it vouches for the array, so it comes last."""
    partial = file.with_suffix(".json.partial")
    with _writing(file):
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(file)


@contextlib.contextmanager
def _writing(file: Path, size: int = 0) -> Iterator[None]:
    """Turn the system's refusals into one sentence."""
    try:
        yield
    except Timeout:  # an OSError too, but of a lock that somebody holds
        raise
    except OSError as error:
        raise ValueError(
            f"the feature cache {file.parent} cannot be written ({error.strerror}): it needs {size / 1e6:.0f} MB; "
            "free space or set machine.cache_dir to another folder"
        ) from error


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the system releases even if the process is killed."""
    lock = FileLock(file)
    try:
        with _writing(file):
            lock.acquire(timeout=0)
    except Timeout:
        log.info("another process computes the same backbone features: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
