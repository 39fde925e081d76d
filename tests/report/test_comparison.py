"""The table people read and the csv others rely on."""

import csv
import io
import math

import pytest
from rich.console import Console

from tcm_bench.report.comparison import comparison_table, write_comparison
from tcm_bench.results.ledger import Run

DATA = ("quickdraw", "emoji", "icons", "kanji")
BACKBONES = ("resnet50_imgsim", "vit_small_imgfocus")
LOSSES = ("smooth_ap", "rs_at_k")


@pytest.fixture
def grid(run):
    """The 16 comparisons: OPIS falls by 10 % in all but kanji, where it rises by 10 %; R@1 rises by one point."""

    def make(seeds=1):
        return [
            run(
                tcm,
                seed,
                data,
                backbone,
                loss,
                recall_at_1=0.50 + (0.01 if tcm == "paper" else 0) + 0.001 * seed,
                opis=0.030 * (1 if tcm == "none" else 1.1 if data == "kanji" else 0.9) * (1 + 0.01 * seed),
                recall_at_1_seen=0.6,
                opis_seen=0.010 if tcm == "none" else 0.008,
                opis_10pct_seen=0.05,
            )
            for data in DATA
            for backbone in BACKBONES
            for loss in LOSSES
            for tcm in ("none", "paper")
            for seed in range(seeds)
        ]

    return make


