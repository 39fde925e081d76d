"""Features of a frozen backbone: the right vectors, computed once, never from a damaged file."""

import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from tcm_bench.data.features import frozen_features
from tcm_bench.data.table import FeatureTable, ImageArray, Splits


class Backbone(nn.Module):
    """Mean color through a linear map; counts the images it sees."""

    num_features = 5

    def __init__(self, weights: str = "a"):
        super().__init__()
        self.identity = {"weights": weights}
        self.conv = nn.Conv2d(3, 5, 1)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.drop(self.conv(images)).mean(dim=(2, 3))

    def for_inference(self):
        return self


class Transform:
    def __init__(self, scale: float = 1.0):
        self.identity = {"scale": scale}

    def __call__(self, picture):
        return torch.from_numpy(picture.pixels()).permute(2, 0, 1)

    def normalize(self, images):
        assert images.dtype == torch.uint8
        return images.float() * (self.identity["scale"] / 255)


def images(items: int, names: list[str], seed: int) -> ImageArray:
    pixels = np.random.default_rng(seed).integers(0, 256, (items, 4, 4, 3), dtype=np.uint8)
    return ImageArray(np.arange(items) % len(names), names, pixels)


@pytest.fixture
def splits():
    return Splits(train=images(10, ["a", "b"], 0), test=images(7, ["c", "d"], 1), fingerprint="data")


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone()


def extract(backbone, splits, folder, transform=None, **settings) -> Splits:
    return frozen_features(backbone, splits, transform or Transform(), cache_dir=folder, batch_size=4, **settings)


def test_vectors_are_the_backbones_image_by_image(backbone, splits, tmp_path):
    backbone.train()
    features = extract(backbone, splits, tmp_path / "new" / "folder")
    for before, after in ((splits.train, features.train), (splits.test, features.test)):
        assert isinstance(after, FeatureTable)
        assert isinstance(after.features, np.memmap)
        assert after.features.dtype == np.float32
        assert after.class_names == before.class_names
        np.testing.assert_array_equal(after.labels, before.labels)
        with torch.no_grad():
            transform = Transform()
            inputs = [transform.normalize(transform(before.picture(i)))[None] for i in range(len(before))]
            expected = [backbone.eval()(image)[0] for image in inputs]
        np.testing.assert_allclose(after.features, torch.stack(expected).numpy(), rtol=1e-5, atol=1e-6)
    assert features.fingerprint == splits.fingerprint


def test_they_are_computed_once(backbone, splits, tmp_path):
    first = extract(backbone, splits, tmp_path)
    assert backbone.seen == 17
    second = extract(backbone, splits, tmp_path)
    assert backbone.seen == 17
    np.testing.assert_array_equal(first.train.features, second.train.features)
    np.testing.assert_array_equal(first.test.features, second.test.features)


def test_another_backbone_transform_or_data_has_features_of_its_own(backbone, splits, tmp_path):
    extract(backbone, splits, tmp_path)
    other = Backbone("b")
    extract(other, splits, tmp_path)
    extract(backbone, splits, tmp_path, transform=Transform(2.0))
    extract(backbone, Splits(splits.train, splits.test, fingerprint="other data"), tmp_path)
    assert (other.seen, backbone.seen) == (17, 51)
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*.json"))) == 4


def test_the_sidecar_says_what_the_file_is(backbone, splits, tmp_path):
    extract(backbone, splits, tmp_path)
    (sidecar,) = tmp_path.glob("*.json")
    facts = json.loads(sidecar.read_text())
    assert facts["shape"] == [17, 5]
    assert facts["of"]["backbone"] == {"weights": "a"}
    assert facts["of"]["transform"] == {"scale": 1.0}
    assert facts["of"]["data"] == "data"
    assert np.load(sidecar.with_suffix(".npy")).shape == (17, 5)


