"""Settings of TCM that Optuna searches on held-out classes, by the real command."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from answers import Answer, answer
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from vectors import command, head, write_vectors

from tcm_bench.report.choice import TOLERANCE
from tcm_bench.results import ledger
from tcm_bench.runs import search as search_module
from tcm_bench.runs import sweep
from tcm_bench.runs.naming import PROJECT_ROOT
from tcm_bench.runs.run import main

RANGES = ["tcm.negative_margin=interval(0.3,0.8)", "tcm.negative_weight=tag(log,interval(0.03,1))"]
HELD_OUT = ["data.loader.classes_per_batch=4", "data.loader.validation_classes=6"]
SEARCH = ["hydra/sweeper=optuna", "sweep_name=found", "hydra.sweeper.n_trials=4", "hydra.sweeper.at_once=2"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def search(output: Path, vectors: Path, *words: str) -> Answer:
    """One run after the other, by Hydra's own launcher."""
    return answer(main, [*command(output, *head(vectors), *HELD_OUT, *SEARCH, *words)[2:], "-m"])


@pytest.fixture(scope="module")
def found(tmp_path_factory, vectors) -> Path:
    output = tmp_path_factory.mktemp("found")
    ran = search(output, vectors, *RANGES, "seed=0,1")
    assert ran.status == 0, ran.stderr
    (output / "stderr.txt").write_text(ran.stderr)
    return output


def rows(output: Path) -> dict[str, ledger.Result]:
    return {row.run_id: row for row in ledger.results(ledger.run_dirs(output))}


def test_every_setting_is_trained_with_every_seed_and_the_baseline_once(found):
    tried = list(rows(found).values())
    assert [sum(row.choices["tcm"] == "none" for row in tried), len(tried)] == [2, 2 + 4 * 2]
    settings = {
        tuple(row.science["tcm"][key] for key in ("negative_margin", "negative_weight", "positive_weight"))
        for row in tried
    }
    assert len(settings) == 1 + 4
    for row in tried:
        if row.choices["tcm"] == "none":
            assert not any(key.startswith("tcm.") for key in row.choices)
        else:
            assert 0.3 <= row.science["tcm"]["negative_margin"] <= 0.8
            assert 0.03 <= row.science["tcm"]["negative_weight"] <= 1
    listed = ledger.read_sweep(found / "sweeps" / "found.json")
    assert {run.run_id for run in listed.runs} == set(rows(found))


def test_the_report_has_all_that_was_tried_and_chooses_by_held_out_classes(found):
    table = pd.read_csv(found / "report" / "found-choice.csv")
    assert len(table) == 1 + 4
    assert set(table["seeds"]) == {2}
    base = table[table["tcm"].isna()].iloc[0]
    kept = table[table["tcm"].notna() & (table["recall_val"] >= base["recall_val"] - TOLERANCE)]
    kept = kept[kept["opis_val"] < base["opis_val"]]
    chosen = table[table["chosen"] & table["tcm"].notna()]
    assert list(chosen["tcm"]) == list(kept.nsmallest(1, "opis_val")["tcm"])
    told = (found / "stderr.txt").read_text()
    assert "chosen is" in told if len(chosen) else "no setting keeps R@1" in told
    assert "found-choice.md" in told
    assert not (found / "report" / "found.csv").exists()  # the test classes' scores of all settings: not to choose by


def test_the_same_command_asks_for_the_same_settings_and_trains_what_is_missing(found, vectors, tmp_path):
    output = shutil.copytree(found, tmp_path / "copy")
    lost = sorted(rows(output))[::3]
    for name in lost:
        shutil.rmtree(output / "runs" / name)
    ran = search(output, vectors, *RANGES, "seed=0,1")
    assert ran.status == 0, ran.stderr
    assert {name: row.metrics for name, row in rows(output).items()} == {
        name: row.metrics for name, row in rows(found).items()
    }
    assert [name for name, row in rows(output).items() if row != rows(found)[name]] == lost  # at other times
    for file in ("found-choice.csv", "found-choice.md"):
        assert (output / "report" / file).read_bytes() == (found / "report" / file).read_bytes()


