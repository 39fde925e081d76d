"""Small copies of the four benchmarks and of Grocery Store in their official layouts, as folders and as archives.

Odd cases are included.

Every set has four training and four test classes, the last of each with five images and the others with four: see
``COUNTS``. The images are real JPEG files of noise, no two alike, between 40 and 60 pixels wide. In each set one is
grayscale, one CMYK, one asks by EXIF to be turned, and one is a PNG file with a palette and transparency under the
name of a JPEG, as such files occur in copies that are passed around.

    official.cub_folder(root)      -> root/CUB_200_2011
    official.cub_archive(folder)   -> folder/CUB_200_2011.tgz
"""

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

COUNTS = {"train": (4, 17), "test": (4, 17)}  # classes, images: of every set below
IMAGES = (4, 4, 4, 5, 4, 4, 4, 5)  # of the classes, in order
CUB_CLASSES = {
    **{1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 99: "099.Ovenbird", 100: "100.Brown_Pelican"},
    **{101: "101.White_Pelican", 102: "102.Western_Wood_Pewee", 199: "199.Winter_Wren", 200: "200.Yellowthroat"},
}
CARS_CLASSES = (1, 2, 97, 98, 99, 100, 195, 196)
CARS_NAMES = [f"Maker Model {number} Coupe/Cabriolet 20{number % 100:02}" for number in range(1, 197)]
SOP_CLASSES = {
    **{1: "bicycle", 2: "bicycle", 3: "toaster", 11_318: "toaster"},
    **{11_319: "bicycle", 11_320: "chair", 11_321: "toaster", 22_634: "toaster"},
}
INAT_CLASSES = {
    **{0: "Actinopterygii", 31: "Insecta", 2999: "Aves", 7001: "Plantae"},
    **{3001: "Aves", 5000: "Plantae", 5690: "Plantae", 8141: "Reptilia"},
}
GROCERY_CLASSES = {
    **{0: "Fruit/Apple/Golden-Delicious", 5: "Fruit/Avocado", 39: "Packages/Milk/Arla", 40: "Packages/Milk/Garant"},
    **{41: "Packages/Oatly", 66: "Vegetables/Leek", 67: "Vegetables/Mushroom/Brown-Cap", 80: "Vegetables/Zucchini"},
}
BOX = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 30, "bbox_y2": 20}
LABELED = "cars_test_annos_withlabels.mat"


def cub_folder(root: Path, *, stray: bool = False, crlf: bool = False, bom: bool = False) -> Path:
    """Writes ``root/CUB_200_2011`` and, as the archive has it, ``root/attributes.txt``.

    Args:
        root: Made if missing.
        stray: Add what a Mac leaves: ``._*`` files and ``__MACOSX``; and an image that no list names.
        crlf: End the lists' lines as Windows does.
        bom: Begin the lists with a byte order mark.

    Returns:
        The inner folder.
    """
    inner = root / "CUB_200_2011"
    files, labels, number = [], [], 0
    for (cls, name), images in zip(CUB_CLASSES.items(), IMAGES, strict=True):
        for copy in range(1, images + 1):
            number += 1
            file = f"{name}/{name[4:]}_{copy:04}_{number}.jpg"
            write_image(inner / "images" / file, number)
            files.append(f"{number} {file}")
            labels.append(f"{number} {cls}")
    everything = {
        "images.txt": files,
        "image_class_labels.txt": labels,
        "classes.txt": [f"{cls} {name}" for cls, name in CUB_CLASSES.items()],
        "train_test_split.txt": [f"{n} {n % 2}" for n in range(1, number + 1)],  # of another task
        "bounding_boxes.txt": [f"{n} 1.0 2.0 30.0 20.0" for n in range(1, number + 1)],
    }
    for file, lines in everything.items():
        write_lines(inner / file, lines, crlf=crlf, bom=bom)
    write_lines(root / "attributes.txt", ["1 has_bill_shape::curved_(up_or_down)"])
    if stray:
        write_mac_files(root, inner / "images" / CUB_CLASSES[1])
        write_image(inner / "images" / CUB_CLASSES[1] / "not_listed.jpg", 999)
    return inner


