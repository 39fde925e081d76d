"""What a finished run has learned, put to use: its network, and the embeddings that it makes of anything new."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from yaml import YAMLError

from tcm_bench.data.datasets.vectors import CLASSES, vector_set
from tcm_bench.data.features import vectors_of
from tcm_bench.data.new_images import new_images
from tcm_bench.data.table import ImageTable
from tcm_bench.data.transforms import ImageTransform
from tcm_bench.files import replacing
from tcm_bench.models.embedder import Embedder
from tcm_bench.models.state import load_exactly
from tcm_bench.multiplication import multiply
from tcm_bench.results.ledger import CONFIG, WEIGHTS, read_result
from tcm_bench.runs.build import build

VECTORS = (".npz", ".safetensors", ".npy")
FORMATS = (".npz", ".safetensors")
# What runs did before there were these keys.
BEFORE_THEY_EXISTED = {"model.matmul_precision": "highest", "machine.compile": False}


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of something new.

    Attributes:
        embeddings: Unit norm, float32 ``(items, dim)``.
        labels: Whole numbers or strings ``(items,)``; None if nobody says.
        paths: Of the images; None for vectors.
        roles: Which items are ``query`` and ``gallery``, where the vectors' file says so.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    paths: list[str] | None
    roles: dict[str, np.ndarray]


def embedded(
    run_dir: Path,
    place: Path,
    *,
    trusted: Sequence[str] = (),
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """What a run's network makes of new images, or of vectors if these are what it was trained on.

    Images are prepared as the run prepares its test images. Nothing but tensors is read from the weights; the classes
    that the configuration names are built only if they are the project's own or in a trusted package.

    Args:
        run_dir: The run's folder.
        place: See :func:`tcm_bench.data.new_images.new_images`; or a file of vectors, see
            :func:`tcm_bench.data.datasets.vectors.vector_set`.
        trusted: Packages beside the project's that the configuration may name.
        device: Where the network runs.
        batch_size: Items at a time.
        num_workers: Processes that decode images; 0 decodes in this one.
        on_progress: Called with the items done and their total.

    Raises:
        ValueError: If the run is incomplete or damaged, its network cannot be rebuilt, or an item cannot be read.
    """
    cfg = configuration(run_dir)
    if not place.exists():
        raise ValueError(f"there is no file or folder {place}")
    takes_images = "test_transform" in cfg.data
    if (place.suffix.lower() in VECTORS) == takes_images:
        taken = (
            "images: give an image, a folder of them, or a .csv table"
            if takes_images
            else (f"vectors: give a file of them ({', '.join(VECTORS)})")
        )
        raise ValueError(f"{place} is not what {run_dir} embeds, which is {taken}")
    is_frozen = takes_images and cfg.model.freeze == "backbone"  # whose features the run had in float32
    multiply("highest" if is_frozen else cfg.model.matmul_precision)
    if not takes_images:
        return _of_vectors(cfg, run_dir, place, trusted, device, batch_size, on_progress)
    found = new_images(place)
    transform = build(cfg.data.test_transform, trusted)
    assert isinstance(transform, ImageTransform)
    network = image_embedder(cfg, run_dir, trusted)
    blocks = []
    for block in vectors_of(network, found.images, transform, str(place), batch_size, num_workers, device):
        blocks.append(block)
        on_progress(sum(map(len, blocks)), len(found.images))
    return Embedded(np.concatenate(blocks), found.labels, found.names, {})


def image_embedder(cfg: DictConfig, run_dir: Path, trusted: Sequence[str] = ()) -> Embedder:
    """The network of a run on images, from images to embeddings.

    Args:
        cfg: The run's configuration.
        run_dir: The run's folder.
        trusted: See `embedded`.

    Raises:
        ValueError: If it cannot be rebuilt as it was.
    """
    state = _weights(run_dir)
    torch.manual_seed(cfg.seed)  # as the run does: weights may be random
    backbone = build(cfg.model.backbone, trusted)
    frozen = not any(name.startswith("backbone.") for name in state)
    if frozen:
        _check_weights(backbone.identity, run_dir)
        state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()} | state
    embedder = Embedder(backbone, build(cfg.model.head, trusted), freeze=cfg.model.freeze)
    load_exactly(embedder, state, run_dir / WEIGHTS)
    if frozen:
        embedder.backbone = backbone.for_inference()  # what its features were computed by
    return embedder.eval()


def images_of(run_dir: Path, *, trusted: Sequence[str] = ()) -> ImageTable | None:
    """The images that a run was tested on, as its stored `indices` count them.

    Args:
        run_dir: The run's folder.
        trusted: See `embedded`.

    Returns:
        None if the run was trained on vectors, or its data are not here, or are others now.
    """
    row = read_result(run_dir)
    try:
        splits = build(configuration(run_dir).data.splits, trusted)
    except (ValueError, OSError, OmegaConfBaseException):
        return None
    is_same = row is not None and splits.fingerprint == row.data_hash
    return splits.test if is_same and isinstance(splits.test, ImageTable) else None


def write_embedded(found: Embedded, path: Path) -> None:
    """Store embeddings in one step, for `tcm-bench evaluate` and any program: `embeddings`, `labels`, `paths`.

    A `.safetensors` file holds no strings: there the paths, and the names of the labels, stand in its metadata as JSON.

    Raises:
        ValueError: If the name ends otherwise, or the file cannot be written.
    """
    check_format(path)
    arrays: dict[str, Any] = {"embeddings": found.embeddings, **found.roles}
    notes: dict[str, str] = {}
    if found.labels is not None:
        arrays["labels"] = found.labels
    try:
        with replacing(path) as temporary:
            if path.suffix.lower() == ".npz":
                if found.paths is not None:
                    arrays["paths"] = np.array(found.paths, np.str_)
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)
                return
            if found.labels is not None and found.labels.dtype.kind == "U":
                classes, arrays["labels"] = np.unique(found.labels, return_inverse=True)
                notes[CLASSES] = json.dumps(classes.tolist())
            if found.paths is not None:
                notes["paths"] = json.dumps(found.paths)
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
            save_file(tensors, temporary, notes)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def check_format(path: Path) -> None:
    """Refuse a name that does not say how to write it.

    Raises:
        ValueError: See above.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write embeddings to '{path.name}'; end the name in {' or '.join(FORMATS)}")


