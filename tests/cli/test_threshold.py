"""`tcm-bench threshold`: from vectors to a threshold, in text, JSON and a picture."""

import numpy as np
import pytest
from command_line import numbers, sentence, tcm_bench
from vectors import write_vectors


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Vectors of 24 classes that have names."""
    file = write_vectors(tmp_path_factory.mktemp("vectors"))
    with np.load(file) as held:
        named = np.array([f"class {label:02}" for label in held["labels"]])
        np.savez(file, embeddings=held["features"], labels=named)
    return file


def test_text_and_json_say_the_same(vectors, tmp_path):
    found = numbers("threshold", vectors, "--far", "0.05")
    assert found["rate"] == "far"
    assert found["calibration_classes"] == found["judged_classes"] == 12
    assert found["distance"] == pytest.approx((2 - 2 * found["cosine"]) ** 0.5)
    low, high = found["interval"]
    assert low <= found["threshold"] == found["cosine"] <= high
    assert len(found["classes"]) == 12
    assert all(one["label"].startswith("class ") for one in found["classes"])
    assert found["beyond_twice"] == sum(one["far"] > 0.1 for one in found["classes"])

    told = tcm_bench("threshold", vectors, "--far", "0.05", "--worst", "3", "--plot", tmp_path / "rates.svg").stdout
    assert f"cosine >= {found['cosine']:.4f} (95 % interval {low:.4f} to {high:.4f})" in told
    assert f"FAR {100 * found['far']:.2f} %, FRR {100 * found['frr']:.1f} %" in told
    worst = sorted(found["classes"], key=lambda one: -one["far"])
    assert [line[:8] for line in told.splitlines() if line.startswith("class 0") or line.startswith("class 1")][:3] == [
        one["label"] for one in worst[:3]
    ]
    assert (tmp_path / "rates.svg").read_text().count("<svg") == 1


def test_both_axes_accept_the_same_pairs(vectors):
    cosine = numbers("threshold", vectors, "--frr", "0.1")
    distance = numbers("threshold", vectors, "--frr", "0.1", "--axis", "distance")
    assert distance["threshold"] == pytest.approx(cosine["distance"], abs=1e-9)
    assert (distance["far"], distance["frr"], distance["classes"]) == (cosine["far"], cosine["frr"], cosine["classes"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "either --far or --frr"),
        (("--far", "0.1", "--frr", "0.1"), "either --far or --frr"),
        (("--far", "1e-9"), "cannot be seen in"),
        (("--far", "0.1", "--plot", "rates.doc"), "cannot draw into 'rates.doc'"),
    ],
)
def test_what_cannot_be_said_is_a_sentence(vectors, words, said):
    assert said in sentence("threshold", vectors, *words)


def test_an_evaluation_without_vectors_is_told(vectors, tmp_path):
    assert tcm_bench("evaluate", vectors, "--out", tmp_path / "kept").exit_code == 0
    assert "no vectors" in sentence("threshold", tmp_path / "kept", "--far", "0.1")