def cub_archive(folder: Path, **odd: bool) -> Path:
    """Writes ``CUB_200_2011.tgz`` into a folder; ``odd`` as for :func:`cub_folder`."""
    return _packed(folder, lambda root: cub_folder(root, **odd), {"CUB_200_2011.tgz": ["*"]})[0]


def cars_folder_a(root: Path) -> Path:
    """Writes layout A into ``root``, which it returns: ``car_ims/`` and the one list ``cars_annos.mat``."""
    rows = [
        {"relative_im_path": f"car_ims/{number:06}.jpg", **BOX, "class": cls, "test": int(not in_train)}
        for number, (cls, in_train) in enumerate(_cars(), start=1)
    ]
    for number, row in enumerate(rows, start=1):
        write_image(root / str(row["relative_im_path"]), number)
    write_mat(root / "cars_annos.mat", rows, CARS_NAMES)
    return root


def cars_archives_a(folder: Path) -> list[Path]:
    """Writes ``car_ims.tgz`` and ``cars_annos.mat`` into a folder."""
    return _packed(folder, cars_folder_a, {"car_ims.tgz": ["car_ims"], "cars_annos.mat": []})


def cars_folder_b(root: Path, *, nested: bool = False, labels: str | None = "beside", list_a: bool = False) -> Path:
    """Writes layout B into ``root``, which it returns: ``cars_train/``, ``cars_test/``, ``devkit/`` and the labels.

    Args:
        root: Made if missing.
        nested: Images in ``cars_train/cars_train/`` and ``cars_test/cars_test/``, as on Kaggle.
        labels: Labels of the test images ``"beside"`` the folder ``devkit/``, inside (``"devkit"``), or None: nowhere.
        list_a: Add layout A's ``cars_annos.mat``, as Kaggle's copy does; its images ``car_ims/`` are not there.
    """
    place = {"beside": root, "devkit": root / "devkit", None: None}[labels]
    for folder, in_train in {"cars_train": True, "cars_test": False}.items():
        classes = [cls for cls, train in _cars() if train is in_train]
        rows = [{**BOX, "class": cls, "fname": f"{number:05}.jpg"} for number, cls in enumerate(classes, start=1)]
        for number, row in enumerate(rows, start=1):
            write_image(root / folder / (folder if nested else "") / str(row["fname"]), number, salt=folder)
        if in_train:
            write_mat(root / "devkit" / "cars_train_annos.mat", rows)
            continue
        if place is not None:
            write_mat(place / LABELED, rows)
        unlabeled = [{key: value for key, value in row.items() if key != "class"} for row in rows]
        write_mat(root / "devkit" / "cars_test_annos.mat", unlabeled)
    write_mat(root / "devkit" / "cars_meta.mat", class_names=CARS_NAMES)
    write_lines(root / "devkit" / "README.txt", ["This file gives documentation for the cars 196 dataset."])
    if list_a:
        rows = [
            {"relative_im_path": f"car_ims/{number:06}.jpg", **BOX, "class": cls, "test": int(not in_train)}
            for number, (cls, in_train) in enumerate(_cars(), start=1)
        ]
        write_mat(root / "cars_annos.mat", rows, CARS_NAMES)
    return root


def cars_archives_b(folder: Path) -> list[Path]:
    """Writes ``cars_train.tgz``, ``cars_test.tgz``, ``car_devkit.tgz`` and the labels' .mat file into a folder."""
    archives = {"cars_train.tgz": ["cars_train"], "cars_test.tgz": ["cars_test"], "car_devkit.tgz": ["devkit"]}
    return _packed(folder, cars_folder_b, {**archives, LABELED: []})


