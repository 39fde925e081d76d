"""Runs, stored evaluations and files of vectors: `evaluate`, `compare` and `curves` take any of them."""

import numpy as np
import pytest
from command_line import numbers, sentence, tcm_bench
from composition import composition
from vectors import SMALL, head, write_vectors

from tcm_bench.report.curves import utility_figure
from tcm_bench.report.source import source
from tcm_bench.results import ledger
from tcm_bench.runs.run import execute

OWN = {
    "axis": "similarity",
    "far_bounds": [0.05, 0.5],
    "further_far_bounds": [[0.02, 0.2]],
    "num_thresholds": 7,
    "c": 2.0,
    "eps": 0.25,
    "ranking": "pointwise",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two runs on small vectors that are measured in a way of their own, and their folders."""
    folder = tmp_path_factory.mktemp("outputs")
    metric = [f"metrics.evaluation.{key}={str(value).replace(' ', '')}" for key, value in OWN.items()]
    metric += ["metrics.evaluation.ks=[1,3]", "metrics.evaluation.far_levels=[0.02]"]
    file = write_vectors(folder)
    return folder, *(trained(folder, *head(file), *metric, f"tcm={tcm}") for tcm in ("none", "paper"))


def trained(folder, *overrides):
    """The folder of a run."""
    words = [*SMALL, *overrides, f"paths.output_dir={folder}"]
    cfg, chosen = composition(*words)
    assert execute(cfg, chosen).status == "finished"
    return folder / "runs" / cfg.run_id


def test_a_run_is_evaluated_as_its_configuration_says(outputs):
    folder, run, _ = outputs
    found = numbers("evaluate", run.name, "--output-dir", folder)
    assert found["settings"] == OWN
    assert found["settings_of"] == str(run / "config.yaml")
    assert found["settings_given"] == []
    row = ledger.read_result(run)
    for name in ("recall_at_1", "recall_at_3", "opis", "opis_25pct", "tar_at_far_2pct"):
        assert found[name] == pytest.approx(row.metrics[name], rel=1e-12), name
    assert "recall_at_2" not in found


def test_a_given_option_counts_for_more_and_is_named(outputs):
    _, run, _ = outputs
    words = ("evaluate", run, "--num-thresholds", 5, "--k", "2", "--tar-at-far", "")
    found = numbers(*words)
    assert found["settings"] == OWN | {"num_thresholds": 5}
    assert found["settings_given"] == ["far_levels", "ks", "num_thresholds"]
    assert "recall_at_2" in found
    assert not {"recall_at_1", "tar_at_far_2pct"} & set(found)
    line = next(line for line in tcm_bench(*words).stdout.splitlines() if line.startswith("settings: "))
    ranges = "far_bounds 0.05 to 0.5, further_far_bounds 0.02 to 0.2"
    assert f"axis similarity, {ranges}, num_thresholds 5, c 2.0, eps 0.25, ranking pointwise" in line
    assert line.endswith(f"those of {run / 'config.yaml'}; as given: ks, num_thresholds, far_levels")


def test_a_run_without_its_configuration_is_evaluated_as_its_row_says(outputs, tmp_path):
    _, run, _ = outputs
    for name in (ledger.RESULT, ledger.EMBEDDINGS):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert numbers("evaluate", tmp_path)["settings"] == OWN


@pytest.mark.parametrize("text", ["metrics: [", "metrics: 3", "{}", "metrics: {evaluation: {_target_: 1, x: }", ""])
def test_a_damaged_configuration_is_a_sentence(outputs, tmp_path, text):
    _, run, _ = outputs
    (tmp_path / ledger.EMBEDDINGS).write_bytes((run / ledger.EMBEDDINGS).read_bytes())
    (tmp_path / ledger.CONFIG).write_text(text)
    assert f"{tmp_path / ledger.CONFIG} is not the configuration of a run" in sentence("evaluate", tmp_path)


def kinds(outputs, tmp_path):
    """One network in every way in which it can be named."""
    _, run, _ = outputs
    numbers("evaluate", run, "--out", tmp_path / "stored")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((run / ledger.EMBEDDINGS).read_bytes())
    return {"id": run.name, "start": run.name[:11], "folder": run, "stored": tmp_path / "stored", "vectors": copy}


def test_evaluate_takes_every_kind(outputs, tmp_path):
    folder, run, _ = outputs
    expected = numbers("evaluate", run)
    for kind, given in kinds(outputs, tmp_path).items():
        found = numbers("evaluate", given, "--output-dir", folder)
        if kind == "vectors":
            assert (found["settings_of"], found["settings"]["axis"]) == (None, "distance")
        else:
            assert {name: found[name] for name in ("opis", "intervals", "settings")} == {
                name: expected[name] for name in ("opis", "intervals", "settings")
            }


def test_compare_takes_every_kind_and_measures_a_file_as_the_other_side_was(outputs, tmp_path):
    folder, run, other = outputs
    expected = numbers("compare", run, other)["scores"]
    assert set(expected) == {"recall_at_1", "recall_at_3", "opis", "opis_25pct"}
    for given in kinds(outputs, tmp_path).values():
        assert numbers("compare", given, other.name, "--output-dir", folder)["scores"] == expected
    mirrored = numbers("compare", other, tmp_path / "copy.safetensors")["scores"]
    assert mirrored["opis"]["difference"] == pytest.approx(-expected["opis"]["difference"])


def test_two_files_are_compared_by_the_defaults(outputs, tmp_path):
    files = []
    for number, run in enumerate(outputs[1:]):
        files.append(tmp_path / f"{number}.safetensors")
        files[-1].write_bytes((run / ledger.EMBEDDINGS).read_bytes())
    found = numbers("compare", *files)
    assert list(found["scores"]) == ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "opis", "opis_10pct"]
    assert (found["base"], found["other"]) == tuple(map(str, files))


def test_curves_takes_every_kind(outputs, tmp_path):
    folder, _, other = outputs
    means = {}
    for kind, given in kinds(outputs, tmp_path).items():
        out = tmp_path / f"{kind}.png"
        done = tcm_bench("curves", given, other, "--out", out, "--output-dir", folder)
        assert done.exit_code == 0, done.output
        assert out.stat().st_size > 5_000
        panel = utility_figure(source(str(given), folder), source(str(other), folder)).axes[0]
        *_, mean, low, high = panel.lines
        means[kind] = {"curve": mean.get_xydata(), "ends": (low.get_xdata()[0], high.get_xdata()[0])}
        assert panel.get_title().startswith(
            {"stored": "stored\n", "vectors": "copy.safetensors\n"}.get(kind, "without")
        )
    for kind, drawn in means.items():
        assert drawn["ends"] == pytest.approx(means["id"]["ends"], rel=1e-12)
        if kind == "stored":  # it has nothing beyond its calibration range, and seven points in it
            assert drawn["curve"][:, 0] == pytest.approx(np.linspace(*drawn["ends"], 7))
            x, y = means["id"]["curve"].T
            assert np.abs(np.interp(drawn["curve"][:, 0], x, y) - drawn["curve"][:, 1]).max() < 0.02
        else:
            np.testing.assert_array_equal(drawn["curve"], means["id"]["curve"])


@pytest.mark.parametrize("command", ["evaluate", "compare", "curves"])
def test_what_is_none_of_them_is_the_same_sentence_everywhere(outputs, tmp_path, command):
    folder, run, _ = outputs
    (tmp_path / "empty").mkdir()
    more = {"evaluate": [], "compare": [run], "curves": [run, "--out", tmp_path / "x.png"]}[command]
    for given, expected in {
        "zz": "there is no run 'zz'",
        "": "is no run's folder; give a run (its id,",
        tmp_path / "empty": f"there is no evaluation in {tmp_path / 'empty'}, and it is no run's folder; give a run",
        tmp_path / "none.npz": f"there is no file {tmp_path / 'none.npz'}; give a run (its id,",
        folder / "mine.npz" / "x": "there is no file",
    }.items():
        assert expected in sentence(command, given, *more, "--output-dir", folder)


def test_one_file_serves_training_and_evaluation_under_either_name(tmp_path):
    with np.load(write_vectors(tmp_path)) as held:
        features, labels = held["features"], held["labels"]
    np.savez(tmp_path / "embeddings.npz", embeddings=features, labels=labels)
    np.save(tmp_path / "x.npy", features)
    (tmp_path / "y.txt").write_text("\n".join(map(str, labels)))
    rows = [
        ledger.read_result(trained(tmp_path, *head(tmp_path / name), *more))
        for name, *more in (("mine.npz",), ("embeddings.npz",), ("x.npy", f"data.labels={tmp_path / 'y.txt'}"))
    ]
    assert rows[0].metrics == rows[1].metrics == rows[2].metrics
    assert len({row.run_id for row in rows}) == 3
    found = [
        numbers("evaluate", tmp_path / name, *more)
        for name, *more in (("mine.npz",), ("embeddings.npz",), ("x.npy", "--labels", tmp_path / "y.txt"))
    ]
    assert found[0]["opis"] == found[1]["opis"] == found[2]["opis"]


def test_a_stored_evaluation_cannot_be_measured_anew(outputs, tmp_path):
    numbers("evaluate", outputs[1], "--out", tmp_path)
    for words in (["--num-thresholds", 5], ["--out", tmp_path / "more"], ["--labels", "y.txt"]):
        assert "to measure anew give what it was made from" in sentence("evaluate", tmp_path, *words)
    assert not (tmp_path / "more").exists()