def shown(table, width):
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def test_the_csv_keeps_its_contract(grid, tmp_path):
    path, *_ = write_comparison(grid(), tmp_path / "report", "mini")
    assert path == tmp_path / "report" / "mini.csv"
    header = path.read_text().splitlines()[0]
    assert header.startswith(
        "data,backbone,loss,seeds,recall_at_1_before,recall_at_1_base,recall_at_1_tcm,"
        "opis_base,opis_tcm,opis_10pct_base,opis_10pct_tcm,"
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 16
    assert [row["data"] for row in rows[::4]] == list(DATA)
    assert {row["seeds"] for row in rows} == {"1"}
    assert float(rows[0]["opis_tcm"]) == 0.030 * 0.9  # fractions, every digit
    assert rows[0]["recall_at_1_before"] == "0.4"
    assert rows[0]["opis_change_low"] == ""


def test_the_report_shows_values_changes_and_counts(grid, tmp_path):
    _, path, _ = write_comparison(grid(), tmp_path, "mini")
    text = path.read_text()
    assert "| emoji | vit_small_imgfocus | rs_at_k | 1 | 40.0 | 50.0 → 51.0 ↑ +1.0 | 30.0 → 27.0 ↓ -10.0% |" in text
    assert "| kanji | resnet50_imgsim | smooth_ap | 1 | 40.0 | 50.0 → 51.0 ↑ +1.0 | 30.0 → 33.0 ↑ +10.0% |" in text
    assert "100.0 → 100.0 = +0.0%" in text
    # base 30, TCM (12 x 27 + 4 x 33) / 16 = 28.5: the change of the means is -5 %
    assert "| **mean** |  |  |  | **40.0** | **50.0 → 51.0 ↑ +1.0** | **30.0 → 28.5 ↓ -5.0%** |" in text
    assert "| OPIS fell in 12 of 16, between -10.0 and +10.0 %, mean -5.0 | OPIS fell in 16 of 16, by up to" in text
    assert "| R@1 rose in 16 of 16, between +1.0 and +1.0 points, mean +1.0 | R@1 rose in 14 of 16" in text
    assert "| 10%-OPIS fell in 0 of 16, between +0.0 and +0.0 %, mean +0.0 | – |" in text
    seen = text.split("## Seen classes")[1]
    assert seen.count("| 60.0 → 60.0 = +0.0 | 10.0 → 8.0 ↓ -20.0% | 50.0 → 50.0 = +0.0% |") == 16
    assert "axis distance, far_bounds [0.01, 0.1], num_thresholds 101, c 1.0, eps 0.1, ranking mean" in text
    assert "code: 0123456789" in text
    for absent in ("Warning", "interval", "## Runs", "nan"):
        assert absent not in text


def test_the_report_says_what_it_is_not(grid, run, tmp_path):
    _, mini, _ = write_comparison(grid(), tmp_path, "mini")
    assert (
        "Not the article's tables:** quickdraw, emoji, icons and kanji are none of its benchmarks" in mini.read_text()
    )
    assert "Fewer than 3 seeds" in mini.read_text()
    benchmark = [run(tcm, seed, "cub") for tcm in ("none", "paper") for seed in range(3)]
    _, paper, _ = write_comparison(benchmark, tmp_path, "paper")
    assert "Not the article's tables" not in paper.read_text()
    assert "Fewer than 3 seeds" not in paper.read_text()


def test_several_seeds_add_intervals_and_mark_what_they_bear_out(run, tmp_path):
    base, clear, unclear = (0.030, 0.040, 0.050), (0.0199, 0.030, 0.0401), (0.029, 0.038, 0.047)
    values = {"quickdraw": clear, "emoji": clear, "icons": unclear}
    runs = [run("none", seed, data, opis=base[seed]) for data in values for seed in range(3)]
    runs += [run("paper", seed, data, opis=tcm[seed]) for data, tcm in values.items() for seed in range(3)]
    _, path, _ = write_comparison(runs, tmp_path, "mini")
    text = path.read_text()
    assert "40.0 → 30.0 ↓ -25.0%* |" in text  # -10 +- 0.25 e-3
    assert "40.0 → 38.0 ↓ -5.0% |" in text  # -2 +- 2.48 e-3
    assert (
        "OPIS fell in 3 of 3, between -25.0 and -5.0 %, mean -18.3; in 2 of them, and in 0 of the others, the 95 % "
        "interval leaves out 0" in text
    )
    assert "| emoji | resnet50 | smooth_ap | 3 | +0.00 [+0.00, +0.00] | -10.00 [-10.25, -9.75] |" in text
    assert "-2.00 [-4.48, +0.48]" in text


def test_incomplete_comparisons_are_dashes_with_their_reason(run, tmp_path):
    runs = [run("none"), run("paper"), run("none", data="icons"), run("paper", data="kanji", opis=None)]
    runs += [
        run("none", data="kanji", opis=0.09),
        run("paper", data="icons", row={"status": "failed", "reason": "disk\nfull [/x]"}),
    ]
    planned = [*runs, Run(run_id="d" * 12, comparison_id="d", choices={**runs[0].choices, "data": "quickdraw"})]
    table, path, _ = write_comparison(runs, tmp_path, "mini", planned)
    text = path.read_text()
    assert "| icons | resnet50 | smooth_ap | 0 | – | – | – | – |" in text
    assert "| quickdraw | resnet50 | smooth_ap | 0 | – | – | – | – |" in text
    assert "| 90.0 → – |" in text
    assert "**30.0 → 30.0 = +0.0%** | **100.0" in text  # the mean is over rows that have both arms
    assert "OPIS fell in 0 of 4 (3 without a value), between +0.0 and +0.0 %" in text
    assert "R@1 rose in 0 of 4 (2 without a value)" in text
    assert "loss=smooth_ap tcm=paper seed=0: failed, disk full [/x] (run" in text
    assert "no result yet (run dddddddddddd)" in text
    assert len(list(csv.reader(table.read_text().splitlines()))) == 5
    assert "disk full [/x]" in shown(comparison_table(runs, planned), 120)


def test_the_mean_of_the_table_is_the_one_that_the_claims_state(run, tmp_path):
    """OPIS 10 -> 5 and 100 -> 110: mean of the changes -20 %, while that of the values, 55 -> 57.5, has risen."""
    values = {"emoji": (0.01, 0.005), "icons": (0.1, 0.11)}
    runs = [run(tcm, 0, data, opis=pair[tcm == "paper"]) for data, pair in values.items() for tcm in ("none", "paper")]
    _, path, _ = write_comparison(runs, tmp_path, "mini")
    assert "OPIS fell in 1 of 2, between -50.0 and +10.0 %, mean -20.0 |" in path.read_text()
    assert "| **55.0 → 57.5 ↓ -20.0%** |" in path.read_text()
    text = shown(comparison_table(runs), 120)
    assert "55.0 → 57.5 ↓ -20.0%" in text
    for said in (path.read_text(), text):
        assert "mean: of the values and of the changes of the rows that have both arms" in said


def test_another_share_of_worst_classes_is_titled_by_it_and_needs_no_warning(run, tmp_path):
    runs = [run(tcm, 0, data) for data in ("emoji", "icons") for tcm in ("none", "paper")]
    settings = {**runs[0].threshold, "eps": 0.2}
    other = {"metrics": {"recall_at_1": 0.5, "opis": 0.03, "opis_20pct": 0.2}, "threshold": settings}
    runs[:2] = [one.model_copy(update=other) for one in runs[:2]]
    _, path, _ = write_comparison(runs, tmp_path, "mini")
    text = path.read_text()
    assert "| 20%-OPIS e-3 base → TCM | 10%-OPIS e-3 base → TCM |" in text
    assert "| 200.0 → 200.0 = +0.0% | – |" in text
    assert "| – | 100.0 → 100.0 = +0.0% |" in text
    assert "20%-OPIS fell in 0 of 2 (1 without a value)" in text
    assert "Warning" not in text
    for width in (80, 150):
        assert "20%-OPIS e-3" in shown(comparison_table(runs, width=width), width)


def test_runs_with_other_settings_are_warned_of(run, tmp_path):
    runs = [run("none"), run("paper", threshold={"axis": "similarity"})]
    _, path, _ = write_comparison(runs, tmp_path, "mini")
    assert "**Warning:** the runs measured OPIS with different settings (axis)" in path.read_text()
    assert "different settings (axis)" in shown(comparison_table(runs), 120)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_base_of_zero_or_nan_has_no_relative_change(run, tmp_path, value):
    _, path, _ = write_comparison([run("none", opis=value), run("paper", opis=0.001)], tmp_path, "x")
    assert ("0.0 → 1.0 ↑ |" if value == 0 else "| – → 1.0 |") in path.read_text()


def test_variants_are_named_in_the_table(run, tmp_path):
    _, path, _ = write_comparison([run("none"), run("paper"), run("wide")], tmp_path, "margins")
    assert "| smooth_ap (paper) | 1 |" in path.read_text()
    assert "| smooth_ap (wide) | 1 |" in path.read_text()


def test_values_of_tcm_are_told_among_the_settings_where_its_name_is_enough_for_the_table(run, tmp_path):
    def arm(loss, tcm, weight=1.0, margin=0.5):
        terms = {"positive_weight": weight, "negative_weight": weight, "negative_margin": margin}
        row = {"science": {"loss": loss, "tcm": terms}, "comparison_id": loss, "run_id": f"{loss}-{weight}-{margin}"}
        return run(tcm, loss=loss, choices={"tcm.negative_margin": str(margin)}, row=row)

    arms = [arm(loss, "none", weight=0.0) for loss in ("smooth_ap", "rs_at_k")]
    arms += [arm("smooth_ap", "chosen", margin=0.4), arm("rs_at_k", "chosen", margin=0.6)]
    text = write_comparison(arms, tmp_path, "x")[1].read_text()
    assert "| smooth_ap | 1 |" in text
    assert "- TCM on emoji resnet50: chosen negative_margin=0.4\n" in text
    assert "- TCM on emoji resnet50: chosen negative_margin=0.6\n" in text
    text = write_comparison([*arms, arm("smooth_ap", "chosen", margin=0.6)], tmp_path, "y")[1].read_text()
    assert "| smooth_ap (chosen negative_margin=0.4) | 1 |" in text
    assert "- TCM on" not in text


def test_no_runs_make_an_empty_report(tmp_path):
    table, path, _ = write_comparison([], tmp_path, "empty")
    assert len(table.read_text().splitlines()) == 1
    assert "no finished run" in path.read_text()
    assert "OPIS is known of both arms in none of 0" in shown(comparison_table([]), 80)


@pytest.mark.parametrize(("width", "lines"), [(120, 1), (80, 2)])
def test_the_terminal_table_fits(grid, width, lines):
    text = shown(comparison_table(grid(seeds=3), width=width), width).splitlines()
    first = next(i for i, line in enumerate(text) if line.startswith("quickdraw"))
    block = text[first : first + 16 * lines]
    assert [line.split()[0] for line in block[:: 4 * lines]] == list(DATA)
    assert all("30.3 →" in line for line in block[::lines])  # no cell is cut or broken elsewhere
    assert all("↑ +1.0*" in line for line in block[lines - 1 :: lines])
    assert any("OPIS fell in 12 of 16" in line for line in text)


def test_colors_tell_better_from_worse_for_each_metric(run):
    runs = [run("none"), run("paper", recall_at_1=0.4, opis=0.02)]
    file = io.StringIO()
    Console(file=file, width=120, force_terminal=True, color_system="standard", no_color=False).print(
        comparison_table(runs)
    )
    green, red = "\x1b[32m", "\x1b[31m"
    assert f"{red}↓ -10.0" in file.getvalue()
    assert f"{green}↓ -33.3%" in file.getvalue()
