"""`tcm-bench plan`: what a sweep would take, from what has run and from what recipes state."""

import pytest
from command_line import numbers, sentence, tcm_bench

from tcm_bench.results import ledger
from tcm_bench.runs.planning import sweep_plan

TWO = ["mini", "+evidence=head_icons_vit,head_kanji_vit", "loss=smooth_ap"]
ROW = {"started": "2026-01-01T00:00:00+00:00", "peak_mem_gib": 1, "threads": 1, "versions": {}, "git": {}}


def test_nothing_is_known_before_the_first_run_and_little_of_others(tmp_path):
    words = ["plan", *TWO, "seed=0,1", "--jobs", "4", "--output-dir", tmp_path]
    before = numbers(*words)
    assert (before["jobs"], before["finished"], before["not_known"]) == (8, 0, 8)
    assert before["gpu_hours"] == before["wall_hours"] == before["disk_gb"] == 0
    assert before["missing"] == {"data": [], "weights": [], "targets": []}
    assert {run["state"] for run in before["runs"]} == {"absent"}

    icons = [run for run in before["runs"] if run["choices"]["data"] == "icons"]
    for run in icons[:2]:
        known = {"run_id": run["run_id"], "comparison_id": "c" * 12, "choices": run["choices"], "wall_s": 3600}
        ledger.write_result(tmp_path / "runs" / run["run_id"], ledger.Result(status="finished", **known, **ROW))
    after = numbers(*words)
    assert (after["finished"], after["not_known"]) == (2, 6)  # of another comparison, so they tell nothing of these


def test_measured_hours_are_those_of_the_same_comparison(tmp_path):
    listed = sweep_plan(TWO[0], [*TWO[1:], "seed=0,1"])
    from tcm_bench.runs.naming import composed, plan

    for tcm, wall_s in (("none", 3600), ("chosen", 7200)):
        cfg = composed("+sweep=mini", "+evidence=head_icons_vit", "loss=smooth_ap", f"tcm={tcm}", "seed=0")
        run = plan(cfg, {"tcm": tcm})
        assert run.run_id in {one.run_id for one in listed.runs}
        ledger.write_result(
            tmp_path / "runs" / run.run_id, ledger.Result(**dict(run), status="finished", wall_s=wall_s, **ROW)
        )
    found = numbers("plan", *TWO, "seed=0,1", "--jobs", "2", "--output-dir", tmp_path)
    assert (found["finished"], found["not_known"], found["parallel"]) == (2, 4, 2)
    assert [run["hours"] for run in found["runs"] if run["source"] == "measured"] == [1.5] * 4
    assert (found["gpu_hours"], found["wall_hours"]) == (3.0, 1.5)  # the other seed's two
    assert found["disk_gb"] > 0

    damaged, *others = (run["run_id"] for run in found["runs"] if run["state"] == "absent")
    (tmp_path / "runs" / damaged).mkdir()
    (tmp_path / "runs" / damaged / ledger.RESULT).write_text("{")
    for name in ("foreign", "empty"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "foreign" / ledger.RESULT).write_text('{"accuracy": 1}')
    again = numbers("plan", *TWO, "seed=0,1", "--jobs", "2", "--output-dir", tmp_path)
    assert (again["finished"], again["gpu_hours"]) == (2, 3.0)
    states = {run["run_id"]: run["state"] for run in again["runs"]}
    assert states[damaged] == "unreadable"
    assert {states[name] for name in others} == {"absent"}


def test_the_papers_cells_state_their_cost_and_what_is_missing_is_told(tmp_path):
    places = [f"paths.data_dir={tmp_path}", f"data.root={tmp_path / 'nowhere'}"]
    found = numbers("plan", "paper", "+experiment=cub_resnet50_smooth_ap", *places, "--output-dir", tmp_path)
    assert (found["jobs"], found["memory_gb"], found["not_known"]) == (2, 6, 0)
    assert found["gpu_hours"] == pytest.approx(0.6)
    assert "tcm-bench data prepare cub" in found["missing"]["data"][0]
    done = tcm_bench("plan", "paper", "+experiment=cub_resnet50_smooth_ap", *places, "--output-dir", tmp_path)
    assert "paper: 2 runs, 0 finished" in done.stdout
    assert "up to 6 GB of a GPU" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["minni"], "did you mean 'mini'"),
        (["mini", "sed=3"], "did you mean 'seed'"),
        (["mini", "tcm=papper"], "did you mean 'paper'"),
        (["mini", "+evidence=glob(nothing_*)"], "this sweep has no job"),
    ],
)
def test_a_typo_is_a_sentence(words, said):
    assert said in sentence("plan", *words)
