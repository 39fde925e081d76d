"""Whole preparations: from every form the archives come in, from a server, and killed on the way."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import official
import pytest
from mirror import Answer, Mirror

from tcm_bench.data.datasets.folder import folder
from tcm_bench.prepare.catalog import DATASETS, Archive
from tcm_bench.prepare.staging import PREPARED, prepare, read_prepared

NAMES = ("cub", "cars", "sop", "inat", "grocery", "omniglot")
FOLDERS = {
    "cub": official.cub_folder,
    "sop": official.sop_folder,
    "grocery": official.grocery_folder,
    "omniglot": official.omniglot_folder,
}


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Archives of the data sets by name, and of Cars' other layouts."""
    folder = tmp_path_factory.mktemp("archives")
    return {
        "cub": [official.cub_archive(folder / "cub", stray=True)],
        "cars": official.cars_archives_b(folder / "cars"),
        "cars a": official.cars_archives_a(folder / "cars a"),
        "cars kaggle": official.cars_archives_kaggle(folder / "cars kaggle"),
        "sop": [official.sop_archive(folder / "sop", stray=True)],
        "grocery": [official.grocery_archive(folder / "grocery", stray=True)],
        "omniglot": official.omniglot_archives(folder / "omniglot", stray=True),
        "inat": official.inat_archives(folder / "inat", stray=True),
    }


@pytest.fixture
def run(tmp_path):
    """Prepares into `tmp_path/root`; the lines said are in `run.said`."""

    def run(name, sources=(), root=tmp_path / "root"):
        run.said = []
        return prepare(DATASETS[name] if isinstance(name, str) else name, root, sources, say=run.said.append)

    run.root = tmp_path / "root"
    return run