def cars_archives_kaggle(folder: Path) -> list[Path]:
    """Writes Kaggle's ``archive.zip`` (nested images, layout A's list), ``car_devkit.tgz`` and the labels."""
    archives = {"archive.zip": ["cars_train", "cars_test", "cars_annos.mat"], "car_devkit.tgz": ["devkit"]}
    return _packed(folder, lambda root: cars_folder_b(root, nested=True, list_a=True), {**archives, LABELED: []})


def sop_folder(
    root: Path, *, header: bool = True, crlf: bool = False, bom: bool = False, blank: bool = False, stray: bool = False
) -> Path:
    """Writes ``root/Stanford_Online_Products``.

    Args:
        root: Made if missing.
        header: Begin the lists with the names of their columns, as the official ones do.
        crlf: End the lists' lines as Windows does.
        bom: Begin the lists with a byte order mark.
        blank: Put empty lines between and after the rows.
        stray: Add what a Mac leaves.

    Returns:
        The inner folder.
    """
    inner = root / "Stanford_Online_Products"
    groups = list(dict.fromkeys(SOP_CLASSES.values()))
    rows = []
    for (cls, group), images in zip(SOP_CLASSES.items(), IMAGES, strict=True):
        for copy in range(images):
            number = len(rows) + 1
            path = f"{group}_final/{111_000_000_000 + cls}_{copy}.JPG"
            write_image(inner / path, number)
            rows.append((number, cls, groups.index(group) + 1, path))
    train = sum(IMAGES[:4])
    for file, chosen in {"train": rows[:train], "test": rows[train:], "info": rows}.items():
        lines = ["image_id class_id super_class_id path"] * header + [" ".join(map(str, row)) for row in chosen]
        lines = [text for line in lines for text in ((line, "") if blank else (line,))]
        write_lines(inner / f"Ebay_{file}.txt", lines, crlf=crlf, bom=bom)
    if stray:
        write_mac_files(root, inner / "bicycle_final")
    return inner


def sop_archive(folder: Path, **odd: bool) -> Path:
    """Writes ``Stanford_Online_Products.zip`` into a folder; ``odd`` as for :func:`sop_folder`."""
    return _packed(folder, lambda root: sop_folder(root, **odd), {"Stanford_Online_Products.zip": ["*"]})[0]


def inat_folder(
    root: Path,
    *,
    lists: str = "Inat_dataset_splits",
    prefix: str = "train_val2018/",
    crlf: bool = False,
    bom: bool = False,
    blank: bool = False,
    label: bool = False,
    backslashes: bool = False,
    stray: bool = False,
) -> Path:
    """Writes ``root/train_val2018`` and the two lists; returns ``root``.

    Args:
        root: Made if missing.
        lists: Folder of the lists, below ``root``: ``"."``, ``"Inat_dataset_splits"``, or that one twice.
        prefix: What stands before ``<group>/<species>/<file>`` in the lists: also ``""``, ``"./train_val2018/"`` or
            ``"/data/inat/train_val2018/"``.
        crlf: End the lists' lines as Windows does.
        bom: Begin the lists with a byte order mark.
        blank: Put empty lines between and after the rows.
        label: End each row with a blank and the species, as lists for classification do.
        backslashes: Separate folders as Windows does.
        stray: Add what a Mac leaves, and an image that no list names.
    """
    sides: dict[str, list[str]] = {"train": [], "test": []}
    number = 0
    for place, ((cls, group), images) in enumerate(zip(INAT_CLASSES.items(), IMAGES, strict=True)):
        for _ in range(images):
            number += 1
            file = f"{group}/{cls}/{number:032x}.jpg"
            write_image(root / "train_val2018" / file, number)
            line = (prefix + file).replace("/", "\\" if backslashes else "/") + (f" {cls}" if label else "")
            sides["train" if place < 4 else "test"].extend([line, ""] if blank else [line])
    for side, lines in sides.items():
        write_lines(root / lists / f"Inaturalist_{side}_set1.txt", lines, crlf=crlf, bom=bom)
    if stray:
        write_mac_files(root, root / "train_val2018" / "Aves" / "2999")
        write_image(root / "train_val2018" / "Fungi" / "4" / "not_listed.jpg", 999)
    return root


