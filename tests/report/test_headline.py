"""The short table says what its rows say; that of the README is checked in tests/test_readme.py."""

import io

import pandas as pd

from tcm_bench.report.headline import headline


def rows(*changes):
    """A comparison for each change of OPIS; R@1 rises by half a point in the first and falls in the others."""
    made = []
    for number, opis in enumerate(changes):
        recall = 0.505 if number == 0 else 0.49
        made.append({
            "data": "kanji", "backbone": "vit", "loss": f"loss_{number}", "setting": "",
            "seeds": 3, "tcm": "chosen weight=1",
            "recall_at_1_base": 0.5, "recall_at_1_tcm": recall,
            "recall_at_1_change_low": recall - 0.501, "recall_at_1_change_high": recall - 0.499,
            "opis_base": 0.02, "opis_tcm": 0.02 + opis,
            "opis_change_low": opis - 0.001, "opis_change_high": opis + 0.001,
        })  # fmt: skip
    return pd.DataFrame(made)


def test_each_row_has_both_values_the_change_and_a_mark_if_it_is_sure():
    lines = headline(rows(-0.005, 0.0005, 0.004)).splitlines()
    assert lines[0] == "| data | backbone | loss | R@1 % | OPIS e-3 |"
    assert lines[2] == "| kanji | vit | loss_0 | 50.0 → 50.5 ↑ +0.5* | 20.0 → 15.0 ↓ -25.0%* |"
    assert lines[3] == "| kanji | vit | loss_1 | 50.0 → 49.0 ↓ -1.0* | 20.0 → 20.5 ↑ +2.5% |"


def test_the_sentences_count_what_became_better_and_what_of_it_is_sure():
    recall, opis = headline(rows(-0.005, -0.0005, 0.004)).splitlines()[-2:]
    assert recall == (
        "- R@1 rose in 1 of 3, between -1.0 and +0.5 points, mean -0.5; in 1 of them, and in 2 of the others, the 95 % "
        "interval leaves out 0."
    )
    assert opis == (
        "- OPIS fell in 2 of 3, between -25.0 and +20.0 %, mean -2.5; in 1 of them, and in 1 of the others, the 95 % "
        "interval leaves out 0."
    )


def test_several_kinds_of_tcm_are_told_apart():
    found = rows(-0.005, 0.0005)
    found.loc[1, "tcm"] = "paper"
    lines = headline(found).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:4]] == ["loss_0 (chosen)", "loss_1 (paper)"]
    of_opis = [line for line in lines if "OPIS changed" in line]
    assert of_opis[0].startswith("- chosen: OPIS changed by -25.0 %")
    assert of_opis[1].startswith("- paper: OPIS changed by +2.5 %")


def test_what_a_csv_leaves_empty_is_not_shown():
    found = rows(-0.005, 0.0005)
    assert headline(pd.read_csv(io.StringIO(found.to_csv(index=False)))) == headline(found)
    assert "nan" not in headline(found)


def test_settings_that_differ_are_told_apart():
    found = rows(-0.005, 0.0005)
    found["loss"], found["setting"] = "smooth_ap", ["split_seed=0", "split_seed=1"]
    lines = headline(found).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:4]] == ["smooth_ap split_seed=0", "smooth_ap split_seed=1"]


def test_without_an_arm_there_is_a_dash():
    one = rows(-0.005)
    one.loc[0, "opis_tcm"] = float("nan")
    assert headline(one).splitlines()[2].endswith("| 20.0 → – |")
