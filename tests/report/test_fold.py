"""Folding runs to comparisons: pairing, averaging, and nothing dropped in silence."""

import math

import pytest

from tcm_bench.report.fold import columns, fold
from tcm_bench.results.ledger import Run

SCORES = ("recall_at_1", "opis", "opis_10pct")


def only_row(found):
    (row,) = found.rows.to_dict("records")
    return row


def test_one_seed_gives_the_values_of_its_two_runs(run):
    found = fold([run("none", opis=0.030, opis_seen=0.009), run("paper", opis=0.024, opis_seen=0.007)])
    row = only_row(found)
    assert (row["data"], row["backbone"], row["loss"], row["tcm"]) == ("emoji", "resnet50", "smooth_ap", "paper")
    assert (row["seeds"], row["opis_base"], row["opis_tcm"], row["recall_at_1_before"]) == (1, 0.030, 0.024, 0.4)
    assert (row["opis_seen_base"], row["opis_seen_tcm"]) == (0.009, 0.007)
    assert math.isnan(row["recall_at_1_seen_base"])
    assert math.isnan(row["opis_change_low"])  # an interval takes two seeds
    assert found.notes == ()
    assert found.commits == ("0123456789",)


def test_the_interval_is_that_of_paired_differences(run):
    """Differences -1, -2, -3 e-3: mean -2, deviation 1, and t(0.975, 2) = 4.302653."""
    base, tcm = [0.030, 0.040, 0.050], [0.029, 0.038, 0.047]
    runs = [run("none", seed, opis=value) for seed, value in enumerate(base)]
    runs += [run("paper", seed, opis=value) for seed, value in enumerate(tcm)]
    row = only_row(fold(reversed(runs)))  # in whatever order they come
    assert row["seeds"] == 3
    assert row["opis_base"] == pytest.approx(0.040, rel=1e-12)
    assert row["opis_tcm"] == pytest.approx(0.038, rel=1e-12)
    half = 4.302652729911275e-3 / math.sqrt(3)
    assert row["opis_change_low"] == pytest.approx(-0.002 - half, rel=1e-9)
    assert row["opis_change_high"] == pytest.approx(-0.002 + half, rel=1e-9)


def test_only_seeds_that_both_arms_have_are_averaged(run):
    runs = [run("none", seed, opis=value) for seed, value in enumerate((0.02, 0.04, 0.90))]
    runs += [run("paper", seed, opis=value) for seed, value in ((1, 0.03), (0, 0.01), (7, 0.80))]
    found = fold(runs)
    row = only_row(found)
    assert (row["seeds"], row["opis_base"], row["opis_tcm"]) == (2, pytest.approx(0.03), pytest.approx(0.02))
    assert found.notes == (
        "emoji resnet50 smooth_ap: seed 2 has a finished run with tcm=none only, left out",
        "emoji resnet50 smooth_ap: seed 7 has a finished run with tcm=paper only, left out",
    )


@pytest.mark.parametrize("present", ["none", "paper"])
def test_a_missing_arm_leaves_a_row_without_values(run, present):
    found = fold([run(present)])
    row = only_row(found)
    assert row["seeds"] == 0
    assert all(math.isnan(row[column]) for column in columns(SCORES)[4:11])
    assert [present in note for note in found.notes] == [True]


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_an_undefined_seed_makes_the_mean_undefined_and_is_named(run, undefined):
    reason = "degenerate calibration range"
    runs = [run("none", 0), run("none", 1), run("paper", 0)]
    runs.append(run("paper", 1, opis=undefined, recall_at_1=0.6, row={"reason": reason}))
    found = fold(runs)
    row = only_row(found)
    assert row["opis_base"] == pytest.approx(0.03)
    assert math.isnan(row["opis_tcm"])
    assert math.isnan(row["opis_change_low"])
    assert row["recall_at_1_tcm"] == pytest.approx(0.55)
    (note,) = found.notes
    assert "tcm=paper seed=1" in note
    assert reason in note


def test_failed_and_interrupted_runs_are_named_with_their_reason(run):
    found = fold(
        [
            run("none"),
            run("paper", row={"status": "failed", "reason": "ValueError: no such thing"}),
            run("none", 1, row={"status": "interrupted", "reason": "stopped by Ctrl-C"}),
        ]
    )
    assert only_row(found)["seeds"] == 0
    text = "\n".join(found.notes)
    assert "tcm=paper seed=0: failed, ValueError: no such thing" in text
    assert "tcm=none seed=1: interrupted, stopped by Ctrl-C" in text