def tree(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_right(name, root):
    splits = DATASETS[name].splits(root, subset=True)
    for side, table in {"train": splits.train, "test": splits.test}.items():
        assert (table.num_classes, len(table)) == official.COUNTS[side]
        assert all(Path(path).is_file() for path in table.paths)
    assert read_prepared(root).fingerprint == splits.fingerprint
    assert not [path for path in root.rglob("*") if path.name.startswith(".") or path.name == "__MACOSX"]


@pytest.mark.parametrize("case", ["cub", "cars", "cars a", "cars kaggle", "sop", "inat", "grocery", "omniglot"])
def test_official_archives_become_a_dataset(run, archives, case):
    name = case.split()[0]
    prepared = run(name, archives[case])
    assert prepared.counts == official.COUNTS
    assert_right(name, run.root)
    stored = json.loads((run.root / PREPARED).read_text())
    assert stored["sources"][0]["sha256"] == hashlib.sha256(archives[case][0].read_bytes()).hexdigest()
    unknown = any("none of the files whose checksum is published" in line for line in run.said)
    assert unknown is any(archive.md5 for archive in DATASETS[name].archives)
    assert any(line.startswith("this is a part of") for line in run.said)


@pytest.mark.parametrize("case", ["cub", "cars", "cars kaggle", "sop", "inat", "grocery", "omniglot"])
def test_a_folder_of_archives_does_as_well_whatever_they_are_called(run, archives, case, tmp_path):
    downloads = tmp_path / "Downloads"
    (downloads / "deeper").mkdir(parents=True)
    for number, archive in enumerate(archives[case]):
        shutil.copy(archive, downloads / "deeper" / (archive.name if archive.suffix == ".mat" else f"{number}.bin"))
    (downloads / "letter.pdf").write_bytes(b"%PDF-1.4")
    run(case.split()[0], [downloads])
    assert_right(case.split()[0], run.root)


@pytest.mark.parametrize("name", NAMES)
def test_an_unpacked_copy_is_a_source_too(run, tmp_path, name):
    make = {**FOLDERS, "cars": official.cars_folder_a}
    make.get(name, official.inat_folder)(tmp_path / "copy")
    before = tree(tmp_path / "copy")
    run(name, [tmp_path / "copy"])
    assert_right(name, run.root)
    assert tree(tmp_path / "copy") == before


@pytest.mark.parametrize("name", NAMES)
def test_one_zip_with_everything_in_folders_of_folders_is_enough(run, tmp_path, name):
    make = {**FOLDERS, "cars": official.cars_folder_b}
    make.get(name, official.inat_folder)(tmp_path / "all" / "from a friend" / "set")
    everything = official.pack(tmp_path / "everything.zip", tmp_path / "all", ["*"])
    run(name, [everything])
    assert_right(name, run.root)


def test_a_download_named_twice_by_the_browser_is_recognized(run, archives, tmp_path):
    sources = [shutil.copy(path, tmp_path / path.name.replace(".mat", " (1).mat")) for path in archives["cars"]]
    run("cars", [Path(path) for path in sources])
    assert_right("cars", run.root)


def test_archives_that_lie_in_the_root_itself_are_left_there(run, archives):
    run.root.mkdir()
    for archive in archives["cars a"]:
        shutil.copy(archive, run.root)
    run("cars", [run.root])
    assert_right("cars", run.root)
    assert (run.root / "car_ims.tgz").read_bytes() == archives["cars a"][0].read_bytes()


def test_the_order_of_lists_and_images_does_not_matter(run, archives, tmp_path):
    run("inat", archives["inat"])
    run("inat", archives["inat"][::-1], root=tmp_path / "other")
    first, second = tree(run.root), tree(tmp_path / "other")
    assert first.keys() == second.keys()
    assert all(first[name] == second[name] for name in first if name != PREPARED)
    assert not [name for name in first if "not_listed" in name]  # only what the lists name


def test_lists_with_absolute_paths_choose_the_same_images(run, tmp_path):
    sources = official.inat_archives(tmp_path / "a", prefix="/data/inat/train_val2018/", stray=True, crlf=True)
    run("inat", sources)
    assert_right("inat", run.root)


def test_a_finished_one_is_left_alone_without_sources_and_network(run, archives):
    run("cub", archives["cub"])
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    for sources in ((), archives["cub"]):
        assert run("cub", sources).counts == official.COUNTS
        assert "is prepared already" in run.said[0]
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
    with pytest.raises(ValueError, match="holds cub, prepared earlier"):
        run("sop", archives["sop"])


def test_what_someone_unpacked_by_hand_is_taken_as_it_is(run):
    official.cub_folder(run.root)
    assert run("cub").counts == official.COUNTS
    assert (run.root / "CUB_200_2011" / "images.txt").is_file()
    assert_right("cub", run.root)


def test_an_incomplete_copy_in_the_root_is_not_touched(run, archives):
    official.cars_folder_a(run.root)
    next((run.root / "car_ims").iterdir()).unlink()
    before = tree(run.root)
    with pytest.raises(ValueError, match="car_ims is there already but the dataset is not complete"):
        run("cars", archives["cars a"])
    assert tree(run.root) == before


def test_a_foreign_file_in_the_way_is_not_overwritten(run, archives):
    run.root.mkdir()
    (run.root / "images.txt").write_text("my own notes")
    with pytest.raises(ValueError, match=r"images\.txt is there already, and is not what would be put there"):
        run("cub", archives["cub"])
    assert tree(run.root) == {"images.txt": b"my own notes"}


def cut(archive, folder):
    short = folder / archive.name
    short.write_bytes(archive.read_bytes()[:-2000])
    return short


FAULTS = {
    "nothing there": ("cub", lambda a, f: [f / "gone.tgz"], "does not exist"),
    "cut short": ("cub", lambda a, f: [cut(a["cub"][0], f)], "is damaged or cut short"),
    "zip cut short": ("sop", lambda a, f: [cut(a["sop"][0], f)], "is damaged or cut short"),
    "another dataset": ("cub", lambda a, f: a["sop"], "holds nothing of CUB-200-2011"),
    "no archive": ("cub", lambda a, f: [Path(__file__)], "is neither a tar nor a zip archive"),
    "half of the archives": ("cars", lambda a, f: [a["cars"][0], *a["cars"][2:]], "no listed image of cars_test/"),
    "Kaggle's alone": ("cars", lambda a, f: a["cars kaggle"][:1], "cars_train_annos.mat"),
    "no lists": ("inat", lambda a, f: a["inat"][:1], "Inaturalist_train_set1.txt .* must be given"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_one_sentence_and_leaves_nothing(run, archives, tmp_path, fault):
    name, sources, sentence = FAULTS[fault]
    with pytest.raises(ValueError, match=sentence) as error:
        run(name, sources(archives, tmp_path))
    assert ".preparing" not in str(error.value)
    assert not run.root.exists()


def test_a_fault_leaves_the_rest_of_the_root_alone(run, archives, tmp_path):
    run.root.mkdir()
    (run.root / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="cut short"):
        run("cub", [cut(archives["cub"][0], tmp_path)])
    assert [path.name for path in run.root.rglob("*")] == ["notes.txt"]


def test_a_few_missing_images_are_said_and_left_to_verify(run, archives, tmp_path):
    with zipfile.ZipFile(archives["sop"][0]) as whole, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        names = [name for name in whole.namelist() if not name.endswith(f"{111_000_000_000 + 1}_0.JPG")]
        for name in names:
            less.writestr(name, whole.read(name))
    assert run("sop", [tmp_path / "less.zip"]).missing == 1
    assert any(line.startswith("warning: 1 of 34 listed images are missing") for line in run.said)


def test_without_a_link_the_steps_by_hand_are_given(run):
    with pytest.raises(ValueError, match="without your help") as error:
        run("cars")
    for word in ("jessicali9530/stanford-cars-dataset", "CARS196.zip", f"--root {run.root} --from"):
        assert word in str(error.value)
    with pytest.raises(ValueError, match="Inat_dataset_splits"):
        run("inat")
    assert not run.root.exists()


def from_mirrors(name, archive, *urls, md5=None):
    md5 = md5 or hashlib.md5(archive.read_bytes()).hexdigest()
    return dataclasses.replace(DATASETS[name], archives=(Archive(archive.name, md5, urls, archive.stat().st_size),))


def test_with_a_link_it_is_downloaded_checked_and_unpacked(run, archives):
    body = archives["cub"][0].read_bytes()
    with Mirror(body, [Answer(drop_after=5_000), Answer()]) as mirror:
        prepared = run(from_mirrors("cub", archives["cub"][0], mirror.url()))
    assert prepared.sources[0].published == "CUB_200_2011.tgz"
    assert_right("cub", run.root)


def test_lists_given_and_images_downloaded(run, archives):
    images, lists = archives["inat"]
    with Mirror(images.read_bytes()) as mirror:
        run(from_mirrors("inat", images, mirror.url()), [lists])
    assert_right("inat", run.root)


def test_when_no_mirror_has_it_the_steps_by_hand_follow(run, archives):
    with Mirror(b"", [Answer(status=404)]) as mirror, pytest.raises(ValueError, match="it answers 404") as error:
        run(from_mirrors("cub", archives["cub"][0], mirror.url()))
    assert "Download CUB_200_2011.tgz from" in str(error.value)
    assert not run.root.exists()


def test_a_disk_too_small_is_noticed_beforehand(run, archives):
    vast = dataclasses.replace(
        DATASETS["cub"], archives=(Archive("a.tgz", urls=("http://127.0.0.1:9/",), size=10**18),)
    )
    with pytest.raises(ValueError, match=r"about 2\.0 EB are needed"):
        run(vast)


def test_what_is_built_instead_of_downloaded_is_finished_in_the_same_way(run, tmp_path):
    def build(staging, downloads):
        assert downloads.is_dir()
        official.image_folder(staging)

    built = dataclasses.replace(
        DATASETS["cub"], name="built", build=build, splits=lambda root, subset: folder(root), counts=official.COUNTS
    )
    assert run(built).counts == official.COUNTS
    assert {path.name for path in run.root.iterdir()} == {"train", "test", PREPARED}


WORKER = """
import sys
from pathlib import Path
from tcm_bench.prepare import unpack
from tcm_bench.prepare.catalog import DATASETS
from tcm_bench.prepare.staging import prepare

name, root, point, sources = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [Path(p) for p in sys.argv[4:]]
replaced = Path.replace
def slow(path, target):
    # Says when a file is about to be put in its place, and waits there for its end.
    global point
    point -= 1
    if point < 0:
        print("here", flush=True)
        sys.stdin.read()
    return replaced(path, target)
Path.replace = slow
prepare(DATASETS[name], root, sources, say=lambda line: None)
"""


@pytest.fixture(scope="session")
def moves(archives, tmp_path_factory):
    """How many files are put in place in a whole preparation of iNat."""
    count = 0
    replaced = Path.replace

    def counting(path, target):
        nonlocal count
        count += 1
        return replaced(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", counting)
        prepare(DATASETS["inat"], tmp_path_factory.mktemp("moves") / "root", archives["inat"], say=lambda line: None)
    return count


# Of the files that are put in place: an image; the last but for the record of what is ready, three entries and the end.
POINTS = {
    "unpacking": lambda moves: moves // 2,
    "moving": lambda moves: moves - 3,
    "at the end": lambda moves: moves - 1,
}


@pytest.mark.parametrize("moment", POINTS)
def test_killed_at_any_moment_it_is_repeated_to_the_same_tree(run, archives, moves, tmp_path, moment):
    run("inat", archives["inat"], root=tmp_path / "whole")
    point = POINTS[moment](moves)
    words = [sys.executable, "-c", WORKER, "inat", str(run.root), str(point), *map(str, archives["inat"])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (run.root / PREPARED).exists()
    staged = {path: path.stat().st_ino for path in run.root.rglob("train_val2018/*/*/*.jpg")}
    run("inat", archives["inat"])
    assert tree(run.root) == tree(tmp_path / "whole")
    kept = {path.stat().st_ino for path in run.root.rglob("*.jpg")}
    assert set(staged.values()) <= kept  # nothing that was whole has been written again


def test_what_is_staged_is_not_taken_for_a_copy_that_someone_unpacked(run, archives, monkeypatch):
    """All is unpacked, and the process ends before it says so."""

    def end(path, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tcm_bench.prepare.staging.write_atomic", end)
        with pytest.raises(KeyboardInterrupt):
            run("cub", archives["cub"])
    run("cub", archives["cub"])
    assert not any("holds CUB-200-2011 already" in line for line in run.said)
    assert_right("cub", run.root)


def test_other_sources_after_a_kill_start_anew(run, archives):
    words = [sys.executable, "-c", WORKER, "cars", str(run.root), "20", *map(str, archives["cars"])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        os.kill(process.pid, signal.SIGKILL)
    run("cars", archives["cars a"])
    assert {path.name for path in run.root.iterdir()} == {"car_ims", "cars_annos.mat", PREPARED}


def test_two_at_once_wait_for_each_other(run, archives):
    words = [sys.executable, "-c", WORKER, "cub", str(run.root), "10", str(archives["cub"][0])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        said, result = [], []
        second = threading.Thread(
            target=lambda: result.append(prepare(DATASETS["cub"], run.root, archives["cub"], say=said.append))
        )
        second.start()
        while not said:
            time.sleep(0.01)
        assert "another process prepares" in said[0]
        process.stdin.close()  # every further wait of the first one ends at once
        assert process.wait() == 0
        second.join()
    assert "is prepared already" in said[1]
    assert_right("cub", run.root)


def test_tidying_up_after_a_kill_at_the_very_end(run, archives):
    run("cub", archives["cub"])
    (run.root / ".preparing" / "work").mkdir(parents=True)
    (run.root / ".preparing" / "ready.json").write_text("{}")
    run("cub")
    assert_right("cub", run.root)


def test_a_damaged_record_is_one_sentence(run):
    run.root.mkdir()
    (run.root / PREPARED).write_text("{}")
    with pytest.raises(ValueError, match=r"prepared\.json is damaged or of another version"):
        run("cub")


def test_every_dataset_of_the_catalog_says_how_to_get_it():
    for entry in DATASETS.values():
        assert entry.build or entry.manual, entry.name
        assert entry.terms
        assert set(entry.counts) == {"train", "test"}
        for archive in entry.archives:
            assert archive.md5 or not archive.urls, f"{archive.file} would be downloaded unchecked"
