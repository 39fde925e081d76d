"""`tcm-bench data list`, `prepare`, `verify`, `stats` and `table`."""

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import official
import pytest
from typer.testing import CliRunner

from tcm_bench.cli.app import app
from tcm_bench.cli.data import BUNDLED, _described
from tcm_bench.prepare.catalog import DATASETS
from tcm_bench.runs.naming import PROJECT_ROOT

COMMAND = Path(sys.executable).with_name("tcm-bench")
FIXTURES = {
    "cub": official.cub_folder,
    "cars": official.cars_folder_b,
    "sop": official.sop_folder,
    "inat": official.inat_folder,
    "grocery": official.grocery_folder,
    "omniglot": official.omniglot_folder,
}


def data(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def sentence(done, status=1):
    """The one line on stderr of a command that could not be done."""
    assert done.exit_code == status, done.output
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def cub_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cub")
    official.cub_folder(root)
    return root


@pytest.fixture
def mine(tmp_path):
    """A folder of images, and a table of the same that lies in it."""
    root = official.image_folder(tmp_path / "mine")
    rows = [["path", "label", "split"]]
    for path in sorted(root.rglob("*.jpg")):
        side, cls, _ = path.relative_to(root).parts
        rows.append([str(path.relative_to(root)), f'{cls}, "so called"', side])
    with (root / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def test_the_group_alone_shows_its_commands_and_every_command_its_help():
    assert all(word in data().output for word in ("list", "prepare", "verify", "stats", "table"))
    for word in ("list", "prepare", "verify", "stats", "table"):
        done = data(word, "--help")
        assert done.exit_code == 0
        assert word in done.output


def test_help_needs_none_of_the_heavy_libraries():
    code = (
        "import sys; from tcm_bench.cli.app import app\n"
        "try: app()\n"
        "finally: print({'torch', 'numpy', 'pyarrow', 'scipy', 'hydra', 'PIL'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "verify", "--help"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONWARNINGS": "error"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "set()\n"


def test_list_tells_of_every_dataset_what_it_is_and_how_to_get_it():
    done = data("list")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines()}
    assert set(lines) == {"name", *DATASETS, *BUNDLED, "folder", "table"}
    assert "100 / 5,864" in lines["cub"]
    assert "100 / 5,924" in lines["cub"]
    assert lines["inat"].split()[-1] == "data=inat"
    assert "by hand" in lines["cars"]
    assert "download" in lines["sop"]
    assert "comes with the code" in lines["emoji"]
    assert "your own" in lines["table"]


@pytest.mark.parametrize("name", BUNDLED)
def test_list_counts_the_bundled_sets_right(name):
    source = _described(name, None)
    splits = source.splits_of(source.root, subset=False)
    counts = [(table.num_classes, len(table)) for table in (splits.train, splits.test)]
    assert counts == [*BUNDLED[name][1:]]


@pytest.mark.parametrize("command", ["verify", "stats", "table", "prepare"])
def test_an_unknown_name_is_a_sentence_with_the_nearest(command):
    line = sentence(data(command, "cub200", *(["--split", "train"] if command == "table" else [])))
    assert "there is no dataset 'cub200'" in line
    assert "did you mean 'cub'?" in line
    assert "kanji" in line


@pytest.mark.parametrize("name", FIXTURES)
def test_a_subset_of_each_set_of_files_is_verified(name, tmp_path):
    FIXTURES[name](tmp_path)
    done = data("verify", name, "--root", tmp_path, "--subset", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert found["train"] == found["test"] == {"classes": 4, "images": 17}
    assert found["faults"] == []
    assert len(found["fingerprint"]) == 64
    done = data("verify", name, "--root", tmp_path, "--subset")
    assert done.exit_code == 0
    line, *identity = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path} is a subset of {name}, all well: 17 train images of 4 classes and 17 test")
    assert re.fullmatch(r"is it the benchmark .*\? no: 4 train classes where .* are expected", *identity)
    assert not done.stderr


def test_without_subset_a_part_is_not_the_benchmark(cub_root):
    done = data("verify", "cub", "--root", cub_root, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert found["train"] == {"classes": 4, "images": 17}
    (fault,) = found["faults"]
    assert fault.keys() == {"path", "reason"}
    assert fault["path"] == str(cub_root / "CUB_200_2011")
    assert "17 train images where it has 5864" in fault["reason"]
    assert f"; if this is a copy of cub, run `tcm-bench data prepare cub --root {cub_root}`" in fault["reason"]
    assert "accept a part with --subset" in fault["reason"]


LISTS = {  # of the small copies in tests/official.py, as sha256sum gives it for their lines "side, path, class"
    "cub": "8c134514fa5234689514e231fb1299a1c2470937456dd9f4b8042da18c2e6865",
    "cars": "49defb6448d6d0c9bffe0f2166547ba4faa6d22f9c7f1ade474a2d6041eecb09",
}


def small_benchmark(name, monkeypatch, fingerprints):
    """Makes the small copy of a benchmark the benchmark itself."""
    monkeypatch.setattr(sys.modules[f"tcm_bench.data.datasets.{name}"], "COUNTS", official.COUNTS)
    small = dataclasses.replace(DATASETS[name], counts=official.COUNTS, fingerprints=fingerprints)
    monkeypatch.setitem(DATASETS, name, small)


def identity(name, root, status=0, *words):
    done = data("verify", name, "--root", root, "--json", *words)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)["benchmark"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", LISTS)
def test_verify_says_whether_a_copy_is_the_benchmark(tmp_path, monkeypatch, name, nested):
    fingerprint = LISTS[name]
    (layout,) = DATASETS[name].fingerprints  # the one whose published list has been read
    small_benchmark(name, monkeypatch, {layout: fingerprint})
    {"cub": official.cub_folder, "cars": partial(official.cars_folder_b, nested=nested)}[name](tmp_path)
    assert identity(name, tmp_path) == {"verdict": "yes", "reason": "its counts and its list are the published ones"}

    small_benchmark(name, monkeypatch, {layout: "0" * 64})
    reason = f"its list has sha256 {fingerprint[:12]}, the published one 000000000000"
    assert identity(name, tmp_path, 1) == {"verdict": "no", "reason": reason}
    assert identity(name, tmp_path, 0, "--subset") == {"verdict": "no", "reason": reason}
    assert f"is not the benchmark: {reason}; if this is a copy" in data("verify", name, "--root", tmp_path).stdout

    small_benchmark(name, monkeypatch, {"another": fingerprint})
    assert identity(name, tmp_path)["verdict"] == "unknown"
    last = data("verify", name, "--root", tmp_path).stdout.splitlines()[-1]
    assert last.startswith(f"is it the benchmark {DATASETS[name].title}? unknown: its counts are the benchmark's, but")


def test_a_copy_with_other_counts_is_not_the_benchmark_and_one_without_lists_neither(cub_root, tmp_path):
    reason = "4 train classes where 100 are expected, 17 train images where 5,864 are expected, "
    reason += "4 test classes where 100 are expected, 17 test images where 5,924 are expected"
    assert identity("cub", cub_root, 1) == {"verdict": "no", "reason": reason}
    assert identity("cub", tmp_path, 1) == {"verdict": "no", "reason": "its lists cannot be read"}


def test_a_set_that_is_no_benchmark_is_not_compared_with_one():
    assert identity("icons", PROJECT_ROOT / "data" / "icons") is None


def test_json_is_printed_for_a_folder_that_is_not_there(tmp_path):
    done = data("verify", "sop", "--root", tmp_path / "gone", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["train"] == {"classes": 0, "images": 0}
    (fault,) = found["faults"]
    assert fault["path"] == str(tmp_path / "gone")
    assert f"run `tcm-bench data prepare sop --root {tmp_path / 'gone'}`" in fault["reason"]


def test_many_faults_of_a_kind_are_counted_and_all_in_the_json(tmp_path):
    official.cub_folder(tmp_path)
    photos = sorted(tmp_path.rglob("*.jpg"))
    for path in photos[:25]:
        path.unlink()
    photos[30].write_bytes(b"")
    done = data("verify", "cub", "--root", tmp_path, "--subset")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "is empty (1):"
    assert lines[1].startswith(f"  {photos[30]}: is empty (0 bytes); if this is a copy of cub, run `tcm-bench ")
    assert lines[2] == "is missing (25):"
    assert sum(": is missing; " in line for line in lines) == 20
    assert lines[-3] == "  and 5 more, listed by --json"
    assert lines[-2].startswith(f"{tmp_path} is not what cub should be: 26 faults; 17 train images")
    found = json.loads(data("verify", "cub", "--root", tmp_path, "--subset", "--json").stdout)
    assert {fault["path"] for fault in found["faults"]} == {str(path) for path in [*photos[:25], photos[30]]}


def test_ones_own_images_are_verified_described_and_listed(mine):
    for name, root in (("folder", mine), ("table", mine / "mine.csv")):
        found = json.loads(data("verify", name, "--root", root, "--json").stdout)
        assert found["ok"] is True
        assert found["train"] == {"classes": 4, "images": 17}
        assert "JPEG CMYK" in data("stats", name, "--root", root).stdout
        rows = list(csv.DictReader(io.StringIO(data("table", name, "--root", root, "--split", "test").stdout)))
        assert len(rows) == 17
        assert [int(row["label"]) for row in rows] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5
        assert all(Path(row["path"]).is_absolute() and Path(row["path"]).is_file() for row in rows)
    assert rows[0]["class_name"] == 'class 4, "so called"'


@pytest.mark.parametrize("name", ["folder", "table"])
def test_ones_own_images_need_a_root(name):
    assert "--root" in sentence(data("verify", name))


def test_a_relative_root_gives_absolute_paths(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    rows = list(csv.reader(io.StringIO(data("table", "folder", "--root", "mine", "--split", "train").stdout)))
    assert rows[0] == ["path", "label", "class_name"]
    assert rows[1] == [str(mine / "train" / "class 0" / "001.jpg"), "0", "class 0"]


def test_a_bundled_set_is_verified_where_it_lies():
    done = data("verify", "icons", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["train"] == {"classes": 120, "images": 2880}
    rows = data("table", "icons", "--split", "train").stdout.splitlines()
    assert len(rows) == 2881
    assert rows[4].endswith("icons/train.zip#accessibility/3,0,accessibility")


def test_stats_describe_both_sides(cub_root):
    done = data("stats", "cub", "--root", cub_root, "--subset")
    assert done.exit_code == 0, done.output
    for side in ("train", "test"):
        assert f"{side}: 4 classes, 17 images" in done.stdout
    for line in (
        "  images per class: 4 to 5, median 4",
        "  largest class: 100.Brown_Pelican (5)",
        "  smallest class: 001.Black_footed_Albatross (4)",
        "  formats: 14 JPEG RGB, 1 JPEG L, 1 JPEG CMYK, 1 PNG P",
    ):
        assert line in done.stdout.splitlines()
    assert "px" in done.stdout
    assert "unreadable" not in done.stdout


def test_stats_of_a_part_need_to_be_told_so(cub_root):
    assert "found 4 train classes" in sentence(data("stats", "cub", "--root", cub_root))


def test_a_table_may_be_cut_off_by_its_reader():
    """The installed command, with a real pipe."""
    words = [COMMAND, "data", "table", "icons", "--split", "test"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.readline() == b"path,label,class_name\n"
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    running.wait(60)


def test_a_name_that_is_no_text_is_printed_as_it_is(mine):
    odd = os.fsencode(mine / "test" / "class 4") + b"/\xff.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"")
    done = data("table", "folder", "--root", mine, "--split", "test")
    assert odd + b",0,class 4" in done.stdout_bytes.splitlines()


@pytest.mark.parametrize(
    "words",
    [
        "NAME --from A B --root ROOT",
        "NAME --root ROOT --from A B",
        "NAME --from A --from B --root ROOT",
        "NAME --from=A --root ROOT --from B",
        "--from A B --root ROOT NAME",
        "--root ROOT --from A B NAME",
        "--root ROOT --from A B -- NAME",
        "--root ROOT --from=A --from=B NAME",
    ],
)
def test_several_paths_may_follow_from(words, tmp_path):
    a, b = official.inat_archives(tmp_path / "archives")
    values = {"NAME": "inat", "A": str(a), "B": str(b), "ROOT": str(tmp_path / "root"), "--from=A": f"--from={a}"}
    values["--from=B"] = f"--from={b}"
    done = data("prepare", *(values.get(word, word) for word in words.split()))
    assert done.exit_code == 0, done.output
    found = json.loads(data("verify", "inat", "--root", tmp_path / "root", "--subset", "--json").stdout)
    assert found["ok"] is True
    assert found["train"] == {"classes": 4, "images": 17}


@pytest.mark.parametrize("words", ["cub --from", "cub --from --root x", "cub --root x --from -- "])
def test_from_without_a_path_is_refused(words):
    done = data("prepare", *words.split())
    assert done.exit_code == 2
    assert "needs a path, or several" in done.output


def test_a_single_path_is_not_taken_for_the_name(tmp_path):
    done = data("prepare", "--from", tmp_path)
    assert done.exit_code == 2
    assert "Missing argument" in done.output


def test_what_needs_no_preparation_says_so():
    for name in ("folder", "kanji", "features"):
        assert f"`tcm-bench data verify {name}`" in sentence(data("prepare", name))


def test_what_has_no_link_prints_the_steps(tmp_path):
    done = data("prepare", "cars", "--root", tmp_path / "cars")
    assert done.exit_code == 1
    assert "cars_test_annos_withlabels.mat" in done.stderr
    assert f"tcm-bench data prepare cars --root {tmp_path / 'cars'} --from" in done.stderr
    assert not done.stdout
