"""Cars-196 (Stanford Cars), split by class for retrieval."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from tcm_bench.data.listing import Counts, Listing, open_world
from tcm_bench.data.table import Splits

DATASET = "Cars-196"
LAST_TRAIN_CLASS = 98


def cars(root: str | Path, counts: Counts | None = None) -> Splits:
    """Classes 1-98 train, 99-196 test; the official train and test images are merged before.

    Two layouts are in circulation:

    - A: ``car_ims/`` and ``cars_annos.mat``;
    - B: ``cars_train/``, ``cars_test/`` and ``devkit/``, with ``cars_test_annos_withlabels.mat`` in
      ``devkit/`` or beside it. Both image folders hold a ``00001.jpg``.

    Args:
        root: Folder of either layout.
        counts: See :func:`~tcm_bench.data.listing.open_world`.

    Raises:
        ValueError: If neither layout is complete, or the counts differ.

    References:
        Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
    """
    root = Path(root)
    if (root / "cars_annos.mat").is_file():
        paths, classes, names = _single_list(root)
    elif (root / "devkit").is_dir():
        paths, classes, names = _devkit(root)
    else:
        raise ValueError(
            f"{root} holds neither cars_annos.mat nor devkit/: {DATASET} is expected there, "
            "set data.root to the folder that holds car_ims/ and cars_annos.mat, "
            "or cars_train/, cars_test/ and devkit/"
        )

    def listing(test: bool) -> Listing:
        rows = [row for row in zip(paths, classes, strict=True) if (row[1] > LAST_TRAIN_CLASS) is test]
        return Listing([path for path, _ in rows], [number for _, number in rows])

    class_names = dict(enumerate(names, start=1))
    return open_world(DATASET, root, listing(test=False), listing(test=True), class_names, counts)


def _single_list(root: Path) -> tuple[list[str], list[int], list[str]]:
    """Paths, classes and class names of layout A."""
    content = _load(root / "cars_annos.mat")
    annotations = content["annotations"]
    return _column(annotations, "relative_im_path"), _classes(annotations), _texts(content["class_names"])


def _devkit(root: Path) -> tuple[list[str], list[int], list[str]]:
    """Paths, classes and class names of layout B."""
    labelled = "cars_test_annos_withlabels.mat"
    lists = {
        "cars_train": root / "devkit" / "cars_train_annos.mat",
        "cars_test": root / labelled if (root / labelled).is_file() else root / "devkit" / labelled,
    }
    paths, classes = [], []
    for folder, file in lists.items():
        annotations = _load(file)["annotations"]
        # One mirror unpacks each archive into a folder of its own name.
        inner = f"{folder}/{folder}" if (root / folder / folder).is_dir() else folder
        paths += [f"{inner}/{name}" for name in _column(annotations, "fname")]
        classes += _classes(annotations)
    return paths, classes, _texts(_load(root / "devkit" / "cars_meta.mat")["class_names"])


def _load(path: Path) -> dict[str, Any]:
    """Content of a MATLAB file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: it is one of the lists of {DATASET}")
    return loadmat(path, squeeze_me=True)


def _column(annotations: np.ndarray, field: str) -> list[str]:
    """One text per image."""
    return _texts(annotations[field])


def _classes(annotations: np.ndarray) -> list[int]:
    """The class number of each image."""
    return [int(number) for number in np.atleast_1d(annotations["class"])]


def _texts(values: np.ndarray) -> list[str]:
    """Plain strings from a MATLAB cell or struct field."""
    return [str(value) for value in np.atleast_1d(values)]