def _of_vectors(
    cfg: DictConfig,
    run_dir: Path,
    file: Path,
    trusted: Sequence[str],
    device: str | torch.device,
    batch_size: int,
    on_progress: Callable[[int, int], None],
) -> Embedded:
    """What a head that was trained on vectors makes of others."""
    given = vector_set(file, needs_labels=False, whole_numbers=True)
    head = build(cfg.model.head, trusted)
    embedder = Embedder(None, head, freeze=cfg.model.freeze, num_features=given.vectors.shape[1])
    load_exactly(embedder, _weights(run_dir), f"{run_dir / WEIGHTS}, for the vectors of {file},")
    embedder.to(device).eval()
    rows: list[Tensor] = []
    with torch.inference_mode():
        for block in given.vectors.split(batch_size):
            rows.append(embedder(block.to(device).float()).float().cpu())
            on_progress(sum(map(len, rows)), len(given.vectors))
    embeddings = torch.cat(rows).numpy()
    if not np.isfinite(embeddings).all():
        bad = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise ValueError(f"{file}: the embedding of row {bad} is not finite; is the row?")
    roles = {name: role.numpy() for name in ("query", "gallery") if (role := getattr(given, name)) is not None}
    labels = None if given.labels is None else given.classes[given.labels.numpy()]
    return Embedded(embeddings, labels, None, roles)


def configuration(run_dir: Path) -> DictConfig:
    """A run's own, as it was resolved when the run started.

    Raises:
        ValueError: If the folder is no run's, or the file is damaged.
    """
    file = run_dir / CONFIG
    if not file.is_file():
        raise ValueError(f"{run_dir} holds no {CONFIG}: it is no run's folder")
    try:
        cfg = OmegaConf.load(file)
        needed = [
            OmegaConf.select(cfg, key) for key in ("data", "model.head", "model.backbone", "model.freeze", "seed")
        ]
    except (OSError, YAMLError, OmegaConfBaseException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{file} is damaged ({reason}); give the run's command again with force=true") from error
    if not isinstance(cfg, DictConfig) or any(value is None for value in needed):
        raise ValueError(f"{file} is not the configuration of a run; give the run's command again with force=true")
    for key, value in BEFORE_THEY_EXISTED.items():
        if OmegaConf.select(cfg, key) is None:
            OmegaConf.update(cfg, key, value)
    return cfg


def _weights(run_dir: Path) -> dict[str, Tensor]:
    file = run_dir / WEIGHTS
    if not file.is_file():
        raise ValueError(f"{run_dir} holds no {WEIGHTS}, which a run stores when it finishes; let it finish first")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} is damaged ({reason}); give the run's command again with force=true") from error


def _check_weights(identity: dict[str, Any], run_dir: Path) -> None:
    """Refuse another frozen backbone than the one whose features the head was trained on."""
    row = read_result(run_dir)
    expected = row.network.get("weights", {}).get("sha256") if row else None
    if expected is not None and identity["weights"]["sha256"] != expected:
        raise ValueError(
            f"the backbone's weights have sha256 {identity['weights']['sha256']} here where {run_dir} was trained with "
            f"{expected}; put those in their place"
        )
