"""The datasets that can be prepared: where their archives are, what belongs to them, how they are read.

Checksums are those that public loaders state; None: nobody states one. A link stands here only if it is documented in
public and served without a login; for all others there are steps by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tcm_bench.data.datasets import cars, cub, grocery, inat, omniglot, sop
from tcm_bench.data.datasets.bundled import bundled_splits
from tcm_bench.data.table import Splits
from tcm_bench.prepare.recipes import emoji, icons, mnist, strips
from tcm_bench.prepare.recipes.drawings import Recipe

GIB = 2**30


@dataclass(frozen=True)
class Archive:
    """One published file.

    Attributes:
        file: Its official name. Files are recognized by what they hold, never by this.
        md5: As published; None: unknown.
        urls: Where it can be downloaded, the first to answer is taken; empty: only by hand.
        size: Bytes, roughly, to compare with the free disk space beforehand; None: unknown.
    """

    file: str
    md5: str | None = None
    urls: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Dataset:
    """One dataset that `tcm-bench data prepare` knows.

    Attributes:
        name: On the command line and in `data=NAME`; its default folder is `data/NAME`.
        title: As papers call it.
        splits: `splits(root, subset=...)` reads it; with `subset` fewer classes and images are accepted.
        terms: Under which it may be used, in a line.
        counts: `{"train": (classes, images), "test": (classes, images)}` of the whole.
        fingerprints: Of the lists that are published, as `Splits.fingerprint` gives it, by the folder that the first
            path begins with, which tells the layout; empty: no list of a benchmark is known. None: no benchmark.
        manual: Steps by hand, for what no link gives.
        archives: Published files; together they are the dataset.
        keep: Names of files and folders (patterns) that belong to it, each with the name it gets in the root; None
            leaves the name. Whatever folders an archive wraps around them are dropped, and everything else.
        lists: Those of `keep` that must be read first because only the images that they name are kept.
        max_bytes: More than this cannot be the dataset, however it is packed.
        build: Makes the dataset in a folder, with another for its downloads; instead of archives.
    """

    name: str
    title: str
    splits: Callable[..., Splits]
    terms: str
    counts: Mapping[str, tuple[int, int]]
    fingerprints: Mapping[str, str] | None = None
    manual: str = ""
    archives: tuple[Archive, ...] = ()
    keep: Mapping[str, str | None] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    max_bytes: int = 20 * GIB
    build: Callable[[Path, Path], None] | None = None


BENCHMARKS = (
    Dataset(
        name="cub",
        title=cub.DATASET,
        splits=cub.cub,
        terms="images belong to their photographers on Flickr; for non-commercial research and education",
        counts=cub.COUNTS,
        fingerprints={"images": "960048c328f7845d0256a6fed086d75cef62e2399b6430bd09f2b880c0e76fba"},
        manual=(
            "Download CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158 in a browser.\n"
            "(CUB-200 without a year, of 2010, is another dataset.)"
        ),
        archives=(
            Archive(
                "CUB_200_2011.tgz",
                md5="97eceeb196236b17998738112f37df78",
                urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
                size=1_150_000_000,
            ),
        ),
        keep=dict.fromkeys(("images", "images.txt", "image_class_labels.txt", "classes.txt", "bounding_boxes.txt")),
    ),
    Dataset(
        name="cars",
        title=cars.DATASET,
        splits=cars.cars,
        terms="for non-commercial research; images were collected from the web",
        counts=cars.COUNTS,
        fingerprints={"cars_train": "b7228f931aa99102bd9bc45da89128dd9094076e63711ea15a18af6eae510cec"},  # of layout B
        manual=(
            "Stanford's own links are dead since 2023. Get one of these:\n"
            "A. car_ims.tgz (md5 d5c8f0aa497503f355e17dc7886c3f14) and cars_annos.mat (md5\n"
            "   b407c6086d669747186bd1d764ff9dbc) from whoever kept them, or CARS196.zip from\n"
            "   http://ftp.cs.stanford.edu/cs/cvgl/CARS196.zip (nobody states its checksum).\n"
            "B. From Kaggle, with a login: https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset gives\n"
            "   the images (archive.zip). Its cars_annos.mat does not fit them: add car_devkit.tgz and\n"
            "   cars_test_annos_withlabels.mat, to which https://github.com/pytorch/vision/issues/7545 leads."
        ),
        archives=(  # layout A, then layout B
            Archive("car_ims.tgz", md5="d5c8f0aa497503f355e17dc7886c3f14"),
            Archive("cars_annos.mat", md5="b407c6086d669747186bd1d764ff9dbc"),
            Archive("cars_train.tgz", md5="065e5b463ae28d29e77c1b4b166cfe61"),
            Archive("cars_test.tgz", md5="4ce7ebf6a94d07f1952d94dd34c4d501"),
            Archive("car_devkit.tgz", md5="c3b158d763b6e2245038c8ad08e45376"),
            Archive("cars_test_annos_withlabels.mat", md5="b0a2b23655a3edd16d84508592a98d10"),
        ),
        keep={
            **dict.fromkeys(("car_ims", "cars_train", "cars_test")),
            # Wherever they lie: copies disagree on what is in devkit/ and what beside it, and browsers add a "(1)".
            "cars_annos*.mat": "cars_annos.mat",
            "cars_meta*.mat": "cars_meta.mat",
            "cars_train_annos*.mat": "cars_train_annos.mat",
            "cars_test_annos_withlabels*.mat": "cars_test_annos_withlabels.mat",
        },
    ),
    Dataset(
        name="sop",
        title=sop.DATASET,
        splits=sop.sop,
        terms="for non-commercial research; images were collected from eBay",
        counts=sop.COUNTS,
        fingerprints={},
        manual=(
            "Download Stanford_Online_Products.zip by the link on https://cvgl.stanford.edu/projects/lifted_struct/\n"
            "or with an FTP client from ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip"
        ),
        archives=(
            Archive(
                "Stanford_Online_Products.zip",
                md5="7f73d41a2f44250d4779881525aea32e",
                urls=("http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",),
                size=3_000_000_000,
            ),
        ),
        keep=dict.fromkeys(("*_final", "Ebay_train.txt", "Ebay_test.txt", "Ebay_info.txt")),
    ),
    Dataset(
        name="inat",
        title=inat.DATASET,
        splits=inat.inat,
        terms="for non-commercial research and education; each photograph has a license of its own",
        counts=inat.COUNTS,
        fingerprints={},
        manual=(
            "Download Inat_dataset_splits.zip, the lists of the retrieval split, in a browser from\n"
            "https://drive.google.com/file/d/1sXfkBTFDrRU3__-NUs1qBP3sf_0uMB98 (nobody states its checksum).\n"
            "The images follow by themselves (120 GB, and as much again while they are unpacked); or give their\n"
            "archive train_val2018.tar.gz, too, if you have it."
        ),
        archives=(
            Archive("Inat_dataset_splits.zip"),
            Archive(
                "train_val2018.tar.gz",
                md5="b1c6952ce38f31868cc50ea72d066cc3",
                urls=("https://ml-inat-competition-datasets.s3.amazonaws.com/2018/train_val2018.tar.gz",),
                size=120_000_000_000,
            ),
        ),
        keep=dict.fromkeys((inat.IMAGES, inat.TRAIN_LIST, inat.TEST_LIST)),
        lists=(inat.TRAIN_LIST, inat.TEST_LIST),
        max_bytes=200 * GIB,
    ),
)

GROCERY = Dataset(
    name="grocery",
    title=f"{grocery.DATASET}, a split of this project's own",
    splits=grocery.grocery,
    terms="MIT",
    counts=grocery.COUNTS,
    fingerprints={"train": "178bd1500a5f18230f1aa714c56f96fef5894733fb669cd340d738178c145285"},
    manual=(
        "Open https://github.com/marcusklasson/GroceryStoreDataset and choose Code, Download ZIP; or clone it and\n"
        "give the folder. (The bytes of such an archive are made anew by each download: it has no checksum.)"
    ),
    archives=(Archive("GroceryStoreDataset-master.zip"),),
    keep=dict.fromkeys(f"{part}{suffix}" for part in grocery.PARTS for suffix in ("", ".txt")),
)

OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OMNIGLOT = Dataset(
    name="omniglot",
    title=omniglot.DATASET,
    splits=omniglot.omniglot_files,
    terms="MIT",
    counts=omniglot.COUNTS,
    fingerprints={omniglot.TRAIN: "97e302d4b3c672493bde4f16a1f42b90127189a18adb639cba0e76b1d2f7f350"},
    manual=(
        "Open https://github.com/brendenlake/omniglot, folder python, and download images_background.zip and\n"
        "images_evaluation.zip."
    ),
    archives=(
        Archive(
            "images_background.zip",
            md5="68d2efa1b9178cc56df9314c21c6e718",
            urls=(f"{OMNIGLOT_URL}/images_background.zip",),
            size=9_500_000,
        ),
        Archive(
            "images_evaluation.zip",
            md5="6b91aef0f799c5bb55b94e3f2daec811",
            urls=(f"{OMNIGLOT_URL}/images_evaluation.zip",),
            size=6_500_000,
        ),
    ),
    keep=dict.fromkeys((omniglot.TRAIN, omniglot.TEST)),
    max_bytes=GIB,
)


def _made(
    recipe: Recipe,
    title: str,
    terms: str,
    train: tuple[int, int],
    test: tuple[int, int],
    build: Callable[[Path, Path], None] | None = None,
) -> Dataset:
    """A set that is put together from packages: pinned by their hashes, and by the counts that come out."""
    counts = {"train": train, "test": test}

    def splits(root: Path, *, subset: bool = False) -> Splits:
        return bundled_splits(root, counts=None if subset else counts)

    return Dataset(recipe.name, title, splits, terms, counts, build=build or partial(strips.build, recipe))


OPEN = "open licenses, two of eleven with share-alike: see its NOTICE.md"
PERMISSIVE = "open licenses without share-alike: see its NOTICE.md"
UNSTATED = "free for research; nobody states a license"
MID_SIZE = (
    _made(emoji.RECIPE, "emoji in five to eleven drawings each, 64 px", OPEN, (795, 6_901), (795, 6_992)),
    _made(
        icons.RECIPE, "ideas in 6 to 126 icon sets each, 48 px", PERMISSIVE, (1_093, 21_410), (1_093, 21_427),
        icons.prepare_icons,
    ),
    _made(mnist.RECIPE, "MNIST by class, 28 px", UNSTATED, (5, 34_569), (5, 35_431)),
)  # fmt: skip

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (*BENCHMARKS, GROCERY, OMNIGLOT, *MID_SIZE)}
