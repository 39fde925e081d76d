"""iNaturalist 2018, with the class-disjoint split of Smooth-AP's authors."""

from pathlib import Path

from tcm_bench.data.listing import Counts, Listing, find_root, open_world, read_columns
from tcm_bench.data.table import Splits

DATASET = "iNaturalist-2018"
TRAIN_LIST, TEST_LIST = "Inaturalist_train_set1.txt", "Inaturalist_test_set1.txt"
IMAGES = "train_val2018"


def inat(root: str | Path, counts: Counts | None = None) -> Splits:
    """The retrieval split: species of one list train, species of the other test.

    The lists come apart from the images (``Inat_dataset_splits.zip``); put them, or the folder
    ``Inat_dataset_splits``, beside ``train_val2018/``.

    Args:
        root: Folder that holds ``train_val2018/`` and the lists.
        counts: See :func:`~tcm_bench.data.listing.open_world`.

    Raises:
        ValueError: If a list is missing or damaged, or the counts differ.

    References:
        Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018.
        Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020.
    """
    root = Path(root)
    lists = find_root(DATASET, root, TRAIN_LIST, "Inat_dataset_splits")
    names: dict[int, str] = {}
    train, test = (_listing(lists / file, names) for file in (TRAIN_LIST, TEST_LIST))
    return open_world(DATASET, root, train, test, names, counts)


def _listing(path: Path, names: dict[int, str]) -> Listing:
    """One list of lines ``train_val2018/<group>/<species>/<file>``; adds its species to ``names``."""
    paths, classes = [], []
    for line in read_columns(path, 1)[0]:
        parts = line.rsplit("/", 3)
        if len(parts) != 4 or not parts[2].isdecimal():
            raise ValueError(f"{path} has the line {line!r} where {IMAGES}/<group>/<species>/<file> is expected")
        _, group, species, file = parts
        paths.append(f"{IMAGES}/{group}/{species}/{file}")
        classes.append(int(species))
        names[int(species)] = f"{group}/{species}"
    return Listing(paths, classes)