def test_the_search_goes_to_the_least_opis_of_those_that_keep_recall(monkeypatch):
    margins: list[float] = []

    def trained(jobs, settings):
        """OPIS falls with the margin; beyond 0.5 that costs R@1."""
        new = [float(setting.rpartition("=")[2]) for (setting,) in settings]
        margins.extend(new)
        return [search_module.Arms(1 - margin, 0.9 if margin < 0.5 else 0.8, 0.9) for margin in new]

    monkeypatch.setattr(search_module._Jobs, "trained", trained)
    words = ["hydra/sweeper=optuna", "tcm.negative_margin=interval(0,1)", "tcm.positive_weight=1"]
    words += ["tcm.negative_weight=1"]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        search_module.search(
            config, BasicLauncher(), n_trials=40, at_once=4, n_startup_trials=10, seed=0, tolerance=TOLERANCE
        )
    assert len(margins) == 40
    last = np.array(margins[-20:])
    assert np.median(np.abs(last - 0.5)) < 0.1  # of numbers drawn by chance 0.25
    assert np.mean(last < 0.5) > 0.5  # by OPIS alone it would go to 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tcm.negative_margin=0.5", "tcm.positive_weight=1.0", "tcm.negative_weight=1"], "give one a range"),
        ([*RANGES, "tcm=none"], "trains the baseline beside TCM by itself"),
        ([*RANGES, "data.loader.validation_classes=0"], "held out: give data.loader.validation_classes=N"),
        ([*RANGES, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials must be a whole number of at least 1, got 0"),
        ([*RANGES, "optim.optimizer.lr=-1"], "optim.optimizer.lr"),
        (["tcm.negative_margin=interval(0.95,0.99)", "hydra.sweeper.n_trials=2"], "tcm.positive_margin"),
        ([*RANGES, "loss=smooth_ap,rs_at_k"], "give one value of loss, and search once for each"),
        ([*RANGES, "optim.optimizer.lr=interval(1e-4,1e-3)"], "give one value of optim.optimizer.lr"),
        (["tcm.negative_margin=interval(0.8,0.3)"], "tcm.negative_margin=interval(0.8,0.3): "),
        (["tcm.negative_margin=shuffle(0.3,0.4)"], "it would be another search each time"),
        ([*RANGES, "hydra.sweeper.seed=x"], "hydra.sweeper.seed must be a whole number of at least 0, got 'x'"),
        ([*RANGES, "hydra.sweeper.tolerance=2"], "hydra.sweeper.tolerance must be a fraction"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_a_sentence(words, sentence, vectors, tmp_path):
    ran = search(tmp_path, vectors, *words)
    assert ran.status == 2
    assert re.search(re.escape(sentence), ran.stderr), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "runs").exists()


def test_a_setting_that_cannot_be_is_left_out_and_the_search_goes_on(vectors, tmp_path):
    words = [
        "tcm.negative_margin=0.3,0.95",
        "tcm.positive_weight=1.0",
        "tcm.negative_weight=1.0",
        "hydra.sweeper.at_once=1",
    ]
    ran = search(tmp_path, vectors, *words, "hydra.sweeper.n_trials=6")
    assert ran.status == 0, ran.stderr
    assert "left out: tcm.negative_margin=0.95" in ran.stderr
    assert [row.choices["tcm"] for row in rows(tmp_path).values()].count("none") == 1
    assert len(rows(tmp_path)) == 2


def test_a_search_waits_for_its_runs_to_end_before_it_goes_on(found, vectors, tmp_path, monkeypatch):
    """Of a run that was killed the score is not known, so what follows is not either."""
    output = shutil.copytree(found, tmp_path / "copy")
    killed = next(name for name, row in rows(output).items() if row.choices["tcm"] != "none")
    for file in (output / "runs" / killed).iterdir():
        file.unlink()
    monkeypatch.setattr(sweep, "_display", None)

    class Leaves(BasicLauncher):
        """Jobs that die before they have a row."""

        def launch(self, job_overrides, initial_job_idx):
            return []

    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        words = [*command(output, *head(vectors), *HELD_OUT, *SEARCH, *RANGES, "seed=0,1")[2:], "hydra.mode=MULTIRUN"]
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN)
        config.hydra.runtime.output_dir = str(output)
        where = search_module.space(search_module.sweep_words(config))
        jobs = search_module._Jobs(config, Leaves(), where, 4)
        settings = [word for word in rows(found)[killed].words if word.startswith("tcm.")]
        assert jobs.trained([settings]) is None
        sweep._display.finish()


def test_another_tolerance_reaches_the_choice(vectors, tmp_path):
    ran = search(tmp_path, vectors, *RANGES, "hydra.sweeper.tolerance=0.5", "hydra.sweeper.n_trials=2")
    assert ran.status == 0, ran.stderr
    assert "at most 50 points below" in (tmp_path / "report" / "found-choice.md").read_text()


def test_what_an_earlier_search_has_tried_stays_in_the_report(found, vectors, tmp_path):
    output = shutil.copytree(found, tmp_path / "copy")
    ran = search(output, vectors, *RANGES, "seed=0,1", "hydra.sweeper.n_trials=2")
    assert ran.status == 0, ran.stderr
    assert (output / "report" / "found-choice.csv").read_bytes() == (found / "report" / "found-choice.csv").read_bytes()
