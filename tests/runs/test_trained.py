"""`tcm-bench embed`: a run's own test images give the run's own test embeddings, whatever the run was trained on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import sentence, tcm_bench
from composition import composition
from photographs import TINY, write_photographs
from safetensors import safe_open
from safetensors.torch import load_file
from vectors import SMALL, head, write_vectors

from tcm_bench.data.datasets.vectors import vector_set, vector_splits
from tcm_bench.models.file_weights import FileWeights
from tcm_bench.results import ledger
from tcm_bench.runs.run import execute


def embed(*words):
    done = tcm_bench("embed", *words, "--device", "cpu")
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Train and test, four classes of each, four pictures a class."""
    return write_photographs(tmp_path_factory.mktemp("photos"))


def trained(output, *words):
    overrides = [*SMALL, *words, "machine.threads=1", f"paths.output_dir={output}"]
    cfg, chosen = composition(*overrides)
    assert execute(cfg, chosen).status == "finished"
    return Path(cfg.run_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, photos):
    """One run of each kind: all weights trained from pixels, a head on a frozen backbone, a head on vectors."""
    output = tmp_path_factory.mktemp("outputs")
    images = ["data=folder", f"data.root={photos}", *TINY, "model/backbone=resnet_small"]
    return {
        "pixels": trained(output, *images, "model.freeze=none"),
        "frozen": trained(output, *images, "model.freeze=backbone"),
        "vectors": trained(output, *head(write_vectors(output))),
    }


def stored(run):
    """A run's test embeddings in the order of the test table."""
    held = load_file(run / ledger.EMBEDDINGS)
    order = held["indices"].argsort()
    return held["embeddings"][order].numpy(), held["labels"][order].numpy()


@pytest.mark.parametrize("kind", ["pixels", "frozen"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_runs_test_images_give_its_test_embeddings(runs, photos, tmp_path, kind, suffix):
    run, out = runs[kind], tmp_path / "new" / f"x{suffix}"
    said = embed(run.name, photos / "test", "--out", out, "--output-dir", run.parents[1], "--batch-size", 5)
    assert said == f"written: {out}, 16 embeddings of 8 dimensions\n"
    expected, labels = stored(run)
    found = vector_set(out)
    assert found.vectors.dtype == torch.float32
    np.testing.assert_allclose(found.vectors.numpy(), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found.vectors.numpy(), axis=1), 1, atol=1e-6)
    assert found.labels.tolist() == labels.tolist()
    assert found.classes.tolist() == [f"thing {number}" for number in (1, 3, 5, 7)]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_installed_command_embeds_in_a_process_of_its_own(runs, photos, tmp_path):
    command = [Path(sys.executable).with_name("tcm-bench"), "embed", runs["frozen"], photos / "test"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "x.npz", "--device", "cpu"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "x.npz")["embeddings"], stored(runs["frozen"])[0], rtol=0, atol=2e-6)


