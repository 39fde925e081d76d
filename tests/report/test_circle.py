"""The circle: what is said of the classes is so, what is drawn is them, and what cannot be drawn is a sentence."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import save_file

from tcm_bench.report.circle import BINS, Clusters, circle_figure, clusters, density, write_circle_figure
from tcm_bench.report.source import Source
from tcm_bench.results.ledger import EMBEDDINGS


@pytest.fixture
def stored(run, tmp_path):
    """A finished run whose ten classes lie 36 degrees apart, each `spread` degrees wide: its source and its row."""

    def make(tcm, spread, dim=2, shared=()):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(10).repeat_interleave(50)
        angles = torch.deg2rad(36.0 * labels + spread * torch.randn(500, generator=generator))
        embeddings = torch.stack([angles.cos(), angles.sin(), *[0 * angles] * (dim - 2)], dim=1)
        result = run(tcm, row={"counts": dict(shared)})
        folder = tmp_path / "runs" / result.run_id
        save_file({"embeddings": embeddings, "labels": labels, "indices": torch.arange(500)}, folder / EMBEDDINGS)
        return Source("run", folder), result

    return make


def test_spread_and_gap_are_those_of_the_angles(stored):
    found = clusters(stored("none", spread=5.0)[0].vectors())
    assert found.names == [str(digit) for digit in range(10)]
    assert [len(angles) for angles in found.angles] == [50] * 10
    np.testing.assert_allclose(found.spreads, 5.0, rtol=0.35)
    for angles, spread in zip(found.angles, found.spreads, strict=True):  # narrow: as on a line
        unwound = np.angle(np.exp(1j * (angles - angles[0])))
        assert spread == pytest.approx(np.degrees(unwound.std()), rel=0.02)
    assert 31 < found.smallest_gap <= 36


def test_centers_and_gaps_do_not_mind_where_the_circle_is_cut():
    at = np.radians([[179.0, -179.0], [100.0, 110.0], [-165.0, -155.0]])
    found = Clusters(["a", "b", "c"], list(at))
    np.testing.assert_allclose(np.abs(np.degrees(found.centers)), [180, 105, 160])
    assert found.smallest_gap == pytest.approx(20)
    assert found.spreads[0] == pytest.approx(1, rel=1e-3)
    alike = Clusters(["a", "b"], [np.array([1.0, 1.0]), np.array([2.0, 2.0])])
    assert alike.spreads.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert "spread within a class 0.0°" in str(alike)


@pytest.mark.parametrize("place", [-np.pi, -3.14, 0.0, 2.0, np.pi])
def test_the_density_is_one_and_lies_where_the_angles_do(place):
    at, values = density(np.full(7, place))
    assert values.sum() * 360 / BINS == pytest.approx(1)
    assert np.abs(np.angle(np.exp(1j * (at[values.argmax()] - place)))) <= 2 * np.pi / BINS
    assert values.min() >= 0


def test_the_figure_shows_every_embedding_and_the_narrower_classes_higher(stored):
    base, row = stored("none", spread=6.0, shared={"shared_classes": 10})
    tcm, _ = stored("paper", spread=3.0, shared={"shared_classes": 10})
    figure = circle_figure(base, tcm)
    left, right = figure.axes
    assert left.get_title().startswith("without TCM\nspread within a class ")
    assert right.get_title().startswith("with TCM\nspread within a class ")
    assert f"OPIS {1000 * row.metrics['opis']:.1f}e-3" in left.get_title()
    heights = []
    for panel, source in ((left, base), (right, tcm)):
        dots = np.concatenate([line.get_xdata() for line in panel.lines if line.get_marker() == "."])
        assert len(dots) == 500
        assert str(clusters(source.vectors())) in panel.get_title()
        assert sorted(text.get_text() for text in panel.texts) == [str(digit) for digit in range(10)]
        outlines = [line.get_ydata() for line in panel.lines if line.get_marker() != "."]
        assert len(outlines) == 10
        heights.append(np.nanmax(np.concatenate(outlines)))
    assert 1 < heights[0] < heights[1] == pytest.approx(2)
    assert "(a closed set)" in figure.get_suptitle()
    assert "emoji resnet50 smooth_ap, seed 0" in figure.get_suptitle()


def test_unseen_classes_are_called_so(stored):
    base, _ = stored("none", spread=6.0)
    assert circle_figure(base, base).get_suptitle().startswith("Unseen classes:")
    (file,) = base.path.glob("*.safetensors")
    of_file = circle_figure(Source("vectors", file), Source("vectors", file))
    assert of_file.axes[0].get_title().startswith(file.name)
    assert of_file.get_suptitle() == ""


def test_the_file_says_which_runs_were_drawn(stored, tmp_path):
    base, row = stored("none", spread=6.0)
    path = write_circle_figure(base, base, tmp_path / "new" / "circle.png")
    assert imread(path).shape[2] == 4
    with Image.open(path) as picture:
        assert f"run {row.run_id} of comparison {row.comparison_id}" in picture.text["Description"]


def test_what_cannot_be_drawn_is_said_in_a_sentence(stored, run, tmp_path):
    base, _ = stored("none", spread=6.0)
    wide, _ = stored("paper", spread=6.0, dim=3)
    with pytest.raises(ValueError, match=r"its embeddings have 3 dimensions.*model\.head\.embedding_dim=2"):
        circle_figure(base, wide)
    with pytest.raises(ValueError, match="holds no finished run"):
        circle_figure(base, Source("run", tmp_path))
    bare = Source("run", tmp_path / "runs" / run("none", data="bare").run_id)
    with pytest.raises(ValueError, match=r"holds no test_embeddings\.safetensors"):
        circle_figure(base, bare)
    with pytest.raises(ValueError, match=r"end the name in one of \.png"):
        write_circle_figure(base, base, tmp_path / "circle.gif")
    assert not (tmp_path / "circle.gif").exists()