def inat_archives(folder: Path, **odd: bool | str) -> list[Path]:
    """Writes ``train_val2018.tar.gz`` and ``Inat_dataset_splits.zip``; ``odd`` as for :func:`inat_folder`."""
    archives = {"train_val2018.tar.gz": ["train_val2018"], "Inat_dataset_splits.zip": ["Inat_dataset_splits"]}
    return _packed(folder, lambda root: inat_folder(root, **odd), archives)  # type: ignore[arg-type]


def grocery_folder(root: Path, *, crlf: bool = False, stray: bool = False) -> Path:
    """Writes ``root/GroceryStoreDataset-master/dataset``, as the repository's archive unpacks.

    Args:
        root: Made if missing.
        crlf: End the lists' lines as Windows does.
        stray: Add what a Mac leaves.

    Returns:
        The inner folder.
    """
    inner = root / "GroceryStoreDataset-master" / "dataset"
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    number = 0
    for (cls, folder), images in zip(GROCERY_CLASSES.items(), IMAGES, strict=True):
        for copy in range(images):
            number += 1
            part = ("train", "test", "val")[copy % 3]
            # As in the official lists: one class lies in another place in one part.
            place = folder.replace("Mushroom/", "") if part == "val" else folder
            path = f"{part}/{place}/{folder.rpartition('/')[2]}_{copy + 1:03}.jpg"
            write_image(inner / path, number)
            lists[part].append(f"{path}, {cls}, {cls // 2}")
    for part, lines in lists.items():
        write_lines(inner / f"{part}.txt", lines, crlf=crlf)
    write_lines(inner / "classes.csv", ["Class Name (str),Class ID (int)", "Golden-Delicious,0"])
    iconic = inner / "iconic-images-and-descriptions" / "Fruit" / "Avocado"
    write_image(iconic / "Avocado_Iconic.jpg", 998)
    if stray:
        write_mac_files(root, inner / "train" / "Fruit")
    return inner


def grocery_archive(folder: Path, **odd: bool) -> Path:
    """Writes ``GroceryStoreDataset-master.zip`` into a folder; ``odd`` as for :func:`grocery_folder`."""
    return _packed(folder, lambda root: grocery_folder(root, **odd), {"GroceryStoreDataset-master.zip": ["*"]})[0]


def omniglot_folder(root: Path, *, stray: bool = False) -> Path:
    """Writes ``root/images_background`` and ``root/images_evaluation``; returns ``root``.

    Args:
        root: Made if missing.
        stray: Add what a Mac leaves.
    """
    number = 0
    for place, images in enumerate(IMAGES):
        half, alphabet = ("background", "Greek") if place < 4 else ("evaluation", "Tengwar")
        folder = root / f"images_{half}" / f"{alphabet}_{place % 2}" / f"character{place // 2 + 1:02}"
        for copy in range(images):
            number += 1
            folder.mkdir(parents=True, exist_ok=True)
            strokes = np.random.default_rng(number).random((105, 105)) > 0.1
            Image.fromarray(strokes).save(folder / f"{place + 1:04}_{copy + 1:02}.png")
    if stray:
        write_mac_files(root, root / "images_background" / "Greek_0")
    return root


def omniglot_archives(folder: Path, **odd: bool) -> list[Path]:
    """Writes the two official zip files into a folder; ``odd`` as for :func:`omniglot_folder`."""
    archives = {f"{half}.zip": [half] for half in ("images_background", "images_evaluation")}
    return _packed(folder, lambda root: omniglot_folder(root, **odd), archives)


