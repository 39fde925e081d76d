"""Each fault that a copy can have is planted and found, and nothing else is."""

import hashlib
import io
import json
import shutil
import zipfile

import numpy as np
import official
import pytest
from PIL import Image

from tcm_bench.data.datasets.bundled import bundled_splits
from tcm_bench.data.datasets.cub import cub
from tcm_bench.data.datasets.folder import folder
from tcm_bench.data.datasets.table_file import table_splits
from tcm_bench.data.table import FeatureTable, Splits
from tcm_bench.prepare.staging import PREPARED
from tcm_bench.prepare.verify import Count, item_paths, verify

REMEDY = "get it again: `tcm-bench data prepare cub`"
SIDE = Count(*official.COUNTS["train"])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template") / "cub"
    official.cub_folder(root, stray=True)
    return root


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "a root" / "cub")


def images(root, cls):
    """Those that the lists name, of the class with this number."""
    listed = (root / "CUB_200_2011" / "images.txt").read_text().split()[1::2]
    return [root / "CUB_200_2011" / "images" / name for name in listed if name.startswith(f"{cls:03}.")]


def checked(root, **settings):
    return verify(cub, root, **{"subset": True, "remedy": REMEDY, "processes": 1, **settings})


def only_fault(found):
    assert not found.ok
    (fault,) = found.faults
    return fault


def test_a_good_copy_has_no_fault_whatever_else_lies_beside_it(root):
    seen = []
    found = checked(root, on_progress=lambda done, total: seen.append((done, total)))
    assert found.ok
    assert found.as_json() == {
        "ok": True,
        "train": {"classes": 4, "images": 17},
        "test": {"classes": 4, "images": 17},
        "fingerprint": cub(root, subset=True).fingerprint,
        "benchmark": None,
        "faults": [],
    }
    assert seen[-1] == (34, 34)


PLANTED = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:700]), "is cut short or damaged (image file is"),
    "web page": (lambda path: path.write_text("<!DOCTYPE html><p>429"), "is a web page"),
    "other": (lambda path: path.write_bytes(b"\x00" * 99), "is not an image of any known format"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder where an image file is expected"),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("cls", [1, 200])
def test_an_unreadable_image_is_a_fault_with_its_path_reason_and_remedy(root, name, cls):
    plant, reason = PLANTED[name]
    path = images(root, cls)[1]
    plant(path)
    found = checked(root)
    fault = only_fault(found)
    assert fault.path == str(path)
    assert fault.reason.startswith(reason)
    assert fault.reason.endswith(f"; {REMEDY}")
    assert (found.train, found.test) == (SIDE, SIDE)


def test_all_faults_are_found_at_once_by_two_processes_as_by_one(root, monkeypatch):
    monkeypatch.setattr("tcm_bench.prepare.picture.CHUNK", 2)  # so that a few images are many chunks
    planted = {}
    for (plant, reason), path in zip(PLANTED.values(), images(root, 2) + images(root, 101), strict=False):
        plant(path)
        planted[str(path)] = reason
    found = checked(root, processes=2)
    assert [fault.path for fault in found.faults] == list(planted)
    for fault in found.faults:
        assert fault.reason.startswith(planted[fault.path])
    assert found == checked(root, processes=1)


def test_an_image_on_both_sides_is_a_fault_that_names_both(root):
    here, there = images(root, 101)[0], images(root, 2)[3]
    with Image.open(there) as image:
        image.save(here, format="PNG")  # other bytes, the same pixels
    fault = only_fault(checked(root))
    assert fault.path == str(here)
    assert fault.reason == f"is in test and shows pixel for pixel what {there} in train shows; {REMEDY}"


def test_an_image_twice_on_one_side_is_left_to_the_dataset(root):
    shutil.copy(images(root, 1)[0], images(root, 2)[0])
    assert checked(root).ok


def test_two_unreadable_images_are_not_taken_for_the_same_one(root):
    images(root, 1)[0].write_bytes(b"")
    images(root, 200)[0].write_bytes(b"")
    assert [fault.kind for fault in checked(root).faults] == ["is empty"] * 2


def test_a_file_listed_twice_under_two_spellings_is_a_fault(tmp_path):
    official.image_folder(tmp_path, train_and_test=False)
    rows = [f"class {n}/{path.name},{n},{'test' if n % 2 else 'train'}" for n in range(8)
            for path in sorted((tmp_path / f"class {n}").iterdir())]  # fmt: skip
    again = f"./{rows[0]}"
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["path,label,split", *rows, again]))
    found = verify(lambda root, subset: table_splits(root), file, processes=1)
    fault = only_fault(found)
    assert fault.path == f"{tmp_path}/./class 0/001.jpg"
    assert fault.reason.startswith("is listed twice, in train as '0' and in train as '0'; put a good copy in its place")


def test_too_few_images_are_one_fault_and_the_rest_is_looked_at_all_the_same(root):
    path = images(root, 1)[0]
    path.unlink()
    counts, image = checked(root, subset=False).faults
    assert counts.path == str(root / "CUB_200_2011")
    assert counts.reason.startswith("found 4 train classes in ")
    assert "where CUB-200-2011 has 100" in counts.reason
    assert counts.reason.endswith(f"; {REMEDY}")
    assert image.path == str(path)