def test_planned_runs_without_a_row_are_shown_in_the_order_planned(run):
    def plan(data, tcm, run_id):
        names = {"data": data, "backbone": "resnet50", "loss": "smooth_ap", "tcm": tcm, "seed": 0}
        return Run(run_id=run_id, comparison_id=base.comparison_id if data == "emoji" else "d" * 12, choices=names)

    base = run("none")
    planned = [plan("quickdraw", "none", "a" * 12), plan("quickdraw", "paper", "b" * 12)]
    planned += [plan("emoji", "none", base.run_id), plan("emoji", "paper", "c" * 12)]
    found = fold([base], planned)
    assert found.rows["data"].tolist() == ["quickdraw", "emoji"]
    assert found.rows["seeds"].tolist() == [0, 0]
    assert found.rows["tcm"].tolist() == ["paper", "paper"]
    assert next(note for note in found.notes if "no result yet" in note).startswith("data=quickdraw")
    assert sum("no result yet" in note for note in found.notes) == 3


def test_each_tcm_variant_is_compared_with_the_same_base(run):
    runs = [run("none", opis=0.04), run("paper", opis=0.03), run("wide", opis=0.05)]
    runs.append(run("paper", opis=0.02, choices={"tcm.negative_margin": "0.2"}))
    rows = fold(runs).rows
    assert rows["tcm"].tolist() == ["paper", "wide", "own negative_margin=0.2"]
    assert rows["opis_tcm"].tolist() == [0.03, 0.05, 0.02]
    assert rows["opis_base"].tolist() == [0.04] * 3


def test_old_rows_that_differ_beyond_their_names_are_told_apart(run):
    longer = {"comparison_id": "f" * 12}
    runs = [run("none"), run("paper"), run("none", 1, row=longer), run("paper", 1, row=longer)]
    rows = fold(runs).rows
    assert rows["seeds"].tolist() == [1, 1]  # never averaged into one
    assert len(set(rows["setting"])) == 2
    twin = run("paper", row={"run_id": "e" * 12}, opis=0.5)
    rows = fold([*runs[:2], twin]).rows
    assert rows["opis_tcm"].tolist() == [0.03, 0.5]
    assert rows["tcm"].tolist() == [f"paper run={runs[1].run_id}", f"paper run={twin.run_id}"]


def test_a_base_whose_margins_decide_nothing_serves_every_variant(run):
    def weighted(tcm, margin, weight, **row):
        tcm_science = {"negative_margin": margin, "positive_weight": weight, "negative_weight": weight}
        choices = {"tcm.negative_margin": str(margin)}
        return run(tcm, choices=choices, row={"science": {"tcm": tcm_science, "seed": 0}}, **row)

    runs = [
        weighted(*arm) for arm in (("none", 0.3, 0.0), ("none", 0.4, 0.0), ("paper", 0.3, 1.0), ("paper", 0.4, 1.0))
    ]
    found = fold(runs)
    assert found.rows["tcm"].tolist() == ["own negative_margin=0.3", "own negative_margin=0.4"]
    assert found.rows["seeds"].tolist() == [1, 1]
    assert found.notes == ()
    other = weighted("none", 0.4, 0.0, opis=0.9)
    (note,) = fold([runs[0], other, *runs[2:]]).notes
    assert f"runs {runs[0].run_id} and {other.run_id} are the same base" in note


def test_each_share_of_worst_classes_has_columns_of_its_own(run):
    found = fold([run(tcm, 0, data, opis_10pct=None) for data in ("emoji",) for tcm in ("none", "paper")])
    assert found.scores == SCORES
    runs = [run(tcm, 0, data) for data in ("emoji", "icons") for tcm in ("none", "paper")]
    wide = [
        one.model_copy(update={"metrics": {"recall_at_1": 0.5, "opis": 0.03, "opis_20pct": 0.2}}) for one in runs[:2]
    ]
    assert fold(wide).scores == ("recall_at_1", "opis", "opis_20pct")
    mixed = fold([*wide, *runs[2:]])
    assert mixed.scores == ("recall_at_1", "opis", "opis_20pct", "opis_10pct")
    assert mixed.rows["opis_20pct_base"].fillna(-1).tolist() == [0.2, -1]
    assert mixed.rows["opis_10pct_base"].fillna(-1).tolist() == [-1, 0.1]


def test_arms_of_different_settings_are_pointed_out(run):
    found = fold([run("none"), run("paper", threshold={"num_thresholds": 11})])
    assert [s["num_thresholds"] for s in found.settings] == [101, 11]


def test_seeds_whose_arms_saw_different_data_are_left_out(run):
    other = run("paper", 1, opis=0.001, row={"data_hash": "other"})
    found = fold([run("none"), run("paper", opis=0.02), run("none", 1), other])
    assert found.rows["seeds"].tolist() == [1]
    assert found.rows["opis_tcm"].tolist() == [0.02]
    assert found.notes == (
        "emoji resnet50 smooth_ap: the arms of seed 1 saw different data and cannot be compared, left out",
    )
    alone = fold([run("none", 1), other])
    assert alone.rows["opis_tcm"].isna().all()


def test_no_runs_give_no_rows_but_all_columns():
    found = fold([])
    assert found.rows.columns.tolist() == columns(SCORES)
    assert len(found.rows) == 0
