"""Accuracy against consistency: the right points, arrows and fronts, and sentences that count them."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tcm_bench.report.fold import fold
from tcm_bench.report.pareto import front, pareto_claims, pareto_figure, write_pareto_figure

PLACES = {  # loss and batch: R@1 and OPIS without TCM, and with it
    ("smooth_ap", 8): ((0.70, 0.020), (0.72, 0.010)),
    ("smooth_ap", 16): ((0.75, 0.030), (0.74, 0.012)),
    ("triplet", 8): ((0.60, 0.025), (0.65, 0.026)),
    ("triplet", 16): ((0.65, 0.015), (0.64, 0.016)),
}


@pytest.fixture
def rows(run):
    """Four comparisons of one set."""

    def arm(tcm, loss, batch, place):
        values = {"comparison_id": f"{loss}{batch}", "science": {"data": {"classes": batch}}}
        choices = {"data.classes": batch}
        return run(tcm, loss=loss, choices=choices, row=values, recall_at_1=place[0], opis=place[1])

    runs = [
        arm(tcm, *key, place)
        for key, places in PLACES.items()
        for tcm, place in zip(("none", "paper"), places, strict=True)
    ]
    return fold(runs).rows


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_point_beats(points):
    recall, opis = np.array(points, dtype=float).T
    found = front(recall, opis)
    assert (np.diff(recall[found]) > 0).all()
    assert (np.diff(opis[found]) > 0).all()
    reached = {(recall[one], opis[one]) for one in found}
    for x, y in points:
        beaten = any(a >= x and b <= y and (a, b) != (x, y) for a, b in points)
        assert ((x, y) in reached) is not beaten


def test_the_figure_has_a_point_for_each_arm_an_arrow_for_each_comparison_and_two_fronts(rows):
    (panel,) = pareto_figure(rows).axes
    assert panel.get_title() == "emoji, resnet50"
    drawn = {tuple(np.round(dots.get_offsets()[0], 9)) for dots in panel.collections}
    expected = {(100 * x, 1000 * y) for places in PLACES.values() for x, y in places}
    assert drawn == {tuple(np.round(place, 9)) for place in expected}
    arrows = [(note.xyann, note.xy) for note in panel.texts]
    assert len(arrows) == 4
    assert ((70.0, 20.0), (72.0, 10.0)) in [tuple(tuple(np.round(end, 9)) for end in arrow) for arrow in arrows]
    base, tcm = panel.lines
    assert np.round(base.get_xydata(), 9).tolist() == [[65, 15], [70, 20], [75, 30]]
    assert np.round(tcm.get_xydata(), 9).tolist() == [[72, 10], [74, 12]]
    assert base.get_drawstyle() == tcm.get_drawstyle() == "steps-pre"
    assert base.get_color() != tcm.get_color()


def test_shape_is_the_loss_size_the_batch_and_color_the_arm(rows):
    figure = pareto_figure(rows)
    (panel,) = figure.axes
    found = {
        tuple(np.round(dots.get_offsets()[0], 9)): (
            dots.get_paths()[0].vertices.shape[0], dots.get_sizes()[0], tuple(dots.get_facecolor()[0][:3])
        )
        for dots in panel.collections
    }  # fmt: skip
    (small, large) = (found[70, 20], found[75, 30])
    assert small[0] == large[0] != found[60, 25][0]
    assert small[1] == found[60, 25][1] < large[1]
    assert small[2] == large[2] != found[72, 10][2]
    (legend,) = figure.legends
    words = ["without TCM", "TCM paper", "smooth_ap", "triplet", "classes=8", "classes=16"]
    assert [text.get_text() for text in legend.get_texts()] == words


def test_the_sentences_count_what_the_figure_shows(rows):
    base, tcm = pareto_claims(rows)
    assert base == (
        "emoji, resnet50: of 4 baselines the highest R@1 has 75.0 % and 30.0e-3 (smooth_ap classes=16), the least OPIS "
        "65.0 % and 15.0e-3 (triplet classes=16); 3 make the front; rank correlation of R@1 and OPIS +0.40"
    )
    assert tcm == (
        "TCM paper: of 4 2 have more R@1, 2 less OPIS, 1 both, 1 neither; of the baselines' front 2 of 3 are beaten in "
        "both by one with TCM"
    )


def test_two_kinds_of_tcm_share_their_baseline_and_sets_have_a_panel_each(run):
    runs = [
        run(tcm, data=data, recall_at_1=0.5 + 0.01 * number, opis=0.03 - 0.001 * number)
        for data in ("emoji", "icons", "kanji", "hangul", "quickdraw")
        for number, tcm in enumerate(("none", "paper", "chosen"))
    ]
    figure = pareto_figure(fold(runs).rows)
    assert len([panel for panel in figure.axes if panel.get_visible()]) == 5
    assert [len(panel.collections) for panel in figure.axes[:5]] == [3] * 5
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["without TCM", "TCM paper", "TCM chosen", "smooth_ap"]


def test_the_tables_that_are_kept_can_be_drawn(root):
    """A csv leaves empty what a row has as an empty text."""
    kept = pd.read_csv(root / "results" / "mini.csv")
    assert len(pareto_figure(kept).axes) == len(kept) / 2
    assert len(pareto_claims(kept)) == len(kept)


def test_the_file_says_of_which_rows_it_is(rows, tmp_path):
    path = write_pareto_figure(rows, tmp_path / "new" / "pareto.png")
    rows.to_csv(tmp_path / "rows.csv", index=False, lineterminator="\n")
    with Image.open(path) as picture:
        assert picture.text["Description"].endswith(hashlib.sha256((tmp_path / "rows.csv").read_bytes()).hexdigest())


def test_what_cannot_be_drawn_is_said_in_a_sentence(run, rows, tmp_path):
    for incomplete in ([], [run("none")], [run("none", opis=None), run("paper")]):
        with pytest.raises(ValueError, match="no comparison has a finished run of both arms"):
            pareto_figure(fold(incomplete).rows)
    with pytest.raises(ValueError, match=r"end the name in one of \.png"):
        write_pareto_figure(rows, tmp_path / "pareto.gif")


def test_names_with_dollars_or_an_underscore_in_front_are_drawn_as_they_are(run, tmp_path):
    named = [(loss, tcm) for loss in ("_own", "a$b$") for tcm in ("none", "paper")]
    rows = fold([run(tcm, loss=loss, data="$two$ $") for loss, tcm in named]).rows
    figure = pareto_figure(rows)
    assert len(figure.legends[0].get_texts()) == 4
    assert write_pareto_figure(rows, tmp_path / "pareto.svg").stat().st_size


def test_the_document_says_what_its_rows_say_and_shows_the_picture_of_them(root):
    csv = root / "results" / "pareto.csv"
    text = (root / "docs" / "pareto.md").read_text(encoding="utf-8")
    told = text.partition("<!-- claims of results/pareto.csv -->\n")[2].partition("<!-- end -->")[0]
    assert told.splitlines() == [f"- {sentence}" for sentence in pareto_claims(pd.read_csv(csv))]
    with Image.open(root / "docs" / "pareto" / "pareto.png") as picture:
        assert picture.text["Description"].endswith(hashlib.sha256(csv.read_bytes()).hexdigest())


def test_the_toys_document_says_what_its_rows_say(root):
    text = (root / "docs" / "toy.md").read_text(encoding="utf-8")
    rows = pd.read_csv(root / "results" / "toy.csv")
    for name, scale in (("R@1, %", 100), ("OPIS, e-3", 1000)):
        column = {"R@1, %": "recall_at_1", "OPIS, e-3": "opis"}[name]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        told = [float(cell.split()[0]) for cell in line.split("|")[2:5]]
        kept = [rows[f"{column}_base"][0], *rows[f"{column}_tcm"]]
        assert told == [round(scale * value, 1) for value in kept]
    assert list(rows["tcm"].str.split().str[0]) == ["paper", "chosen"]
