"""The figure: right curves, right runs, readable files."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import save_file

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.report.curves import curves_of_vectors, utility_figure, write_utility_figure
from tcm_bench.report.source import Source
from tcm_bench.results.ledger import EMBEDDINGS, write_result


@pytest.fixture
def stored(run, tmp_path):
    """A finished run with embeddings: its folder, its row, and what the numeric core says of it."""

    def make(tcm, spread, classes=12, axis="distance", **row):
        generator = torch.Generator().manual_seed(0)
        labels = torch.cat([torch.arange(classes).repeat_interleave(5), torch.tensor([classes])])  # and a singleton
        centers = torch.randn(classes + 1, 16, generator=generator)
        noise = spread * torch.rand(classes + 1, 1, generator=generator)[labels]
        embeddings = centers[labels] + noise * torch.randn(len(labels), 16, generator=generator)
        embeddings = torch.nn.functional.normalize(embeddings)
        measured = evaluate(embeddings.double(), labels, axis=axis).consistency
        ends = {"axis": axis, "threshold_low": measured.threshold_low, "threshold_high": measured.threshold_high}
        result = run(tcm, opis=measured.opis, opis_10pct=measured.eps_opis, threshold=ends, **row)
        folder = tmp_path / "runs" / result.run_id
        save_file(
            {"embeddings": embeddings, "labels": labels, "indices": torch.arange(len(labels))}, folder / EMBEDDINGS
        )
        return Source("run", folder), result, measured

    return make


def test_curves_over_the_calibration_range_are_those_behind_opis(stored):
    folder, _, measured = stored("none", spread=2.0)
    drawn = curves_of_vectors(folder.vectors(), measured.thresholds.numpy(), axis="distance", c=1.0)
    assert drawn.utilities.shape == (12, 101)  # the singleton has no curve
    np.testing.assert_array_equal(drawn.utilities, measured.utilities.numpy())


def test_the_figure_shows_both_runs_on_one_axis(stored):
    base, row, left = stored("none", spread=2.0)
    tcm, _, right = stored("paper", spread=1.0)
    figure = utility_figure(base, tcm)
    panels = figure.axes
    assert [p.get_title().split("\n")[0] for p in panels] == ["without TCM", "with TCM"]
    assert f"OPIS {1000 * row.metrics['opis']:.1f}e-3" in panels[0].get_title()
    assert "emoji, resnet50, smooth_ap, seed 0" in figure.get_suptitle()
    assert panels[0].get_xlim() == panels[1].get_xlim()
    assert (
        panels[0].get_xlim()[0]
        < min(left.threshold_low, right.threshold_low)
        < max(left.threshold_high, right.threshold_high)
        < panels[0].get_xlim()[1]
    )
    for panel, measured in zip(panels, (left, right), strict=True):
        *curves, mean, low, high = panel.lines
        assert len(curves) == 12
        assert (low.get_xdata()[0], high.get_xdata()[0]) == (measured.threshold_low, measured.threshold_high)
        np.testing.assert_allclose(mean.get_ydata(), np.mean([c.get_ydata() for c in curves], axis=0), atol=1e-12)


def test_many_classes_are_sampled_for_lines_but_all_count_in_the_mean(stored):
    folder, _, _ = stored("none", spread=2.0, classes=130)
    figure = utility_figure(folder, folder)
    *curves, mean, _, _ = figure.axes[0].lines
    assert len(curves) == 100
    everything = curves_of_vectors(folder.vectors(), np.asarray(mean.get_xdata()), axis="distance", c=1.0).utilities
    assert len(everything) == 130
    np.testing.assert_array_equal(mean.get_ydata(), everything.mean(axis=0))


def test_runs_of_different_comparisons_are_named_in_full(stored):
    base, _, _ = stored("none", spread=2.0)
    other, _, _ = stored("paper", spread=2.0, data="icons")
    titles = [p.get_title() for p in utility_figure(base, other).axes]
    assert titles[0].startswith("without TCM: emoji, resnet50")
    assert titles[1].startswith("with TCM: icons, resnet50")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_file_is_what_its_suffix_says(stored, tmp_path, suffix):
    base, _, _ = stored("none", spread=2.0)
    path = write_utility_figure(base, base, tmp_path / "new" / f"curves{suffix}")
    assert path.stat().st_size > 5_000
    if suffix == ".png":
        assert imread(path).shape == (800, 1800, 4)
    else:
        assert path.read_bytes()[:5] == {".svg": b"<?xml", ".pdf": b"%PDF-"}[suffix]


def test_a_cosine_axis_is_drawn_as_one(stored):
    folder, _, measured = stored("none", spread=2.0, axis="similarity")
    panel = utility_figure(folder, folder).axes[0]
    assert "cosine" in panel.get_xlabel()
    assert panel.lines[-1].get_xdata()[0] == measured.threshold_high


def test_what_cannot_be_drawn_is_said_in_a_sentence(stored, run, tmp_path):
    folder, _, _ = stored("none", spread=2.0)
    cosine, _, _ = stored("paper", spread=2.0, axis="similarity")
    with pytest.raises(ValueError, match="different threshold axes"):
        utility_figure(folder, cosine)
    with pytest.raises(ValueError, match="holds no finished run"):
        utility_figure(folder, Source("run", tmp_path))
    bare = Source("run", tmp_path / "runs" / run("none", data="bare").run_id)
    with pytest.raises(ValueError, match=r"holds no test_embeddings\.safetensors"):
        utility_figure(bare, folder)
    (bare.path / EMBEDDINGS).write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"test_embeddings\.safetensors is not a \.safetensors file of plain arrays"):
        utility_figure(bare, folder)
    with pytest.raises(ValueError, match=r"end the name in one of \.png"):
        write_utility_figure(folder, folder, tmp_path / "curves.gif")


@pytest.mark.parametrize("end", [0.9, None])
def test_a_run_without_a_range_cannot_be_drawn(run, tmp_path, end):
    degenerate = run(
        "none", threshold={"threshold_low": 0.9, "threshold_high": end}, row={"reason": "all distances are equal"}
    )
    with pytest.raises(ValueError, match=r"no calibration range to draw \(all distances are equal"):
        utility_figure(Source("run", tmp_path / "runs" / degenerate.run_id), Source("run", tmp_path))


def test_a_failed_run_cannot_be_drawn(run, tmp_path):
    failed = run("none")
    folder = Source("run", tmp_path / "runs" / failed.run_id)
    write_result(folder.path, failed.model_copy(update={"status": "failed"}))
    with pytest.raises(ValueError, match=r"holds no finished run \(failed"):
        utility_figure(folder, folder)
