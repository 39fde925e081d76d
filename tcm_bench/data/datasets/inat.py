"""iNaturalist 2018, with the class-disjoint split of Smooth-AP's authors."""

from pathlib import Path

from tcm_bench.data.datasets.listing import Listing, class_disjoint_splits, find_root, read_lines
from tcm_bench.data.table import Splits

DATASET = "iNaturalist-2018"
COUNTS = {"train": (5_690, 325_846), "test": (2_452, 136_093)}  # classes, images
RANGES = {"train": range(8_142), "test": range(8_142)}  # numbers of the species; each list has some of all
TRAIN_LIST, TEST_LIST = "Inaturalist_train_set1.txt", "Inaturalist_test_set1.txt"
IMAGES = "train_val2018"


def inat(root: str | Path, *, subset: bool = False) -> Splits:
    """The retrieval split: species of one list train, species of the other test.

    The lists come apart from the images (``Inat_dataset_splits.zip``); put them, or the folder
    ``Inat_dataset_splits``, beside ``train_val2018/``. Their lines are ``train_val2018/<group>/<species>/<file>``;
    whatever leads to that folder, or its absence, does not matter, nor does a number at the end of the line.

    Args:
        root: Folder that holds ``train_val2018/`` and the lists.
        subset: Accept fewer classes and images than the benchmark has.

    Raises:
        ValueError: If a list is missing or damaged, or what is found is not the benchmark.

    References:
        Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018.
        Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020.
    """
    lists = find_root(DATASET, "inat", root, TRAIN_LIST)
    root = _place_of_images(Path(root), lists)
    names: dict[int, str] = {}
    train, test = (_listing(lists / file, names) for file in (TRAIN_LIST, TEST_LIST))
    return class_disjoint_splits(
        DATASET, root, train, test, names, COUNTS, ranges=RANGES, subset=subset, nested=(IMAGES,)
    )


def _place_of_images(root: Path, lists: Path) -> Path:
    """The folder that holds ``train_val2018/``: that of the lists, or one above, not above ``root``."""
    folder = lists
    while folder != root and not (folder / IMAGES).is_dir():
        folder = folder.parent
    return folder


def _listing(path: Path, names: dict[int, str]) -> Listing:
    """One list; adds its species to ``names``."""
    paths, classes = [], []
    number_of: dict[str, int] = {}
    for line in read_lines(path):
        place, _, file = line.replace("\\", "/").rpartition(f"{IMAGES}/")[2].removeprefix("./").rpartition("/")
        file = file.partition(" ")[0].partition("\t")[0].partition(",")[0]
        if place not in number_of:
            group, _, species = place.partition("/")
            if not (group and species.isascii() and species.isdecimal()):
                raise _unexpected(path, line)
            number_of[place] = int(species)
            if names.setdefault(int(species), place) != place:
                raise ValueError(f"{path} has the species {species} both as {names[int(species)]} and as {place}")
        if not file:
            raise _unexpected(path, line)
        paths.append(f"{IMAGES}/{place}/{file}")
        classes.append(number_of[place])
    return Listing(paths, classes)


def _unexpected(path: Path, line: str) -> ValueError:
    return ValueError(f"{path} has the line {line!r} where {IMAGES}/<group>/<species>/<file> is expected")
