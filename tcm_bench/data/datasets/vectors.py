"""Vectors that somebody computed, with any model: read from a file, to be trained on or evaluated as they are.

A file holds `embeddings` or `features` (two names for one thing: `(items, dimensions)`), `labels`, and, if it likes,
`split` for training, and `query` and `gallery` for evaluation.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from tcm_bench.data.datasets.csv_columns import csv_columns, labels_of, utf8_text
from tcm_bench.data.table import FeatureTable, Splits, Table
from tcm_bench.files import file_sha256

NAMES = ("embeddings", "features")
ROLES = ("query", "gallery")
OPTIONAL = ("labels", "split", *ROLES)
CLASSES = "classes"  # in the metadata of a .safetensors file, which holds no strings: the names behind its labels
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
TRAIN, TEST = "train", "test"


class VectorSet(NamedTuple):
    """What a file holds.

    Attributes:
        vectors: Floating point ``(items, dimensions)``, in the file's own precision; whole numbers only if asked for.
        labels: int64 ``(items,)``: the place of each item's class in ``classes``; None if the file has none.
        classes: The distinct labels of the file, increasing: whole numbers or strings.
        split: Side of each item, ``train`` and ``test`` or 0 and 1; None if the file does not say.
        query: Which items are queries, bool ``(items,)``; None: all.
        gallery: Which are searched, likewise.
    """

    vectors: torch.Tensor
    labels: torch.Tensor | None
    classes: np.ndarray
    split: np.ndarray | None
    query: torch.Tensor | None
    gallery: torch.Tensor | None


def vector_set(
    file: Path, labels_file: Path | None = None, *, needs_labels: bool = True, whole_numbers: bool = False
) -> VectorSet:
    """Vectors and the class of each.

    An ``.npy`` file and a ``.safetensors`` file are mapped, not read: memory is needed only for what is computed.

    Args:
        file: ``.npz`` or ``.safetensors`` with ``embeddings`` (or ``features``), ``labels`` and, if they differ,
            ``query`` and ``gallery`` (booleans); or ``.npy`` with the vectors alone.
        labels_file: The labels, in place of the file's own: ``.npy``, ``.txt`` with one a line, or ``.csv`` with a
            column ``label``.
        needs_labels: Refuse a file without labels.
        whole_numbers: Take vectors of whole numbers too (counts and pixels can be trained on; as embeddings they are
            more likely a mistake).

    Raises:
        ValueError: If a file is missing, of another kind or holds a pickle, or an array is missing, twice there, or is
            not what it should be.
    """
    arrays = _arrays(file)
    name = _vectors_name(file, arrays)
    if labels_file is not None:
        arrays["labels"] = _labels(labels_file)
    vectors = _numbers(file, name, arrays[name], whole_numbers)
    items = len(vectors)
    roles = []
    for role_name in ROLES:
        role = arrays.get(role_name)
        if role is not None and (role.shape != (items,) or np.asarray(role).dtype != bool):
            raise ValueError(f"{file}: {role_name} must be {items} booleans, got {role.dtype} {tuple(role.shape)}")
        roles.append(None if role is None else torch.as_tensor(role))
    if "labels" not in arrays:
        if needs_labels:
            raise ValueError(
                f"{file} holds no array 'labels', it has {_shown(arrays)}; put it there, or give a file of labels "
                "(--labels in `tcm-bench evaluate`, whose --out the other commands take; data.labels in train.py)"
            )
        return VectorSet(vectors, None, np.array([], np.str_), None, *roles)
    labels = np.asarray(arrays["labels"])
    if labels.shape != (items,) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{labels_file or file}: labels must be {items} whole numbers or strings, one for each row of the "
            f"{name}, got {labels.dtype} {labels.shape}"
        )
    if CLASSES in arrays and labels_file is None:
        labels = _named(file, labels, arrays[CLASSES])
    classes, dense = np.unique(labels, return_inverse=True)
    split = None if "split" not in arrays else np.asarray(arrays["split"])
    return VectorSet(vectors, torch.from_numpy(dense.astype(np.int64)), classes, split, *roles)


def vector_splits(
    file: str | Path,
    *,
    labels: str | Path | None = None,
    sha256: str | None = None,
    test_share: float = 0.5,
    seed: int = 0,
) -> Splits:
    """Vectors to train a head on, split by class.

    Args:
        file: See :func:`vector_set`; in ``split`` it may say which items are ``train`` and which ``test`` (or 0 for
            train and 1 for test: a ``.safetensors`` file holds no strings).
        labels: A file of labels, in place of the file's own.
        sha256: Hash of the file, followed by that of the labels if these are given; None: not checked.
        test_share: Share of the classes that go to the test split; without ``split`` only.
        seed: Draws which; without ``split`` only.

    Returns:
        Float32 tables, the items in the file's order.

    Raises:
        ValueError: If a file is refused by :func:`vector_set` or altered, a value is not finite, a class is in both
            splits, or a split has fewer than two classes.
    """
    file, labels = Path(file), None if labels is None else Path(labels)
    if not file.is_file():
        raise ValueError(f"there is no file {file}: set data.file to an .npz, .safetensors or .npy file")
    found = "".join(file_sha256(path) for path in (file, labels) if path is not None and path.is_file())
    if sha256 is not None and found != sha256:
        raise ValueError(f"{file} has sha256 {found} where {sha256} is expected")
    given = vector_set(file, labels, whole_numbers=True)
    assert given.labels is not None
    vectors, numbers, classes = _float32(file, given.vectors), given.labels.numpy(), given.classes
    if given.split is not None:
        in_test = _given_split(file, given.split, numbers)
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
        roles = {name: role.numpy()[rows] for name in ROLES if (role := getattr(given, name)) is not None}
        names = [str(classes[n]) for n in chosen]
        return FeatureTable(dense.astype(np.int64), names, vectors[rows], **(roles if side == TEST else {}))

    decided = {"file": found, "test_share": test_share, "seed": seed}
    fingerprint = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    return Splits(train=table(TRAIN, ~in_test), test=table(TEST, in_test), fingerprint=fingerprint)


def _arrays(file: Path) -> dict[str, np.ndarray | torch.Tensor]:
    """The known arrays of a file by name; an only one is the embeddings. Nothing in it is executed."""
    kind = file.suffix.lower()
    if kind in PICKLES:
        raise ValueError(
            f"{file} is a pickle, which may run any code when it is opened: save the embeddings and labels with "
            "numpy.savez or as .safetensors, or give a run's folder in place of its checkpoint"
        )
    if kind not in (".safetensors", ".npz", ".npy"):
        raise ValueError(f"{file} must end in .safetensors, .npz or .npy")
    if kind == ".npy":
        return {"embeddings": _array(file)}
    _check_exists(file)
    names = (*NAMES, *OPTIONAL)
    try:
        if kind == ".safetensors":
            with safe_open(file, "pt") as tensors:
                held, notes = set(tensors.keys()), tensors.metadata() or {}
                found = {name: tensors.get_tensor(name) for name in names if name in held}
            arrays = {name: t if name in NAMES else t.numpy() for name, t in found.items()}
            if CLASSES in notes and "labels" in arrays:
                arrays[CLASSES] = np.array(json.loads(notes[CLASSES]))
        else:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, which ends in .npy")
            with archive:
                held = set(archive.files)
                arrays = {name: archive[name] for name in names if name in held}
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"{file} is not a {kind} file of plain arrays ({_first_line(error)})") from error
    if not any(name in arrays for name in NAMES):
        raise ValueError(f"{file} holds no array 'embeddings' or 'features', it has {_shown(held)}")
    return arrays


def _vectors_name(file: Path, arrays: dict[str, np.ndarray | torch.Tensor]) -> str:
    """Under which name the vectors are there."""
    first, *further = (name for name in NAMES if name in arrays)
    if further:
        raise ValueError(f"{file} holds both 'embeddings' and 'features', two names for the vectors: leave one of them")
    return first


def _array(file: Path) -> np.ndarray:
    """The array of an ``.npy`` file, mapped: pages of it are read when they are needed, and given back."""
    _check_exists(file)
    try:
        with file.open("rb") as stream:
            np.lib.format.read_magic(stream)
        return np.load(file, mmap_mode="c", allow_pickle=False)  # "c": torch wants to be able to write
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not an .npy file of one plain array ({_first_line(error)})") from error


def _numbers(file: Path, name: str, found: np.ndarray | torch.Tensor, whole_numbers: bool) -> torch.Tensor:
    """The vectors as a tensor, if they are numbers of the right shape."""
    if isinstance(found, torch.Tensor):
        floating, whole = found.is_floating_point(), not (found.is_complex() or found.dtype == torch.bool)
    else:
        floating = found.dtype.kind == "f" and found.dtype.itemsize <= 8
        whole = found.dtype.kind in "iu"
    if found.ndim != 2 or not (floating or (whole and whole_numbers)) or 0 in found.shape:
        numbers = "numbers" if whole_numbers else "floating point (half, single or double)"
        raise ValueError(
            f"{file}: {name} must be {numbers} of shape (items, dimensions), got {found.dtype} {tuple(found.shape)}"
        )
    if isinstance(found, torch.Tensor):
        return found
    return torch.as_tensor(found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("=")))


def _float32(file: Path, vectors: torch.Tensor) -> np.ndarray:
    """The vectors as training takes them, each finite and of a norm that can be divided by."""
    rows = vectors.float().numpy()
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"{file}: vectors must be finite in float32, row {row} is not")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if (bad := np.flatnonzero((norms == 0) | (norms > np.finfo(np.float32).max))).size:
        raise ValueError(f"{file}: a vector needs a norm above 0 that float32 holds, row {bad[0]} has none")
    return rows


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


def _labels(file: Path) -> np.ndarray:
    """Labels of a file of their own: whole numbers if all of them are, else strings."""
    kind = file.suffix.lower()
    if kind == ".npy":
        return _array(file)
    _check_exists(file)
    if kind == ".txt":
        words = utf8_text(file).splitlines()
    elif kind == ".csv":
        words = csv_columns(file, ["label"])["label"]
    else:
        raise ValueError(f"{file} must end in .npy, .txt or .csv")
    if (empty := [row for row, word in enumerate(words) if not word.strip()]) and words:
        raise ValueError(f"{file}: label {empty[0]} (counted from 0) is empty")
    return labels_of(words)


def _named(file: Path, labels: np.ndarray, names: np.ndarray | torch.Tensor) -> np.ndarray:
    """Labels by the names that stand in the file's metadata."""
    if names.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"{file}: labels must count the {names.shape} names that its metadata has as 'classes'")
    return np.asarray(names)[labels]


def _shown(names: object) -> str:
    return ", ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload]


def _check_exists(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
