"""The report page: one file with the numbers of the rows, pictures of the classes, and nothing that it has to fetch."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import tcm_bench
from omegaconf import OmegaConf
from reported import write_page, write_sweeps
from safetensors.torch import load_file, save_file

from tcm_bench.report.sheets import neighbors, telling_queries
from tcm_bench.results import ledger


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    return write_sweeps(tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def page(swept) -> str:
    return write_page(swept, "images", "vectors").read_text(encoding="utf-8")


class Cells(HTMLParser):
    """Texts of the cells of a page's tables, and every address that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.addresses, self.unnamed, self.inside = [], [], [], False

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[key] for key in ("src", "href") if key in given and tag not in ("use", "a")]
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(given)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_it_needs_no_other_file(page):
    parsed = Cells()
    parsed.feed(page)
    assert {address.partition(":")[0] for address in parsed.addresses} == {"data"}
    assert not re.search(r"@import|url\(['\"]?http|<link[^>]+stylesheet|<script[^>]+src", page)
    assert not parsed.unnamed
    assert page.count('<svg role="img" aria-label="') == page.count("<svg")


def test_its_numbers_are_those_of_the_csv(page, swept):
    parsed = Cells()
    parsed.feed(page)
    for row in pd.read_csv(swept / "report" / "images-vectors.csv").to_dict("records"):
        (cells,) = [cells for cells in parsed.rows if len(cells) == 8 and cells[0] == row["data"]]
        assert cells[3].strip() == str(row["seeds"])
        assert cells[4].strip() == f"{100 * row['recall_at_1_before']:.1f}"
        for cell, name, scale in zip(cells[5:], ("recall_at_1", "opis", "opis_10pct"), (100, 1000, 1000), strict=True):
            value, arrow, change = re.match(r"\s*([\d.]+)\s+([↑↓=]) ([\d.]+)", cell).groups()
            assert float(value) == pytest.approx(scale * row[f"{name}_tcm"], abs=0.051)
            difference = scale * (row[f"{name}_tcm"] - row[f"{name}_base"])
            assert float(change) == pytest.approx(abs(difference), abs=0.051)
            assert arrow == ("↑" if difference > 0 else "↓" if difference < 0 else "=")
            assert ("paired p" in cell) == (row["seeds"] == 2 and "95 %" in cell)


