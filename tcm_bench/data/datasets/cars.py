"""Cars-196 (Stanford Cars), split by class for retrieval."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from tcm_bench.data.datasets.listing import class_disjoint_splits, find_root, halves, is_left_by_mac
from tcm_bench.data.table import Splits

DATASET = "Cars-196"
COUNTS = {"train": (98, 8_054), "test": (98, 8_131)}  # classes, images
RANGES = {"train": range(1, 99), "test": range(99, 197)}  # numbers of the classes
TRAIN_LABELS, TEST_LABELS = "cars_train_annos.mat", "cars_test_annos_withlabels.mat"


def cars(root: str | Path, *, subset: bool = False) -> Splits:
    """Classes 1-98 train, 99-196 test; the official train and test images are merged before.

    Two layouts are in circulation:

    - A: ``car_ims/`` and ``cars_annos.mat``;
    - B: ``cars_train/``, ``cars_test/`` and ``devkit/``, with ``cars_test_annos_withlabels.mat`` in
      ``devkit/`` or beside it. Both image folders hold a ``00001.jpg``.

    The image folders tell which it is, for copies of B come with A's list, whose numbers mean other images. They may
    be nested (``cars_train/cars_train/``), as may ``devkit/``, whose files may also lie beside the images.

    Args:
        root: Folder of either layout, or one that it lies in.
        subset: Accept fewer classes and images than the benchmark has.

    Raises:
        ValueError: If neither layout is complete, a list is damaged, or what is found is not the benchmark.

    References:
        Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
    """
    root = find_root(DATASET, "cars", root, "car_ims", "cars_train")
    if (root / "car_ims").is_dir() and ((root / "cars_annos.mat").is_file() or not (root / "cars_train").is_dir()):
        paths, classes = _single_list(root)
    else:
        paths, classes = _devkit(root)
    train, test = halves(paths, classes, RANGES["test"].start)
    names, nested = _class_names(root), ("car_ims", "cars_train", "cars_test")
    return class_disjoint_splits(DATASET, root, train, test, names, COUNTS, ranges=RANGES, subset=subset, nested=nested)


def _single_list(root: Path) -> tuple[list[str], list[int]]:
    """Paths and classes of layout A."""
    paths, classes = _annotations(root / "cars_annos.mat", "relative_im_path")
    return [f"car_ims/{path.removeprefix('car_ims/')}" for path in paths], classes


def _devkit(root: Path) -> tuple[list[str], list[int]]:
    """Paths and classes of layout B."""
    files = {"cars_train": _find(root, TRAIN_LABELS), "cars_test": _find(root, TEST_LABELS)}
    if missing := [name for name, file in zip((TRAIN_LABELS, TEST_LABELS), files.values(), strict=True) if not file]:
        raise ValueError(
            f"{root} has the images of {DATASET} but not {' and '.join(missing)}: put devkit/ (of car_devkit.tgz) "
            f"and {TEST_LABELS} beside cars_train/; no other list says which class its images have"
        )
    paths, classes = [], []
    for folder, file in files.items():
        assert file is not None
        names, numbers = _annotations(file, "fname")
        paths += [f"{folder}/{name}" for name in names]
        classes += numbers
    return paths, classes


def _class_names(root: Path) -> dict[int, str]:
    """Name of each class number: every list of names is the same."""
    file = _find(root, "cars_meta.mat") or _find(root, "cars_annos.mat")
    if file is None:
        raise ValueError(f"{root} has no cars_meta.mat, which names the classes of {DATASET}: put devkit/ there")
    return dict(enumerate(_texts(file, "class_names", _load(file, "class_names")), start=1))


def _find(root: Path, name: str) -> Path | None:
    """A list, beside the images or in the development kit; downloaded twice, it is called ``name (1).mat``."""
    again = name.replace(".mat", " ([0-9]).mat")
    patterns = [folder + pattern for folder in ("", "*devkit*/", "*devkit*/*/") for pattern in (name, again)]
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((path for path in found if not is_left_by_mac(path.relative_to(root))), None)


def _annotations(file: Path, path_field: str) -> tuple[list[str], list[int]]:
    """Path and class of each image of a list."""
    annotations = np.atleast_1d(_load(file, "annotations"))
    for field in (path_field, "class"):
        if field not in (annotations.dtype.names or ()):
            raise ValueError(f"{file} has no {field!r} in its annotations: it is not the list of {DATASET}")
    classes = []
    for row, number in enumerate(annotations["class"], start=1):
        if np.ndim(number) or not isinstance(number, (int, float, np.number)) or int(number) != number:
            raise ValueError(f"{file} has the class {number!r} in row {row}, where a number is expected")
        classes.append(int(number))
    return _texts(file, path_field, annotations[path_field]), classes


def _texts(file: Path, field: str, values: np.ndarray) -> list[str]:
    """Plain strings from a MATLAB cell or struct field."""
    texts = np.atleast_1d(values).tolist()
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{file} has {wrong[0]!r} in {field}, where a text is expected")
    return [text.strip() for text in texts]


def _load(file: Path, variable: str) -> Any:
    """A variable of a MATLAB file; nothing in such a file is executed."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: it is one of the lists of {DATASET}")
    try:
        return loadmat(file, squeeze_me=True, variable_names=[variable])[variable]
    except Exception as error:
        raise ValueError(
            f"{file} is damaged or not the list of {DATASET}: {variable} cannot be read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
