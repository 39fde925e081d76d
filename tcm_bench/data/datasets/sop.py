"""Stanford Online Products."""

from pathlib import Path

from tcm_bench.data.datasets.listing import Listing, class_disjoint_splits, find_root, read_columns, whole_numbers
from tcm_bench.data.table import Splits

DATASET = "Stanford Online Products"
COUNTS = {"train": (11_318, 59_551), "test": (11_316, 60_502)}  # classes, images
RANGES = {"train": range(1, 11_319), "test": range(11_319, 22_635)}  # numbers of the products


def sop(root: str | Path, *, subset: bool = False) -> Splits:
    """The authors' split: ``Ebay_train.txt`` and ``Ebay_test.txt``, disjoint by product.

    Args:
        root: The folder ``Stanford_Online_Products``, or one that it lies in.
        subset: Accept fewer classes and images than the benchmark has.

    Raises:
        ValueError: If a list is missing or damaged, or what is found is not the benchmark.

    References:
        Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
    """
    root = find_root(DATASET, "sop", root, "Ebay_train.txt")
    train, test = _listing(root / "Ebay_train.txt"), _listing(root / "Ebay_test.txt")
    names = {number: f"product {number}" for number in {*train.classes, *test.classes}}
    return class_disjoint_splits(DATASET, root, train, test, names, COUNTS, ranges=RANGES, subset=subset)


def _listing(path: Path) -> Listing:
    """One list, with or without its header ``image_id class_id super_class_id path``."""
    images, products, _, paths = read_columns(path, 4)
    first = 1 if images[:1] == ["image_id"] else 0
    return Listing(paths[first:], whole_numbers(path, products[first:]))
