"""Small folders in the official layouts of the four benchmarks, made on the fly."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat


def write_image(path, color=(10, 200, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), color).convert(mode).save(path)


@pytest.fixture
def cub_root(tmp_path):
    """Classes 1, 100, 101 and 200 with 2, 3, 2 and 3 images, one of them greyscale."""
    root = tmp_path / "CUB_200_2011"
    classes = {1: "001.Albatross", 100: "100.Pelican", 101: "101.White_Pelican", 200: "200.Yellowthroat"}
    rows, number = [], 0
    for cls, name in classes.items():
        for copy in range(2 if cls % 100 == 1 else 3):
            number += 1
            file = f"{name}/{name[4:]}_{copy:04}_{number}.jpg"
            write_image(root / "images" / file, (cls, 0, 0), mode="L" if number == 3 else "RGB")
            rows.append((number, file, cls))
    write_image(root / "images" / "001.Albatross" / "stray.jpg")
    (root / "images" / "001.Albatross" / "._Albatross_0000_1.jpg").write_bytes(b"Mac OS X")
    (root / "classes.txt").write_text("".join(f"{cls} {name}\n" for cls, name in classes.items()))
    (root / "images.txt").write_text("".join(f"{number} {file}\n" for number, file, _ in rows))
    (root / "image_class_labels.txt").write_text("".join(f"{number} {cls}\n" for number, _, cls in reversed(rows)))
    (root / "train_test_split.txt").write_text("".join(f"{number} {number % 2}\n" for number, _, _ in rows))
    return root


CAR_NAMES = [f"Maker Model {number}/Type Coupe 20{number % 100:02}" for number in range(1, 197)]
CAR_CLASSES = [1, 98, 99, 196, 98, 99]  # of six images; official train: the first three
BOX = dict.fromkeys(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), 1)


def annotations(rows):
    """A MATLAB struct array with these rows."""
    array = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
    for number, row in enumerate(rows):
        array[0, number] = tuple(row.values())
    return array


@pytest.fixture
def cars_root_a(tmp_path):
    """``car_ims/`` and one list."""
    root = tmp_path / "cars_a"
    rows = [
        {"relative_im_path": f"car_ims/{n:06}.jpg", **BOX, "class": cls, "test": int(n > 3)}
        for n, cls in enumerate(CAR_CLASSES, start=1)
    ]
    for row in rows:
        write_image(root / row["relative_im_path"])
    names = np.array([CAR_NAMES], dtype=object)
    savemat(root / "cars_annos.mat", {"annotations": annotations(rows), "class_names": names})
    return root


@pytest.fixture(params=["devkit", "beside", "nested"])
def cars_root_b(tmp_path, request):
    """``cars_train/``, ``cars_test/`` and ``devkit/``, with the labels of the test images in one place or another."""
    root = tmp_path / "cars_b"
    (root / "devkit").mkdir(parents=True)
    labels = root if request.param == "beside" else root / "devkit"
    lists = {
        "cars_train": (root / "devkit" / "cars_train_annos.mat", CAR_CLASSES[:3]),
        "cars_test": (labels / "cars_test_annos_withlabels.mat", CAR_CLASSES[3:]),
    }
    for folder, (file, classes) in lists.items():
        rows = [{**BOX, "class": cls, "fname": f"{n:05}.jpg"} for n, cls in enumerate(classes, start=1)]
        inner = root / folder / folder if request.param == "nested" else root / folder
        for row in rows:
            write_image(inner / row["fname"])
        savemat(file, {"annotations": annotations(rows)})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([CAR_NAMES], dtype=object)})
    return root


@pytest.fixture
def sop_root(tmp_path):
    """Two products to learn from and two to test on, with the lists' header and Windows line ends in one."""
    root = tmp_path / "Stanford_Online_Products"
    lists = {
        "Ebay_train.txt": [
            (1, 1, 1, "bicycle_final/111_0.JPG"),
            (2, 1, 1, "bicycle_final/111_1.JPG"),
            (3, 2, 12, "toaster_final/222_0.JPG"),
        ],
        "Ebay_test.txt": [
            (4, 11319, 1, "bicycle_final/333_0.JPG"),
            (5, 11319, 1, "bicycle_final/333_1.JPG"),
            (6, 11320, 5, "chair_final/444_0.JPG"),
            (7, 11320, 5, "chair_final/444_1.JPG"),
        ],
    }
    for (file, rows), end in zip(lists.items(), ("\n", "\r\n"), strict=True):
        for *_, path in rows:
            write_image(root / path)
        lines = ["image_id class_id super_class_id path", *(" ".join(map(str, row)) for row in rows)]
        (root / file).write_bytes((end.join(lines) + end).encode())
    return root


@pytest.fixture(params=[".", "Inat_dataset_splits"])
def inat_root(tmp_path, request):
    """Species of two groups on both sides; the lists lie beside the images or in a folder of their own."""
    root = tmp_path / "inat"
    lists = {
        "Inaturalist_train_set1.txt": ["Aves/2999/a.jpg", "Aves/2999/b.jpg", "Insecta/31/c.jpg"],
        "Inaturalist_test_set1.txt": ["Aves/3001/a.jpg", "Plantae/5000/d.jpg", "Plantae/5000/e.jpg"],
    }
    (root / request.param).mkdir(parents=True, exist_ok=True)
    for file, rows in lists.items():
        for path in rows:
            write_image(root / "train_val2018" / path)
        (root / request.param / file).write_text("".join(f"train_val2018/{path}\n" for path in rows))
    return root


@pytest.fixture
def folder_root(tmp_path):
    """Five classes, images at two depths, in three formats, and what is no image."""
    root = tmp_path / "mine"
    for cls in "abcde":
        write_image(root / cls / "1.jpg")
        write_image(root / cls / "more" / "2.PNG", mode="LA")
    write_image(root / "a" / "3.gif", mode="P")
    (root / "a" / "._1.jpg").write_bytes(b"Mac OS X")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    (root / ".cache").mkdir()
    return root