def test_an_image_in_the_folder_of_another_class_is_a_fault(root):
    labels = root / "CUB_200_2011" / "image_class_labels.txt"
    rows = labels.read_text().splitlines()
    labels.write_text("\n".join(["1 200", *rows[1:]]))
    found = checked(root)
    assert "001.Black_footed_Albatross" in only_fault(found).reason
    assert "200.Yellowthroat" in only_fault(found).reason
    assert (found.train, found.test, found.fingerprint) == (Count(), Count(), None)


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "classes.txt"])
def test_a_missing_list_is_a_fault(root, name):
    (root / "CUB_200_2011" / name).unlink()
    fault = only_fault(checked(root))
    assert fault.path.startswith(str(root))
    assert name in fault.reason


def test_a_list_that_is_a_folder_or_no_text_is_a_fault(root):
    (root / "CUB_200_2011" / "classes.txt").write_bytes(b"\xff\xfe\x00")
    assert only_fault(checked(root)).path == str(root / "CUB_200_2011" / "classes.txt")


def test_a_folder_that_is_not_there_is_a_fault(tmp_path):
    fault = only_fault(checked(tmp_path / "gone"))
    assert fault.path == str(tmp_path / "gone")
    assert fault.reason.startswith(f"{tmp_path / 'gone'} is not a folder")


def write_prepared(root, **changes):
    """As `tcm-bench data prepare` leaves it behind, from a published archive."""
    sources = [{"name": "a.tgz", "md5": "0", "sha256": "1", "published": "CUB_200_2011.tgz"}]
    values = {
        "dataset": "cub", "sources": sources, "counts": official.COUNTS, "missing": 0,
        "fingerprint": cub(root, subset=True).fingerprint, "tcm_bench": "0",
    }  # fmt: skip
    (root / PREPARED).write_text(json.dumps({**values, **changes}))


def test_the_list_is_compared_with_the_one_that_was_prepared(root):
    write_prepared(root)
    assert checked(root).ok
    write_prepared(root, fingerprint="0" * 64)
    fault = only_fault(checked(root))
    assert fault.path == str(root / PREPARED)
    here = cub(root, subset=True).fingerprint[:12]
    assert fault.reason == f"states the list 000000000000, what lies here has {here}; {REMEDY}"
    (root / PREPARED).write_text("{}")
    fault = only_fault(checked(root))
    assert fault.path == str(root / PREPARED)
    assert "is damaged" in fault.reason


@pytest.mark.parametrize("published", ["CUB_200_2011.tgz", None])
def test_nobody_is_sent_for_another_copy_of_what_the_published_archive_repeats(root, published):
    shutil.copy(images(root, 1)[0], images(root, 200)[0])
    write_prepared(root, sources=[{"name": "a.tgz", "published": published}])
    reason = only_fault(checked(root)).reason
    assert reason.endswith("the published archives have it so: report it with the numbers" if published else REMEDY)


def test_images_of_ones_own_are_verified_as_well(tmp_path):
    official.image_folder(tmp_path)
    read = lambda root, subset: folder(root)  # noqa: E731
    assert verify(read, tmp_path, processes=1).train == SIDE
    shutil.copy(tmp_path / "train" / "class 0" / "001.jpg", tmp_path / "test" / "class 4" / "020.jpg")
    fault = only_fault(verify(read, tmp_path, processes=1))
    assert fault.path == str(tmp_path / "test" / "class 4" / "020.jpg")
    assert fault.reason.endswith("; put a good copy in its place, or take it out")


def strips(path, pictures):
    """An archive of one class for each array (pictures, side, side, 3)."""
    with zipfile.ZipFile(path, "w") as file:
        for number, array in enumerate(pictures):
            image = io.BytesIO()
            Image.fromarray(array.reshape(-1, *array.shape[2:])).save(image, "PNG")
            file.writestr(f"class {number + 10 * (path.stem == 'test')}.png", image.getvalue())


def test_pictures_in_archives_are_verified_in_place(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 8, 8, 3), dtype=np.uint8)
    pixels[1, 1, 2] = pixels[0, 0, 1]
    for side, half in zip(("train", "test"), pixels, strict=True):
        strips(tmp_path / f"{side}.zip", half)
    sha256 = {side: hashlib.sha256((tmp_path / f"{side}.zip").read_bytes()).hexdigest() for side in ("train", "test")}
    read = lambda root, subset: bundled_splits(root, sha256)  # noqa: E731
    found = verify(read, tmp_path)
    assert (found.train, found.test) == (Count(2, 6), Count(2, 6))
    fault = only_fault(found)
    assert fault.path == f"{tmp_path}/test.zip#class 11/2"
    assert f"what {tmp_path}/train.zip#class 0/1 in train shows" in fault.reason
    (tmp_path / "test.zip").write_bytes(b"cut")
    fault = only_fault(verify(read, tmp_path))
    assert fault.path == str(tmp_path / "test.zip")
    assert "cut short or no zip archive" in fault.reason


def test_vectors_cannot_be_verified_as_images(tmp_path):
    sides = [FeatureTable(np.arange(2), [f"{side} a", f"{side} b"], np.ones((2, 3))) for side in ("train", "test")]
    with pytest.raises(ValueError, match="holds vectors, not images"):
        verify(lambda root, subset: Splits(*sides, "f"), tmp_path)


def test_paths_of_items_are_those_that_the_reader_gives(root):
    train = cub(root, subset=True).train
    assert list(item_paths(train, root, "train")) == [
        str(path) for cls in (1, 2, 99, 100) for path in images(root, cls)
    ]
