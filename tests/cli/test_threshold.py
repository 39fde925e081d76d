"""`tcm-bench threshold`: from vectors to a threshold, in text, JSON and a picture."""

import re

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
    assert f"FAR {100 * found['far']:.3g} %, FRR {100 * found['frr']:.3g} %" in told
    assert f"FAR is more than twice the wanted 5 %: {found['beyond_twice']} of 12" in told
    worst = sorted(found["classes"], key=lambda one: -one["far"])
    assert [line[:8] for line in told.splitlines() if line.startswith("class 0") or line.startswith("class 1")][:3] == [
        one["label"] for one in worst[:3]
    ]
    assert (tmp_path / "rates.svg").read_text().count("<svg") == 1


def test_where_many_pairs_are_equally_alike_the_rate_that_is_reached_is_said(tmp_path):
    labels = np.repeat(np.arange(24), 6)
    np.savez(tmp_path / "signs.npz", embeddings=np.where(np.arange(len(labels)) % 2, 1.0, -1.0)[:, None], labels=labels)
    told = tcm_bench("threshold", tmp_path / "signs.npz", "--far", "0.05").stdout
    assert "for FAR 5 %, where it comes to 50 %: many pairs are equally alike; of 12 other classes" in told
    assert numbers("threshold", tmp_path / "signs.npz", "--far", "0.05")["reached"] == 0.5


def test_names_of_classes_are_shown_as_they_are(vectors, tmp_path):
    with np.load(vectors) as held:
        labels = np.char.add(held["labels"], " [red][/x]")
        np.savez(tmp_path / "odd.npz", embeddings=held["embeddings"], labels=labels)
    told = tcm_bench("threshold", tmp_path / "odd.npz", "--far", "0.05", "--worst", "3").stdout
    assert told.count(" [red][/x] ") == 3


def test_both_axes_accept_the_same_pairs(vectors):
    cosine = numbers("threshold", vectors, "--frr", "0.1")
    distance = numbers("threshold", vectors, "--frr", "0.1", "--axis", "distance")
    assert distance["threshold"] == pytest.approx(cosine["distance"], abs=1e-9)
    assert (distance["far"], distance["frr"], distance["classes"]) == (cosine["far"], cosine["frr"], cosine["classes"])


def test_small_rates_keep_their_digits(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(120), 5)
    embeddings = rng.normal(size=(120, 16))[labels] + rng.normal(size=(600, 16))
    np.savez(tmp_path / "many.npz", embeddings=embeddings, labels=labels)
    found = numbers("threshold", tmp_path / "many.npz", "--far", "0.0003")
    told = tcm_bench("threshold", tmp_path / "many.npz", "--far", "0.0003").stdout
    said = re.findall(r"FAR of a class: .* classes (\S+) to (\S+) %|all pairs: FAR (\S+) %", told)
    shown = {float(word) / 100 for line in said for word in line if word}
    quantiles = found["quantiles"]["far"]
    expected = sorted({found["far"], quantiles["0.05"], quantiles["0.95"]})
    assert sorted(shown) == pytest.approx(expected, rel=0.005)
    assert 0 < found["far"] < 0.001


def test_an_end_that_is_not_known_is_null_and_told(vectors, tmp_path):
    with np.load(vectors) as held:
        few = np.isin(held["labels"], np.unique(held["labels"])[:4])
        np.savez(tmp_path / "few.npz", embeddings=held["embeddings"][few], labels=held["labels"][few])
        few = np.isin(held["labels"], np.unique(held["labels"])[:8])
        np.savez(tmp_path / "eight.npz", embeddings=held["embeddings"][few], labels=held["labels"][few])
    assert numbers("threshold", tmp_path / "few.npz", "--far", "0.1")["interval"] == [None, None]
    assert "do not show a 95 % interval" in tcm_bench("threshold", tmp_path / "few.npz", "--far", "0.1").stdout
    low, high = numbers("threshold", tmp_path / "eight.npz", "--far", "0.04")["interval"]
    assert high is None
    told = tcm_bench("threshold", tmp_path / "eight.npz", "--far", "0.04").stdout
    assert f"95 % interval at least {low:.4f}" in told


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
