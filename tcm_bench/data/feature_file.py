"""Vectors that somebody computed elsewhere, read from one file: any model's embeddings, no images needed."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from tcm_bench.data.table import FeatureTable, Splits, Table
from tcm_bench.provenance import file_sha256

TRAIN, TEST = "train", "test"


def feature_splits(file: str | Path, *, sha256: str | None = None, test_share: float = 0.5, seed: int = 0) -> Splits:
    """Vectors that somebody computed elsewhere, with any model, split by class.

    Args:
        file: ``.npz`` or ``.safetensors`` with ``features`` ``(items, features)``, ``labels`` ``(items,)``
            (integers or strings) and, if the split is given, ``split`` ``(items,)`` of ``train`` and ``test``
            (or of 0 for train and 1 for test: a ``.safetensors`` file holds no strings).
        sha256: Hash of the file; any file is taken if None.
        test_share: Share of the classes that go to the test split; without ``split`` only.
        seed: Draws which; without ``split`` only.

    Returns:
        Float32 tables, the items in the file's order.

    Raises:
        ValueError: If the file is missing, unreadable or altered, an array is missing or has a wrong shape or
            type, a value is not finite, a class is in both splits, or a split has fewer than two classes.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"there is no file {file}: set data.file to an .npz or .safetensors file")
    found = file_sha256(file)
    if sha256 is not None and found != sha256:
        raise ValueError(f"{file} has sha256 {found} where {sha256} is expected")
    arrays = _arrays(file)
    features, labels = _checked(file, arrays)
    classes, numbers = np.unique(labels, return_inverse=True)
    if "split" in arrays:
        in_test = _given_split(file, arrays["split"], numbers)
        shown = sorted({str(classes[n]) for n in np.intersect1d(numbers[in_test], numbers[~in_test])})
        if shown:
            raise ValueError(
                f"{file}: {len(shown)} classes are in train and in test, for example {shown[0]!r}; "
                "a class must be on one side"
            )
    else:
        in_test = _drawn_split(len(classes), test_share, seed)[numbers]

    def table(side: str, rows: np.ndarray) -> Table:
        chosen, dense = np.unique(numbers[rows], return_inverse=True)
        if len(chosen) < 2:
            raise ValueError(f"{file}: the {side} split needs at least 2 classes, got {len(chosen)}")
        return FeatureTable(dense.astype(np.int64), [str(classes[n]) for n in chosen], features[rows])

    decided = {"file": found, "test_share": test_share, "seed": seed}
    fingerprint = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    return Splits(train=table(TRAIN, ~in_test), test=table(TEST, in_test), fingerprint=fingerprint)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """The file's arrays; nothing in it is executed."""
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(
            f"{file} is not an .npz or .safetensors file of plain arrays ({str(error).splitlines()[0]})"
        ) from error


def _checked(file: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features as float32, and labels, if they are what they should be."""
    for name in ("features", "labels"):
        if name not in arrays:
            raise ValueError(f"{file} needs an array {name!r}, it has {sorted(arrays) or 'none'}")
    features, labels = arrays["features"], arrays["labels"]
    if features.ndim != 2 or features.dtype.kind not in "fiu" or not features.size:
        raise ValueError(
            f"{file}: features must be numbers of shape (items, features), got {features.dtype} {features.shape}"
        )
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{file}: labels must be {len(features)} integers or strings, got {labels.dtype} {labels.shape}"
        )
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"{file}: features must be finite in float32, row {row} is not")
    norms = np.linalg.norm(features.astype(np.float64), axis=1)
    if (bad := np.flatnonzero((norms == 0) | (norms > np.finfo(np.float32).max))).size:
        raise ValueError(f"{file}: a row of features needs a norm above 0 that float32 holds, row {bad[0]} has none")
    return features, labels


def _given_split(file: Path, split: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Which items the file itself puts in test."""
    values = {value.item() for value in np.unique(split)}
    if split.shape != numbers.shape or not (values <= {TRAIN, TEST} or values <= {0, 1}):
        raise ValueError(
            f"{file}: split must hold 'train' or 'test' (or 0 or 1) for each of the {len(numbers)} items, "
            f"got {split.dtype} {split.shape} with {sorted(map(str, values))[:3]}"
        )
    return (split == TEST) if split.dtype.kind == "U" else split.astype(bool)


def _drawn_split(num_classes: int, test_share: float, seed: int) -> np.ndarray:
    """Which classes, in sorted order, are drawn for test: a share of them, the same for the same seed."""
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")
    chosen = np.zeros(num_classes, dtype=bool)
    order = np.random.default_rng(seed).permutation(num_classes)
    chosen[order[: round(num_classes * test_share)]] = True
    return chosen
