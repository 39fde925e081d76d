"""Stanford Online Products."""

from pathlib import Path

from tcm_bench.data.listing import Counts, Listing, find_root, open_world, read_columns
from tcm_bench.data.table import Splits

DATASET = "Stanford Online Products"


def sop(root: str | Path, counts: Counts | None = None) -> Splits:
    """The authors' split: ``Ebay_train.txt`` and ``Ebay_test.txt``, disjoint by product.

    Args:
        root: The folder ``Stanford_Online_Products``, or the one it lies in.
        counts: See :func:`~tcm_bench.data.listing.open_world`.

    Raises:
        ValueError: If a list is missing or damaged, or the counts differ.

    References:
        Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
    """
    root = find_root(DATASET, root, "Ebay_train.txt", "Stanford_Online_Products")
    train, test = _listing(root / "Ebay_train.txt"), _listing(root / "Ebay_test.txt")
    names = {number: f"product {number}" for number in {*train.classes, *test.classes}}
    return open_world(DATASET, root, train, test, names, counts)


def _listing(path: Path) -> Listing:
    """One list, without its header ``image_id class_id super_class_id path``."""
    _, products, _, paths = read_columns(path, 4)
    return Listing(paths[1:], [int(product) for product in products[1:]])