def test_classes_curves_and_images_are_there(page, swept):
    tables = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    assert [len(table) for table in tables] == [12, 12]
    assert {name for _, name, *_ in tables[0]} == {f"thing {number}" for number in range(1, 24, 2)}
    curves = re.findall(r'<g class="class" data-class="(\d+)">', page)
    assert len(curves) == 2 * 2 * 12
    assert {int(label) for label, *_ in tables[0]} == {int(label) for label in curves}
    assert page.count("data:image/jpeg;base64,") > 50
    assert "its images are not here" in page  # of the vectors
    figures = {path.name for path in (swept / "report" / "images-vectors").iterdir()}
    stems = {"ranges", "pareto", "c1-curves", "c1-use", "c1-training", "c2-curves", "c2-use", "c2-training"}
    assert {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")} <= figures


def test_every_run_is_there_with_the_command_that_makes_it(page, swept):
    for folder in ledger.run_dirs(swept):
        row = ledger.read_result(folder)
        assert row.run_id in page
        assert row.data_hash[:10] in page


def test_nothing_in_a_name_becomes_markup(swept, tmp_path):
    output = shutil.copytree(swept, tmp_path / "copy")
    for folder in ledger.run_dirs(output):
        row = ledger.read_result(folder)
        row.choices["data"] = "<img src=x onerror=alert(1)>"
        ledger.write_result(folder, row)
    listed = ledger.read_sweep(output / "sweeps" / "images.json")
    for run in listed.runs:
        run.choices["data"] = "<img src=x onerror=alert(1)>"
    ledger.write_sweep(output, "images", listed.runs)
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


def test_what_runs_have_not_stored_is_said_and_the_rest_is_there(swept, tmp_path):
    output = shutil.copytree(swept, tmp_path / "copy")
    for folder in ledger.run_dirs(output):
        (folder / ledger.EMBEDDINGS).unlink()
        (folder / ledger.HISTORY).write_text("half a ro")
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "its embeddings are not here" in text
    assert 'data-class="' not in text
    assert "The article&#39;s claims" in text or "The article's claims" in text


def test_a_page_is_not_written_where_none_is_wanted(swept):
    assert tcm_bench("report", "vectors", "--output-dir", swept, "--no-page").exit_code == 0
    assert not (swept / "report" / "vectors.html").exists()
    assert (swept / "report" / "vectors.tex").exists()


def test_a_gallery_smaller_than_the_sheet_shows_no_strangers():
    rows = torch.nn.functional.normalize(torch.arange(1.0, 13).view(6, 2))
    gallery = torch.tensor([False, True, False, True, False, True])
    nearest, cosines = neighbors(rows, torch.tensor([0, 1]), 5, gallery=gallery)
    assert nearest.shape == (2, 2)  # one of the queries is in it
    assert set(nearest.flatten().tolist()) <= {1, 3, 5}
    assert 1 not in nearest[1]
    assert cosines.isfinite().all()


def test_a_page_is_made_where_two_comparisons_have_one_id_under_two_names(swept, tmp_path):
    """As when a yaml was copied under another name, and both sweeps are reported as one."""
    output = shutil.copytree(swept, tmp_path / "copy")
    listed = ledger.read_sweep(output / "sweeps" / "vectors.json").runs
    for run in listed:
        row = ledger.read_result(output / "runs" / run.run_id)
        row.run_id, row.choices = f"{run.run_id[:-1]}x", {**row.choices, "data": "copied"}
        shutil.copytree(output / "runs" / run.run_id, output / "runs" / row.run_id)
        ledger.write_result(output / "runs" / row.run_id, row)
        listed = [*listed, ledger.Run(**{name: getattr(row, name) for name in ledger.Run.model_fields})]
    ledger.write_sweep(output, "vectors", listed)
    text = write_page(output, "vectors").read_text(encoding="utf-8")
    assert '<a href="#c1">features</a>' in text
    assert '<a href="#c2">copied</a>' in text


@pytest.fixture
def photographs(swept) -> Iterator[list[Path]]:
    """The files that the sweep `images` was tested on, whole again afterwards."""
    (root,) = {
        OmegaConf.load(folder / ledger.CONFIG).data.root
        for folder in ledger.run_dirs(swept)
        if ledger.read_result(folder).choices["data"] == "folder"
    }
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    yield files
    for path, content in before.items():
        path.write_bytes(content)


def test_damaged_images_are_said_and_the_rest_of_the_page_is_there(swept, tmp_path, photographs):
    output = shutil.copytree(swept, tmp_path / "copy")
    for path in photographs:
        path.write_bytes(path.read_bytes()[:40])
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "no images: " in text
    assert "data:image/jpeg" not in text
    assert 'data-class="' in text


def test_networks_trained_on_different_data_are_not_compared(swept, tmp_path):
    output = shutil.copytree(swept, tmp_path / "copy")
    for folder in ledger.run_dirs(output):
        row = ledger.read_result(folder)
        row.data_hash = str(row.choices["tcm"])
        ledger.write_result(folder, row)
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "saw different data and cannot be compared, left out" in text
    assert 'class="comparison"' not in text
    assert "OPIS is known of both arms in none of 1." in text


def test_runs_measured_in_different_ways_are_said_not_to_be_comparable(swept, tmp_path):
    output = shutil.copytree(swept, tmp_path / "copy")
    for folder in ledger.run_dirs(output):
        row = ledger.read_result(folder)
        row.threshold["c"] = 2.0 if row.choices["tcm"] == "none" else 1.0
        ledger.write_result(folder, row)
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "The runs measured OPIS with different settings (c) and cannot be compared." in text


def test_networks_tested_on_different_images_show_none_of_each_other(swept, tmp_path):
    output = shutil.copytree(swept, tmp_path / "copy")
    for folder in ledger.run_dirs(output):
        if ledger.read_result(folder).choices["tcm"] == "none":
            stored = load_file(folder / ledger.EMBEDDINGS)
            save_file(stored | {"indices": stored["indices"].flip(0)}, folder / ledger.EMBEDDINGS)
    text = write_page(output, "images").read_text(encoding="utf-8")
    assert "were tested on different data" in text
    assert "data:image/jpeg" not in text
    assert 'type="application/json">' not in text


def test_a_query_that_cannot_be_right_is_not_shown_as_the_worst():
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.01], [0.0, 1.0], [0.1, 0.9]]))
    labels = torch.tensor([0, 0, 1, 2, 2])
    shown = telling_queries(rows, labels, 0.5)
    assert 2 not in [row for _, row in shown]
    assert ("worst", 0) in shown
    assert "near the threshold" not in {kind for kind, _ in telling_queries(rows, labels, None)}
    gallery = torch.tensor([False, True, True, False, True])
    assert {row for _, row in telling_queries(rows, labels, 0.5, gallery=gallery)} == {0, 3}