def test_paths_stand_beside_the_embeddings(runs, photos, tmp_path):
    expected = [f"thing {c}/{p}" for c in (1, 3, 5, 7) for p in ("0.png", "1.jpg", "2.png", "3.jpg")]
    embed(runs["pixels"], photos / "test", "--out", tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz")["paths"].tolist() == expected
    embed(runs["pixels"], photos / "test", "--out", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "np") as held:
        assert json.loads(held.metadata()["paths"]) == expected


def test_what_is_embedded_can_be_evaluated_and_compared(runs, photos, tmp_path):
    for kind, suffix in (("pixels", ".npz"), ("frozen", ".safetensors")):
        embed(runs[kind], photos / "test", "--out", tmp_path / f"{kind}{suffix}", "--workers", 2)
    measured = json.loads(tcm_bench("evaluate", tmp_path / "pixels.npz", "--json").stdout)
    row = ledger.read_result(runs["pixels"])
    assert measured["recall_at_1"] == pytest.approx(row.metrics["recall_at_1"])
    assert measured["opis"] == pytest.approx(row.metrics["opis"], rel=1e-3)
    done = tcm_bench("compare", tmp_path / "pixels.npz", tmp_path / "frozen.safetensors", "--json")
    assert done.exit_code == 0, done.output


def test_images_may_come_one_by_one_in_a_folder_without_classes_or_in_a_table(runs, photos, tmp_path):
    expected, _ = stored(runs["frozen"])
    flat = tmp_path / "flat"
    flat.mkdir()
    table = ["path,label,comment"]
    for number, path in enumerate(sorted(photos.glob("test/*/*"))):
        shutil.copy(path, flat / f"{number:02}{path.suffix}")
        table.append(f'"flat/{number:02}{path.suffix}",{number // 4},"a, b"')
    table.append(f"{sorted(photos.glob('test/*/*'))[0]},0,absolute")
    (tmp_path / "all.csv").write_text("\n".join(table))
    (tmp_path / "bare.csv").write_text("path\nflat/02.png\n")
    for place, rows, labels in (
        (flat, range(16), None),
        (flat / "03.jpg", [3], None),
        (tmp_path / "all.csv", [*range(16), 0], [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [0]),
        (tmp_path / "bare.csv", [2], None),
    ):
        embed(runs["frozen"], place, "--out", tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as held:
            np.testing.assert_allclose(held["embeddings"], expected[list(rows)], rtol=0, atol=2e-6)
            assert (held["labels"].tolist() if "labels" in held else None) == labels
            assert held["paths"].tolist()[0] == {flat: "00.png", flat / "03.jpg": "03.jpg"}.get(
                place, "flat/00.png" if place.name == "all.csv" else "flat/02.png"
            )


def test_vectors_go_through_the_head_of_a_run_on_vectors(runs, tmp_path):
    run, file = runs["vectors"], runs["vectors"].parents[1] / "mine.npz"
    embed(run, file, "--out", tmp_path / "x.npz", "--batch-size", 7)
    found = vector_set(tmp_path / "x.npz")
    test = vector_splits(file).test
    rows = [int(np.flatnonzero((np.load(file)["features"] == row).all(axis=1))[0]) for row in test.features]
    expected, _ = stored(run)
    np.testing.assert_allclose(found.vectors.numpy()[rows], expected, rtol=0, atol=2e-6)
    assert found.classes.tolist() == list(range(24))
    np.save(tmp_path / "bare.npy", np.load(file)["features"])
    embed(run, tmp_path / "bare.npy", "--out", tmp_path / "y.npz")
    assert np.load(tmp_path / "y.npz").files == ["embeddings"]


def test_weights_that_a_run_trained_are_a_backbone_for_the_next(runs, photos, tmp_path):
    weights = runs["pixels"] / ledger.WEIGHTS
    own = {"stem_width": 16, "channels": [32, 64, 128, 256]}
    network, _ = FileWeights(str(weights)).build("resnet10t", own)
    state = load_file(weights)
    assert all(torch.equal(t, state[f"backbone.network.{name}"]) for name, t in network.state_dict().items())
    words = ["model/backbone=own_weights", f"model.backbone.weights.file={weights}", "model.backbone.input.size_px=32"]
    words += ["model.backbone.architecture=resnet10t", "model.backbone.input.resize_px=32"]
    words += ["+model.backbone.options.stem_width=16", "+model.backbone.options.channels=[32,64,128,256]"]
    run = trained(tmp_path, "data=folder", f"data.root={photos}", *TINY, *words)
    embed(run, photos / "test", "--out", tmp_path / "x.npz")
    np.testing.assert_allclose(np.load(tmp_path / "x.npz")["embeddings"], stored(run)[0], rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="a run with a frozen backbone stores its head alone"):
        FileWeights(str(run / ledger.WEIGHTS)).build("resnet10t", own)


def damaged(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_a_sentence_with_its_name(runs, photos, tmp_path, workers):
    shutil.copytree(photos / "test", tmp_path / "test")
    broken = tmp_path / "test" / "thing 3" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    said = sentence("embed", runs["frozen"], tmp_path / "test", "--out", tmp_path / "x.npz", "--workers", workers)
    assert f"error: {broken} cannot be decoded" in said
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: (d / ledger.WEIGHTS).unlink(), "holds no weights.safetensors, which a run stores when it finishes"),
        (lambda d: (d / ledger.CONFIG).unlink(), "holds no config.yaml: it is no run's folder"),
        (lambda d: damaged(d, ledger.CONFIG, b"data: ["), "config.yaml is damaged ("),
        (lambda d: damaged(d, ledger.CONFIG, b"\xff\xfe\x00"), "config.yaml is damaged ("),
        (lambda d: damaged(d, ledger.CONFIG, b"- 1"), "config.yaml is damaged ("),
        (lambda d: damaged(d, ledger.CONFIG, b"data: 3"), "config.yaml is not the configuration of a run"),
        (lambda d: damaged(d, ledger.WEIGHTS, b"nothing"), "weights.safetensors is damaged ("),
        (
            lambda d: configured(d, "model.head.embedding_dim", 9),
            "it has in another shape head.linear.weight, (8, 256)",
        ),
        (lambda d: configured(d, "model.backbone.pooling", "best"), "pooling must be one of"),
        (lambda d: configured(d, "model.backbone._target_", "mine.Net"), "outside the trusted packages"),
        (lambda d: configured(d, "model.backbone._target_", "os.system"), "or --trusted-package in tcm-bench"),
        (lambda d: configured(d, "model.backbone.extra", 1), "takes no 'model.backbone.extra'"),
        (lambda d: configured(d, "seed", 1), "the backbone's weights have sha256"),
    ],
)
def test_a_run_that_is_not_whole_is_a_sentence(runs, photos, tmp_path, change, expected):
    shutil.copytree(runs["frozen"], tmp_path / "run")
    change(tmp_path / "run")
    assert expected in sentence("embed", tmp_path / "run", photos / "test", "--out", tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def configured(folder, key, value):
    from omegaconf import OmegaConf

    cfg = OmegaConf.load(folder / ledger.CONFIG)
    OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, folder / ledger.CONFIG)


def test_code_of_ones_own_is_run_only_if_it_is_called_trusted(runs, photos, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from tcm_bench.models.head import Head\nclass Own(Head): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(runs["frozen"], tmp_path / "run")
    configured(tmp_path / "run", "model.head._target_", "mine.Own")
    configured(tmp_path / "run", "trusted_packages", ["mine"])  # the folder's word for it is not enough
    words = ("embed", tmp_path / "run", photos / "test", "--out", tmp_path / "x.npz")
    assert "model.head._target_=mine.Own is outside the trusted packages" in sentence(*words)
    assert tcm_bench(*words, "--trusted-package", "mine").exit_code == 0


def mixed(folder, photos):
    shutil.copytree(photos / "test", folder / "mixed")
    shutil.copy(folder / "mixed" / "thing 1" / "0.png", folder / "mixed")
    return folder / "mixed"


def csv(folder, content):
    (folder / "t.csv").write_bytes(content)
    return folder / "t.csv"


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (lambda d, photos: d / "none", "there is no file or folder"),
        (lambda d, photos: photos, "holds the two sides of a split: give "),
        (mixed, "holds images (0.png) beside folders of images (thing 1)"),
        (lambda d, photos: empty(d), "found no image in"),
        (lambda d, photos: csv(d, b"path\n"), "t.csv names no image"),
        (lambda d, photos: csv(d, b"file\nx.png\n"), "t.csv is not a CSV file with a column 'path'"),
        (lambda d, photos: csv(d, b"path\nx.png\n"), "has 'x.png' as path: there is no such file"),
        (lambda d, photos: csv(d, "path\nx\n".encode("utf-16")), "t.csv is no text in UTF-8"),
        (lambda d, photos: csv(d, b"path,label\nt.csv,\n"), "t.csv has no label: fill it in"),
        (lambda d, photos: csv(d, b"path\nt.csv\n"), "t.csv cannot be decoded (it is no image)"),
        (lambda d, photos: csv(d, b"").rename(d / "t.txt"), "is no folder, no .csv table"),
        (lambda d, photos: csv(d, b"").rename(d / "t.npz"), "which is images: give an image"),
    ],
)
def test_what_holds_no_images_is_a_sentence(runs, photos, tmp_path, place, expected):
    assert expected in sentence("embed", runs["frozen"], place(tmp_path, photos), "--out", tmp_path / "x.npz")


