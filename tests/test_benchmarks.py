"""The four benchmarks from their archives to a number: small copies in the official layouts, by the real commands."""

import csv
import json
from pathlib import Path

import official
import pytest
from composition import composition
from typer.testing import CliRunner
from vectors import SMALL

from tcm_bench.cli.app import app
from tcm_bench.runs.run import execute

ARCHIVES = {
    "cub": lambda folder: [official.cub_archive(folder, stray=True)],
    "cars": official.cars_archives_kaggle,
    "sop": lambda folder: [official.sop_archive(folder, stray=True)],
    "inat": lambda folder: official.inat_archives(folder, stray=True),
}
TRAINING = [
    "model/backbone=resnet_small",
    "model.freeze=none",
    "model.head.embedding_dim=8",
    "data.subset=true",
    "loss=proxy_anchor",
    "data.loader.images_per_class=2",
    "data.loader.batches_per_epoch=2",
    "trainer.max_epochs=1",
    "machine.threads=1",
]


def data(*words: object) -> str:
    """What a sub-command of `tcm-bench data` printed; it must succeed."""
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def trained_here(output: Path, *overrides: str) -> None:
    words = [*SMALL, f"paths.output_dir={output}", *overrides]
    execute(*composition(*words))


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_become_a_verified_dataset_that_is_trained_on_and_evaluated(tmp_path, name):
    root = tmp_path / "root"
    data("prepare", name, "--from", *ARCHIVES[name](tmp_path / "archives"), "--root", root)

    verified = json.loads(data("verify", name, "--root", root, "--subset", "--json"))
    sides = {side: dict(zip(("classes", "images"), counts, strict=True)) for side, counts in official.COUNTS.items()}
    assert {key: verified[key] for key in ("ok", "faults", "train", "test")} == {"ok": True, "faults": [], **sides}

    rows = list(csv.DictReader(data("table", name, "--root", root, "--split", "test").splitlines()))
    assert len(rows) == official.COUNTS["test"][1]
    assert all(Path(row["path"]).is_file() for row in rows)
    assert {int(row["label"]) for row in rows} == {0, 1, 2, 3}

    # In this process: starting `train.py`, which tests/test_run.py does, takes longer than all the rest.
    trained_here(tmp_path / "outputs", f"data={name}", f"data.root={root}", *TRAINING)
    (file,) = (tmp_path / "outputs").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["status"] == "finished"
    assert 0 <= result["metrics"]["recall_at_1"] <= 1
    assert result["metrics"]["opis"] >= 0
    assert result["counts"]["test_images"] == official.COUNTS["test"][1]
