"""Embeddings that somebody computed elsewhere, read from one file to be evaluated as they are."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv
from safetensors import SafetensorError, safe_open

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
OPTIONAL = ("labels", "query", "gallery")


class EmbeddingSet(NamedTuple):
    """What a file holds.

    Attributes:
        embeddings: Floating point ``(items, dim)``, in the file's own precision.
        labels: int64 ``(items,)``: the place of each item's class in ``classes``.
        classes: The distinct labels of the file, increasing: whole numbers or strings.
        query: Which items are queries, bool ``(items,)``; None: all.
        gallery: Which are searched, likewise.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    classes: np.ndarray
    query: torch.Tensor | None
    gallery: torch.Tensor | None


def embedding_set(file: Path, labels_file: Path | None = None) -> EmbeddingSet:
    """Embeddings and the class of each.

    An ``.npy`` file and a ``.safetensors`` file are mapped, not read: memory is needed only for what is computed.

    Args:
        file: ``.npz`` or ``.safetensors`` with ``embeddings``, ``labels`` and, if they differ, ``query`` and
            ``gallery`` (booleans); or ``.npy`` with the embeddings alone.
        labels_file: The labels, in place of the file's own: ``.npy``, ``.txt`` with one a line, or ``.csv`` with a
            column ``label``.

    Raises:
        ValueError: If a file is missing, of another kind or holds a pickle, or an array is missing or is not what it
            should be.
    """
    arrays = _arrays(file)
    if labels_file is not None:
        arrays["labels"] = _labels(labels_file)
    if "embeddings" not in arrays:
        raise ValueError(f"{file} holds no array 'embeddings'")
    if "labels" not in arrays:
        raise ValueError(f"{file} holds no array 'labels'; put it there, or give a file of labels with --labels")
    embeddings, labels = _embeddings(file, arrays["embeddings"]), np.asarray(arrays["labels"])
    items = len(embeddings)
    if labels.shape != (items,) or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{labels_file or file}: labels must be {items} whole numbers or strings, one for each row of the "
            f"embeddings, got {labels.dtype} {labels.shape}"
        )
    roles = []
    for name in ("query", "gallery"):
        role = arrays.get(name)
        if role is not None and (role.shape != (items,) or np.asarray(role).dtype != bool):
            raise ValueError(f"{file}: {name} must be {items} booleans, got {role.dtype} {tuple(role.shape)}")
        roles.append(None if role is None else torch.as_tensor(role))
    classes, dense = np.unique(labels, return_inverse=True)
    return EmbeddingSet(embeddings, torch.from_numpy(dense.astype(np.int64)), classes, *roles)


def _arrays(file: Path) -> dict[str, np.ndarray | torch.Tensor]:
    """The arrays of a file by name; an only one is the embeddings. Nothing in it is executed."""
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
    names = ("embeddings", *OPTIONAL)
    try:
        if kind == ".safetensors":
            with safe_open(file, "pt") as tensors:
                found = {name: tensors.get_tensor(name) for name in names if name in tensors.keys()}  # noqa: SIM118
            return {name: t if name == "embeddings" else t.numpy() for name, t in found.items()}
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive}
    except (ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"{file} is not a {kind} file of plain arrays ({_first_line(error)})") from error


def _array(file: Path) -> np.ndarray:
    """The array of an ``.npy`` file, mapped: pages of it are read when they are needed, and given back."""
    _check_exists(file)
    try:
        with file.open("rb") as stream:
            np.lib.format.read_magic(stream)
        return np.load(file, mmap_mode="c", allow_pickle=False)  # "c": torch wants to be able to write
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not an .npy file of one plain array ({_first_line(error)})") from error


def _embeddings(file: Path, found: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(found, torch.Tensor):
        floating = found.is_floating_point()
    else:
        floating = found.dtype.kind == "f" and found.dtype.itemsize <= 8
    if found.ndim != 2 or not floating:
        raise ValueError(
            f"{file}: embeddings must be floating point (half, single or double) of shape (items, dimensions), got "
            f"{found.dtype} {tuple(found.shape)}"
        )
    if isinstance(found, torch.Tensor):
        return found
    return torch.as_tensor(found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("=")))


def _labels(file: Path) -> np.ndarray:
    """Labels of a file of their own: whole numbers if all of them are, else strings."""
    kind = file.suffix.lower()
    if kind == ".npy":
        return _array(file)
    _check_exists(file)
    if kind == ".txt":
        words = file.read_text(encoding="utf-8-sig").splitlines()
    elif kind == ".csv":
        as_text = csv.ConvertOptions(column_types={"label": pa.string()}, strings_can_be_null=False)
        try:
            table = csv.read_csv(file, convert_options=as_text)
            words = table["label"].to_pylist()
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is not a CSV file with a column 'label' ({_first_line(error)})") from error
    else:
        raise ValueError(f"{file} must end in .npy, .txt or .csv")
    if (empty := [row for row, word in enumerate(words) if not word.strip()]) and words:
        raise ValueError(f"{file}: label {empty[0]} (counted from 0) is empty")
    found = np.array(words, dtype=np.str_)
    try:
        numbers = found.astype(np.int64)
    except (ValueError, OverflowError):
        return found
    return numbers if (numbers.astype(np.str_) == found).all() else found  # "007" is a name


def _check_exists(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