def test_vectors_that_do_not_fit_are_a_sentence(runs, photos, tmp_path):
    run, out = runs["vectors"], tmp_path / "x.npz"
    np.savez(tmp_path / "short.npz", features=np.ones((3, 5), np.float32))
    assert "head.origin, (32,) where (5,) is expected" in sentence("embed", run, tmp_path / "short.npz", "--out", out)
    np.savez(tmp_path / "nan.npz", features=np.full((3, 32), np.nan, np.float32))
    assert "nan.npz: the embedding of row 0 is not finite" in sentence("embed", run, tmp_path / "nan.npz", "--out", out)
    assert "which is vectors: give a file of them" in sentence("embed", run, photos / "test", "--out", out)
    assert "there is no file or folder" in sentence("embed", run, tmp_path / "none.npz", "--out", out)


def test_what_cannot_be_written_is_a_sentence(runs, photos, tmp_path):
    place = photos / "test"
    assert "end the name in .npz or .safetensors" in sentence(
        "embed", runs["frozen"], place, "--out", tmp_path / "x.csv"
    )
    for name in ("x.npz", "x.safetensors"):
        (tmp_path / name).mkdir()
        assert f"cannot write {tmp_path / name}: " in sentence("embed", runs["frozen"], place, "--out", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "x.safetensors"}
