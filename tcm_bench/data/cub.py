"""Caltech-UCSD Birds 200-2011, split by class for retrieval."""

from pathlib import Path

from tcm_bench.data.listing import Counts, Listing, find_root, open_world, read_columns
from tcm_bench.data.table import Splits

DATASET = "CUB-200-2011"
LAST_TRAIN_CLASS = 100


def cub(root: str | Path, counts: Counts | None = None) -> Splits:
    """Classes 1-100 train, 101-200 test, as every retrieval paper splits them.

    The file ``train_test_split.txt`` belongs to the classification task and is not used.

    Args:
        root: The folder ``CUB_200_2011``, or the one it lies in.
        counts: See :func:`~tcm_bench.data.listing.open_world`.

    Raises:
        ValueError: If a list is missing or damaged, or the counts differ.

    References:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    root = find_root(DATASET, root, "images.txt", "CUB_200_2011")
    class_of = dict(zip(*read_columns(root / "image_class_labels.txt", 2), strict=True))
    name_of = dict(zip(*read_columns(root / "classes.txt", 2), strict=True))
    images, paths = read_columns(root / "images.txt", 2)
    if unlabelled := [image for image in images if class_of.get(image) not in name_of]:
        raise ValueError(f"image {unlabelled[0]} of {root / 'images.txt'} has no class in image_class_labels.txt")

    def listing(test: bool) -> Listing:
        rows = [(f"images/{path}", int(class_of[image])) for image, path in zip(images, paths, strict=True)]
        rows = [row for row in rows if (row[1] > LAST_TRAIN_CLASS) is test]
        return Listing([path for path, _ in rows], [number for _, number in rows])

    names = {int(number): name for number, name in name_of.items()}
    return open_world(DATASET, root, listing(test=False), listing(test=True), names, counts)
