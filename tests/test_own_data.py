"""Images and vectors of one's own through the real life of a run: what trains, and what is said where it cannot."""

import csv
from pathlib import Path

import official
import pytest
from answers import answer
from composition import composition
from vectors import SMALL, command, write_vectors

import tcm_bench.runs.experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.results import ledger
from tcm_bench.runs.run import execute, main

TINY = [
    "model/backbone=resnet_small",
    "model.freeze=none",
    "model.head.embedding_dim=8",
    "trainer.max_epochs=1",
    "machine.threads=1",
]


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """Images of four classes on each side, and a table of them beside the folders."""
    root = official.image_folder(tmp_path_factory.mktemp("mine"))
    rows = [["path", "label", "split"]]
    for path in sorted(root.rglob("*.jpg")):
        side, cls, _ = path.relative_to(root).parts
        rows.append([str(path.relative_to(root)), cls, side])
    table = root.parent / f"{root.name}.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def trained(output: Path, *overrides: str) -> ledger.Result:
    words = [*SMALL, f"paths.output_dir={output}", *overrides]
    return execute(*composition(*words))


@pytest.mark.parametrize("kind", ["folder", "table", "features"])
def test_own_data_need_neither_the_size_of_a_batch_nor_the_number_of_classes(tmp_path, mine, kind):
    data = {
        "folder": [f"data.root={mine}", *TINY],
        "table": [f"data.file={mine}.csv", f"data.root={mine}", *TINY],
        "features": [f"data.file={write_vectors(tmp_path)}", "machine.threads=1"],
    }[kind]
    row = trained(tmp_path, f"data={kind}", "loss=proxy_anchor", *data)
    assert row.status == "finished"
    found = {key: row.counts[key] for key in ("train_classes", "classes_per_batch", "images_per_class")}
    classes = 12 if kind == "features" else 4
    assert found == {"train_classes": classes, "classes_per_batch": classes, "images_per_class": 4}


def said(output: Path, *overrides: str) -> str:
    """The one line that the real command says of what it cannot do."""
    ran = answer(main, command(output, *overrides)[2:])
    assert ran.status
    assert "Traceback" not in ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if not line.startswith("a batch of 64 classes")]
    return line


@pytest.mark.parametrize(("workers", "freeze"), [(0, "none"), (1, "none"), (1, "backbone")])
def test_a_corrupt_image_is_named_in_the_terminal(tmp_path, workers, freeze):
    root = official.image_folder(tmp_path / "mine")
    path = root / "train" / "class 1" / "008.jpg"
    path.write_bytes(path.read_bytes()[:300])
    output = tmp_path / "out"
    line = said(output, "data=folder", f'data.root="{root}"', *TINY, f"model.freeze={freeze}",
                f"machine.num_workers={workers}")  # fmt: skip
    assert line.startswith(f"error: {path} cannot be decoded (")
    (row,) = ledger.results(output.glob("runs/*"))
    assert f"error: {row.reason}" == line.replace("error: ", "error: ValueError: ")


def test_a_missing_image_is_named_in_the_terminal(tmp_path):
    root = official.image_folder(tmp_path / "mine")
    table = tmp_path / "my.csv"
    paths = sorted(path.relative_to(root) for path in root.rglob("*.jpg"))
    table.write_text("\n".join(["path,label,split", *(f"{p},{p.parts[1]},{p.parts[0]}" for p in paths)]))
    (root / paths[3]).unlink()
    line = said(tmp_path / "out", "data=table", f"data.file={table}", f"data.root={root}", *TINY)
    reason = "(No such file or directory): get the file again, or leave it out"
    assert line == f"error: {root / paths[3]} cannot be read {reason}"
