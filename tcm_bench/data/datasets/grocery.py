"""The Grocery Store dataset, split by class for retrieval: a split of this project's own."""

from pathlib import Path

from tcm_bench.data.datasets.listing import class_disjoint_splits, find_root, halves, read_lines, whole_numbers
from tcm_bench.data.table import Splits

DATASET = "Grocery Store"
COUNTS = {"train": (41, 3_051), "test": (40, 2_370)}  # classes, images
RANGES = {"train": range(41), "test": range(41, 81)}  # numbers of the fine classes
PARTS = ("train", "val", "test")  # of the authors' task, which is to classify


def grocery(root: str | Path, *, subset: bool = False) -> Splits:
    """Fine classes 0-40 train, 41-80 test, whichever list of the authors an image is in.

    No paper uses this split: the authors' own has every class in training and in test. Numbers on it compare methods
    with each other, never with a published table.

    Args:
        root: The folder ``dataset`` of the repository, or one that it lies in.
        subset: Accept fewer classes and images than the dataset has.

    Raises:
        ValueError: If a list is missing or damaged, or what is found is not the dataset.

    References:
        Klasson et al., "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV 2019.
    """
    root = find_root(DATASET, "grocery", root, "train.txt")
    names: dict[int, str] = {}
    paths, classes = [], []
    for part in PARTS:
        file = root / f"{part}.txt"
        for line in read_lines(file):
            path, *labels = (cell.strip() for cell in line.split(","))
            folder, _, _ = path.rpartition("/")
            if len(labels) != 2 or not folder:
                raise ValueError(f"{file} has the line {line!r} where `path, fine label, coarse label` is expected")
            fine, _ = whole_numbers(file, labels)
            name = folder.rpartition("/")[2]
            # The folders above may differ: one class lies in another place in one of the three parts.
            if names.setdefault(fine, name) != name:
                raise ValueError(f"{file} has the class {fine} both as {names[fine]} and as {name}")
            paths.append(path)
            classes.append(fine)
    train, test = halves(paths, classes, RANGES["test"].start)
    return class_disjoint_splits(DATASET, root, train, test, names, COUNTS, ranges=RANGES, subset=subset)