def flip_a_byte(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("suffix", "damage", "warned"),
    [
        (".npy", flip_a_byte, True),
        (".npy", lambda file: file.write_bytes(file.read_bytes()[:-4]), True),
        (".npy", lambda file: file.unlink(), True),
        (".json", lambda file: file.write_text("{"), True),
        (".json", lambda file: file.unlink(), False),  # never finished
    ],
)
def test_a_damaged_file_is_computed_again(backbone, splits, tmp_path, caplog, suffix, damage, warned):
    good = extract(backbone, splits, tmp_path).train.features.copy()
    (file,) = tmp_path.glob(f"*{suffix}")
    damage(file)
    again = extract(backbone, splits, tmp_path)
    assert backbone.seen == 34
    np.testing.assert_array_equal(again.train.features, good)
    assert ("are damaged" in caplog.text) is warned
    extract(backbone, splits, tmp_path)
    assert backbone.seen == 34


def test_an_interruption_leaves_no_file_that_counts(backbone, splits, tmp_path):
    def interrupt(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(backbone, splits, tmp_path, on_progress=interrupt)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".lock"}
    assert extract(backbone, splits, tmp_path).test.features.shape == (7, 5)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(backbone, splits, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))  # the system's own refusal, at byte 300 of 468
    try:
        with pytest.raises(ValueError, match=r"cannot be written .* backbone features .* set paths.cache_dir"):
            extract(backbone, splits, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.suffix for file in tmp_path.iterdir()} <= {".lock"}


def test_a_folder_that_cannot_be_made_is_one_sentence(backbone, splits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        extract(backbone, splits, tmp_path / "file" / "cache")


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from test_features import Backbone, Splits, Transform, images, frozen_features, torch
class Slow(Transform):
    def __call__(self, image):
        time.sleep(0.15)
        return super().__call__(image)
torch.manual_seed(0)
splits = Splits(train=images(10, ["a", "b"], 0), test=images(7, ["c", "d"], 1), fingerprint="data")
report = lambda done, total: print(done, flush=True)
frozen_features(Backbone(), splits, Slow(), cache_dir={cache!r}, batch_size=4, on_progress=report)
"""


@pytest.fixture
def child(request, tmp_path):
    """Another process that has begun to compute the same features into ``tmp_path``."""
    code = CHILD.format(tests=str(request.path.parent), cache=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["0\n", "4\n"]
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_waits_for_the_first(child, backbone, splits, tmp_path):
    started = time.monotonic()
    features = extract(backbone, splits, tmp_path)
    assert time.monotonic() - started > 0.3
    assert backbone.seen == 0
    assert features.train.features.shape == (10, 5)


def test_a_killed_process_leaves_the_work_to_the_next(child, backbone, splits, tmp_path):
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(tmp_path.glob("*.partial"))
    extract(backbone, splits, tmp_path)
    assert backbone.seen == 17
    assert not list(tmp_path.glob("*.partial"))


def test_progress_is_reported_and_no_bar_is_drawn_without_a_terminal(backbone, splits, tmp_path, capsys):
    seen = []
    extract(backbone, splits, tmp_path, on_progress=lambda *step: seen.append(step))
    assert seen == [(done, 17) for done in (0, 4, 8, 10, 14, 17)]
    assert capsys.readouterr() == ("", "")


def test_the_runs_random_numbers_are_left_alone(backbone, splits, tmp_path):
    state = torch.get_rng_state()
    extract(backbone, splits, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_vector_that_is_not_finite_is_named(backbone, splits, tmp_path):
    with torch.no_grad():
        backbone.conv.bias[0] = torch.nan
    with pytest.raises(ValueError, match="vector of image 0 of train is not finite"):
        extract(backbone, splits, tmp_path)


def test_vectors_have_no_features_of_their_own(backbone, splits, tmp_path):
    with pytest.raises(ValueError, match="needs tables of images, got a FeatureTable"):
        extract(backbone, extract(backbone, splits, tmp_path), tmp_path)
