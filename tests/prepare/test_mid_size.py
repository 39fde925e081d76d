"""The sets made from packages, on packages of the same layouts that are made here."""

import gzip
import io
import json
import struct
import tarfile

import numpy as np
import pytest
from omegaconf import OmegaConf

from tcm_bench.packages import Package
from tcm_bench.prepare import catalog
from tcm_bench.prepare.recipes import emoji, icons, mnist

SQUARE = '<path d="M{x} {y}h{w}v{w}h-{w}z" fill="currentColor"/>'
MID_SIZE = ("emoji-full", "icons-full", "mnist")


def npm(path, content):
    """An npm archive of these JSON files or bytes."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def icon_set(prefix, names, **more):
    """A set of squares, each of its own place and size."""
    places = {name: SQUARE.format(x=number % 8, y=len(prefix) % 8, w=number + 2) for number, name in enumerate(names)}
    return {"prefix": prefix, "icons": {name: {"body": body} for name, body in places.items()}, **more}


def test_emoji_go_by_current_names_without_skin_tones(tmp_path):
    former = {"aliases": {"smiley": {"parent": "grinning"}, "turned": {"parent": "grinning", "hFlip": True}}}
    sets = [
        icon_set("noto", ["grinning", "cat", "wave", "wave-light-skin-tone"], **former),
        icon_set("other", ["smiley", "cat", "turned"]),
    ]
    archives = {s["prefix"]: npm(tmp_path / f"{s['prefix']}.tgz", {"icons.json": s}) for s in sets}
    found = emoji.emoji(archives, min_drawings=2)
    assert {name: [drawing.source for drawing in group] for name, group in found.items()} == {
        "grinning": ["noto", "other"],
        "cat": ["noto", "other"],
    }
    picture = found["cat"][0].pixels
    assert picture.shape == (64, 64, 3)
    assert (picture[0, 0].tolist(), picture.min()) == ([255] * 3, 0x22)
    assert set(emoji.emoji(archives, min_drawings=1)) == {"grinning", "cat", "wave", "turned"}


def test_icons_are_taken_from_permissive_sets_only_under_the_name_of_their_idea(tmp_path):
    facts = {"author": {"name": "Somebody"}, "name": "Set", "license": {"spdx": "MIT"}, "category": "UI 24px"}
    collections = {
        "plain": facts,
        "alike": {**facts, "license": {"spdx": "CC-BY-SA-4.0"}},
        "odd": {**facts, "license": {"title": "Own"}},
        "brands": {**facts, "category": "Logos"},
        "some-emoji": {**facts, "category": None},
        "second": {**facts, "license": {"spdx": "Apache-2.0"}},
    }
    names = ["home-outline", "home", "home-filled-24", "gone"]
    sets = {f"json/{prefix}.json": icon_set(prefix, names) for prefix in collections}
    archive = npm(tmp_path / "json.tgz", {"collections.json": collections, **sets})
    credits = icons.permissive_sets(archive)
    assert credits == {"plain": "MIT: Somebody, Set", "second": "Apache-2.0: Somebody, Set"}
    found = icons.ideas(archive, credits, min_sets=2)
    assert {name: [drawing.source for drawing in group] for name, group in found.items()} == {
        "home": ["plain", "second"],
        "gone": ["plain", "second"],
    }


def idx_files(images, labels, suffix=""):
    pack = gzip.compress if suffix else bytes
    return {
        f"{part}-images-idx3-ubyte{suffix}": pack(struct.pack(">4i", 0x803, *images.shape) + images.tobytes())
        for part in ("train", "t10k")
    } | {
        f"{part}-labels-idx1-ubyte{suffix}": pack(struct.pack(">2i", 0x801, len(labels)) + labels.tobytes())
        for part in ("train", "t10k")
    }


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_both_official_parts_of_mnist_go_to_their_classes(tmp_path, suffix):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.tile(np.arange(10, dtype=np.uint8), 2)
    archive = npm(tmp_path / "mnist.tgz", {f"data/{k}": v for k, v in idx_files(images, labels, suffix).items()})
    found = mnist.digits({"toy": archive})
    assert list(found) == list("0123456789")
    for number, group in enumerate(found.values()):
        expected = np.concatenate([images[labels == number]] * 2)
        assert np.array_equal(np.stack([drawing.pixels for drawing in group]), np.stack([expected] * 3, axis=-1))


def test_an_idx_file_that_is_none_or_cut_short_is_one_sentence():
    with pytest.raises(ValueError, match="a is no IDX file"):
        mnist.idx("a", b"\x00" * 20)
    with pytest.raises(ValueError, match="b holds 3 values where it announces 5"):
        mnist.idx("b", struct.pack(">2i", 0x801, 5) + b"123")


@pytest.mark.parametrize("name", MID_SIZE)
def test_every_set_has_its_yaml_and_the_numbers_agree(root, name):
    dataset = catalog.DATASETS[name]
    cfg = OmegaConf.load(root / "conf" / "data" / f"{name.replace('-', '_')}.yaml")
    assert dataset.build is not None
    assert OmegaConf.to_container(cfg)["root"] == f"${{paths.data_dir}}/{name}"


def test_every_package_is_pinned_with_license_and_credit():
    packages = [*emoji.PACKAGES, icons.PACKAGE, mnist.PACKAGE]
    assert len({package.name for package in packages}) == len(packages) == 13
    for package in packages:
        assert isinstance(package, Package)
        assert len(package.sha256) == 64
        assert package.license
        assert package.credit
