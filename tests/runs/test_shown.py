"""What there is to see of a run, from files made for it: every panel and curve can be worked out by hand."""

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from tcm_bench.data.table import ImageArray
from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.files import CURVES, write_evaluation
from tcm_bench.results.ledger import EMBEDDINGS
from tcm_bench.runs.shown import FRAME_PX, SIDE_PX, curves_picture, curves_table, panels

BLUE, VERMILION, BLACK = (0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0, 0)
ANGLES = torch.tensor([0.0, 0.1, 0.25, 1.0, 1.3, 1.35])  # of six items on a circle, three a class
LABELS = [0, 1, 0, 1, 0, 1]


def images():
    """An image a row, all of one gray that is its number."""
    pixels = np.arange(6, dtype=np.uint8)[:, None, None] * np.full((6, 20, 10), 40, np.uint8)
    return ImageArray(np.array(LABELS), ["ant", "bee"], pixels)


def kept(folder, **roles):
    """The embeddings of a run, in an order of their own."""
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    tensors = {
        "embeddings": torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)[order],
        "labels": torch.tensor(LABELS)[order],
        "indices": order,
        **{name: role[order] for name, role in roles.items()},
    }
    save_file(tensors, folder / EMBEDDINGS)
    return folder


def cells(pixels):
    """Of each image in a strip the color of its frame, and the number that it shows."""
    starts = [0, *range(SIDE_PX + FRAME_PX, pixels.shape[1], SIDE_PX)]
    return [(tuple(pixels[0, x]), pixels[SIDE_PX // 2, x + SIDE_PX // 2, 0] // 40) for x in starts]


def test_a_query_is_shown_with_its_nearest_and_which_are_right(tmp_path):
    found = panels(kept(tmp_path), images(), 2)
    assert cells(found[0].pixels) == [
        (BLACK, 5),
        (VERMILION, 4),
        (BLUE, 3),
        (VERMILION, 2),
        (BLUE, 1),
        (VERMILION, 0),
    ]
    assert cells(found[1].pixels) == [(BLACK, 4), (VERMILION, 5), (VERMILION, 3), (BLUE, 2), (VERMILION, 1), (BLUE, 0)]
    assert found[0].caption == "bee: wrong (ant), right, wrong (ant), right, wrong (ant)"
    assert found[1].caption == "ant: wrong (bee), wrong (bee), right, wrong (bee), right"


def test_queries_are_searched_with_among_the_gallery_alone(tmp_path):
    query = torch.tensor([True, False, False, False, True, False])
    (one, other) = panels(kept(tmp_path, query=query, gallery=~query), images(), 12)
    assert [number for _, number in cells(one.pixels)] == [0, 1, 2, 3, 5]
    assert [number for _, number in cells(other.pixels)] == [4, 5, 3, 2, 1]


def test_the_table_of_curves_has_classes_by_name_evenly_spread(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(9), 6)
    vectors = rng.normal(size=(9, 16))[labels] + rng.normal(size=(54, 16))
    write_evaluation(evaluate(vectors, labels), tmp_path)
    names = [f"class {label}" for label in range(9)]
    columns, rows = curves_table(tmp_path, names, 3)
    assert columns == ["class", "threshold", "sensitivity", "specificity", "utility"]
    stored = parquet.read_table(tmp_path / CURVES).to_pylist()
    thresholds = sorted({row["threshold"] for row in stored})[::5]
    kept = [row for row in stored if row["threshold"] in thresholds]
    assert rows == [
        [names[row["label"]], *(row[name] for name in columns[1:])] for row in kept if row["label"] in (0, 4, 8)
    ]
    assert len(curves_table(tmp_path, names, 100)[1]) == len(kept) == 9 * 21
    picture = curves_picture(tmp_path, 3)
    assert picture.dtype == np.uint8
    assert picture.shape == (480, 600, 3)
    assert not np.array_equal(picture, curves_picture(tmp_path, 9))


def test_without_a_calibration_range_there_is_no_picture(tmp_path):
    write_evaluation(evaluate(np.eye(4), np.arange(4)), tmp_path)
    with pytest.raises(ValueError, match="no calibration range"):
        curves_picture(tmp_path, 3)
