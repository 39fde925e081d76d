"""Caltech-UCSD Birds 200-2011, split by class for retrieval."""

from collections import Counter
from pathlib import Path

from tcm_bench.data.datasets.listing import class_disjoint_splits, find_root, halves, read_columns, whole_numbers
from tcm_bench.data.table import Splits

DATASET = "CUB-200-2011"
COUNTS = {"train": (100, 5_864), "test": (100, 5_924)}  # classes, images
RANGES = {"train": range(1, 101), "test": range(101, 201)}  # numbers of the classes


def cub(root: str | Path, *, subset: bool = False) -> Splits:
    """Classes 1-100 train, 101-200 test, as every retrieval paper splits them.

    The file ``train_test_split.txt`` belongs to the classification task and is not used. Files that no list names,
    such as the ``._*`` that a Mac adds, are passed over.

    Args:
        root: The folder ``CUB_200_2011``, or one that it lies in.
        subset: Accept fewer classes and images than the benchmark has.

    Raises:
        ValueError: If a list is missing or damaged, an image lies in the folder of another class than its own, or
            what is found is not the benchmark.

    References:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    root = find_root(DATASET, "cub", root, "images.txt")
    images, labels, names = (root / name for name in ("images.txt", "image_class_labels.txt", "classes.txt"))
    label_of, name_of = _by_number(labels), _by_number(names)
    class_of = dict(zip(label_of, whole_numbers(labels, list(label_of.values())), strict=True))
    paths, classes = [], []
    for image, path in _by_number(images).items():
        number = class_of.get(image)
        if number is None or number not in name_of:
            raise ValueError(f"image {image} of {images} has no class in {labels.name} and {names.name}")
        # The folder says the class once more: lists of another copy, or of another set, do not go unnoticed.
        if path.split("/")[0] != name_of[number] or name_of[number].split(".")[0] != f"{number:03}":
            raise ValueError(f"{images} has {path!r}, but the other lists give it to class {number}, {name_of[number]}")
        paths.append(f"images/{path}")
        classes.append(number)
    train, test = halves(paths, classes, RANGES["test"].start)
    return class_disjoint_splits(DATASET, root, train, test, name_of, COUNTS, ranges=RANGES, subset=subset)


def _by_number(path: Path) -> dict[int, str]:
    """A list whose lines begin with a number of their own."""
    column, values = read_columns(path, 2)
    numbers = whole_numbers(path, column)
    if len(set(numbers)) < len(numbers):
        twice, _ = Counter(numbers).most_common(1)[0]
        raise ValueError(f"{path} has more than one line of number {twice}")
    return dict(zip(numbers, values, strict=True))