def image_folder(root: Path, *, train_and_test: bool = True) -> Path:
    """Writes ``root/train/<class>/*.jpg`` and ``root/test/<class>/*.jpg``, or ``root/<class>/*.jpg``; returns ``root``.

    Without train and test, every second class in the order of names is for testing: the counts are the same.
    """
    number = 0
    for place, images in enumerate(IMAGES):
        side = ("train" if place < 4 else "test") if train_and_test else ""
        cls = f"class {place}" if train_and_test else f"class {2 * place % 8 + place // 4}"
        for _ in range(images):
            number += 1
            write_image(root / side / cls / f"{number:03}.jpg", number)
    return root


def write_image(path: Path, number: int, *, salt: str = "") -> None:
    """Writes an image of noise that no other file of its set shares.

    Args:
        path: Of the file, which is a JPEG (number 7: a PNG, whatever its name); folders are made.
        number: Numbers 2, 3, 5 and 7 are grayscale, CMYK, turned by EXIF, and a PNG with palette and transparency.
        salt: Tells apart sets of numbers within one data set.
    """
    rng = np.random.default_rng([number, zlib.crc32(os.fsencode(f"{path.name} {salt}"))])
    height, width = rng.integers(40, 60, 2)
    channels = {2: (), 3: (4,), 7: (4,)}.get(number, (3,))
    base = rng.integers(0, 256, channels)  # a color of its own under the noise
    noise = rng.integers(-60, 60, (height, width, *channels))
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA") if number == 7 else Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if number == 7:
        image.quantize(16).save(path, format="PNG", transparency=0)
        return
    exif = Image.Exif()
    if number == 3:
        image = Image.fromarray(pixels, "CMYK")
    elif number == 5:
        exif[0x0112] = 6  # orientation: turn by a quarter
    image.save(path, format="JPEG", quality=90, exif=exif)


def write_lines(path: Path, lines: Sequence[str], *, crlf: bool = False, bom: bool = False) -> None:
    """Writes a list, with Windows line ends and a byte order mark if asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = "\r\n" if crlf else "\n"
    path.write_bytes("".join(line + end for line in lines).encode("utf-8-sig" if bom else "utf-8"))


def write_mac_files(root: Path, folder: Path) -> None:
    """Writes what a Mac leaves in archives: ``._*`` and ``.DS_Store`` in a folder, ``__MACOSX`` beside it."""
    for path in (folder / "._resource.jpg", folder / ".DS_Store", root / "__MACOSX" / folder.name / "._resource.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00\x05\x16\x07Mac OS X")


def write_mat(path: Path, rows: Sequence[dict] = (), class_names: Sequence[str] = ()) -> None:
    """Writes a MATLAB file: the struct array ``annotations`` of these rows, and the cell array ``class_names``."""
    content: dict[str, np.ndarray] = {}
    if rows:
        content["annotations"] = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
        for number, row in enumerate(rows):
            content["annotations"][0, number] = tuple(row.values())
    if class_names:
        content["class_names"] = np.array([class_names], dtype=object)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def pack(archive: Path, root: Path, entries: Sequence[str]) -> Path:
    """Packs entries of ``root`` (patterns such as ``*``) into a ``.zip`` or a gzipped tar, by the archive's suffix."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = [path for pattern in entries for path in sorted(root.glob(pattern))]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for top in files:
                for path in [top, *sorted(top.rglob("*"))]:
                    packed.write(path, path.relative_to(root))
    else:
        with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
            for top in files:
                packed.add(top, top.relative_to(root))
    return archive


def _packed(folder, write, archives) -> list[Path]:
    """Writes a set somewhere else and packs it; a file of its own (no entries) is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write(root)
        for name, entries in archives.items():
            if entries:
                pack(folder / name, root, entries)
            else:
                shutil.copy(root / name, folder / name)
    return [folder / name for name in archives]


def _cars() -> Iterator[tuple[int, bool]]:
    """Class of each image and whether the official task trains on it: every second one of a class."""
    for cls, images in zip(CARS_CLASSES, IMAGES, strict=True):
        for copy in range(images):
            yield cls, copy % 2 == 0
