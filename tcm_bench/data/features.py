"""Features of a frozen backbone in place of images: computed once, then read from a file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tcm_bench.data.cached_array import cached_array
from tcm_bench.data.decode import Picture
from tcm_bench.data.loader import Loader
from tcm_bench.data.table import FeatureTable, ImageTable, Splits

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

    def __call__(self, picture: Picture) -> Tensor:
        """Pixels ``(3, height, width)``."""

    def normalize(self, images: Tensor) -> Tensor:
        """The network's input for a batch of them."""


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
    shape = (len(splits.train) + len(splits.test), backbone.num_features)
    file = cached_array(
        "backbone features",
        cache_dir,
        decisive(backbone, splits, transform, device),
        shape,
        "<f4",
        lambda: _features(backbone.for_inference(), splits, transform, batch_size, num_workers, device),
        items=shape[0],
        facts={"rows": "train, then test", "threads": torch.get_num_threads(), "batch_size": batch_size},
        on_progress=on_progress,
        progress_bar=progress_bar,
    )
    features = np.load(file, mmap_mode="c", allow_pickle=False)
    train, test = features[: len(splits.train)], features[len(splits.train) :]
    return replace(
        splits,
        train=FeatureTable(splits.train.labels, splits.train.class_names, train, **splits.train.roles()),
        test=FeatureTable(splits.test.labels, splits.test.class_names, test, **splits.test.roles()),
    )


def decisive(backbone: FrozenBackbone, splits: Splits, transform: Transform, device: torch.device) -> dict[str, Any]:
    """All that decides the backbone's vectors, as plain values."""
    return {
        "format": CACHE_FORMAT,
        "backbone": backbone.identity,
        "transform": dict(transform.identity),
        "data": splits.fingerprint,
        "device": device.type,
        "torch": torch.__version__,
        **({"convolutions": "float32"} if device.type == "cuda" else {}),  # once they were TF32
    }


class _Images(Dataset[Tensor]):
    """A table's images, transformed."""

    def __init__(self, table: ImageTable, transform: Transform) -> None:
        self.table = table
        self.transform = transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(self.table.picture(row))


def _features(
    network: nn.Module,
    splits: Splits,
    transform: Transform,
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Blocks of vectors, train's first."""
    for name, table in (("train", splits.train), ("test", splits.test)):
        assert isinstance(table, ImageTable)
        yield from vectors_of(network, table, transform, name, batch_size, num_workers, device)


def vectors_of(
    network: nn.Module,
    table: ImageTable,
    transform: Transform,
    name: str,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[np.ndarray]:
    """What a network makes of a table's images, in their order, block by block: float32 ``(images, features)``.

    Args:
        network: From images to vectors; put in eval mode, on the device.
        table: The images.
        transform: Applied to each of them.
        name: Of the table, for messages.
        batch_size: Images at a time.
        num_workers: Processes that decode images; 0 decodes in this one.
        device: Where the network runs.

    Raises:
        ValueError: If an image cannot be read or a vector is not finite.
    """
    torch.set_flush_denormal(True)
    network.to(device).eval()
    for weights in network.parameters():
        if weights.ndim == 4:  # the layout that convolutions are a sixth faster with on a CPU
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    row = 0
    own = torch.Generator()  # a loader draws a seed even without shuffling: leave the run's generator alone
    for images in Loader(_Images(table, transform), batch_size, num_workers=num_workers, generator=own):
        with torch.inference_mode():
            inputs = transform.normalize(images.to(device)).contiguous(memory_format=torch.channels_last)
            block = network(inputs).float().cpu().numpy()
        if not np.isfinite(block).all():
            bad = row + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(f"the network's vector of image {bad} of {name} is not finite")
        row += len(block)
        yield block
