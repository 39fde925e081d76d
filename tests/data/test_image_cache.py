import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tcm_bench.data.datamodule import BatchIndices, RetrievalData, TableDataset
from tcm_bench.data.image_cache import CachedImages, cached_images
from tcm_bench.data.table import ImageArray, ImageFiles, Paths, Splits
from tcm_bench.data.transforms import Augmentation, Preprocessing

SIZES = [(97, 71), (64, 200), (16, 16), (33, 250), (300, 210)]
PLAIN = {"size_px": 16, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def files(folder, prefix):
    """Images of many sizes and kinds, two of each class."""
    folder.mkdir()
    names = []
    for number, size in enumerate(SIZES * 2):
        pixels = np.random.default_rng((number, ord(prefix))).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        names.append(f"{number}.{'png' if number == 1 else 'jpg'}")
        (image.convert("L") if number == 2 else image).save(folder / names[-1])
    labels = np.arange(len(names)) % len(SIZES)
    return ImageFiles(labels, [f"{prefix}{n}" for n in range(len(SIZES))], Paths(folder, names))


@pytest.fixture
def splits(tmp_path):
    return Splits(files(tmp_path / "train", "a"), files(tmp_path / "test", "b"), fingerprint="data")


def transforms(**settings):
    return Augmentation(**PLAIN, **settings), Preprocessing(**PLAIN, **settings)


def cached(splits, folder, transforms, limit_gb=1.0, **settings):
    return cached_images(splits, *transforms, cache_dir=folder, limit_gb=limit_gb, **settings)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("settings", [{}, {"scaled_decode": True}, {"shrink_px": 24}])
def test_transforms_give_the_same_bytes_with_a_cache_as_without(splits, tmp_path, settings, num_workers):
    chains = transforms(**settings)
    stored = cached(splits, tmp_path / "cache", chains, num_workers=num_workers)
    assert stored.fingerprint == splits.fingerprint
    rows = list(range(len(splits.train)))
    for before, after in ((splits.train, stored.train), (splits.test, stored.test)):
        assert isinstance(after, CachedImages)
        assert isinstance(after._bytes, np.memmap)
        assert after.class_names == before.class_names
        for chain in chains:
            expected, found = (TableDataset(table, chain)[BatchIndices(3, rows)] for table in (before, after))
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_without_shrinking_all_pixels_are_kept(splits, tmp_path):
    stored = cached(splits, tmp_path / "cache", transforms())
    for before, after in ((splits.train, stored.train), (splits.test, stored.test)):
        for row in range(len(before)):
            np.testing.assert_array_equal(after.picture(row).pixels(), before.picture(row).pixels())
            assert after.picture(row).factors == (1,)


def test_smaller_sizes_are_kept_only_where_a_scaled_decode_may_want_them(splits, tmp_path):
    stored = cached(splits, tmp_path / "cache", transforms(scaled_decode=True)).train
    factors = [stored.picture(row).factors for row in range(len(SIZES))]
    assert factors == [(1, 2, 4), (1,), (1,), (1, 2), (1, 2, 4, 8)]  # the second is a PNG
    one_chain = cached(splits, tmp_path / "cache", (transforms(scaled_decode=True)[0], transforms()[1])).train
    assert one_chain.file == stored.file


def test_a_cache_is_made_once_and_again_for_other_images_or_settings(splits, tmp_path):
    made = []

    def make(splits, **settings):
        return cached(
            splits,
            tmp_path / "cache",
            transforms(**settings),
            on_progress=lambda done, total: made.append((done, total)),
        ).train.file

    first = make(splits)
    assert made == [(done, 20) for done in range(21)]
    assert make(splits) == first
    assert len(made) == 21
    others = [make(splits, shrink_px=24), make(splits, shrink_px=25), make(splits, scaled_decode=True)]
    others.append(make(Splits(splits.train, splits.test, "other")))
    assert len({first, *others}) == 5
    assert len(made) == 5 * 21


def test_a_damaged_cache_is_made_again(splits, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    file = cached(splits, tmp_path / "cache", transforms()).train.file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert cached(splits, tmp_path / "cache", transforms()).train.file == file
    assert "cached decoded images" in caplog.text
    assert file.read_bytes() == content


def test_a_cache_that_does_not_fit_is_refused_before_it_is_made(splits, tmp_path):
    with pytest.raises(
        ValueError, match=r"20 decoded images need .* GB, machine.image_cache_gb allows 0.0001: raise it"
    ):
        cached(splits, tmp_path / "cache", transforms(), limit_gb=1e-4)
    assert not (tmp_path / "cache").exists()
    cached(splits, tmp_path / "cache", transforms(shrink_px=16), limit_gb=1e-4)
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) < 1e5


def test_an_image_that_cannot_be_decoded_is_named_and_leaves_no_cache(splits, tmp_path):
    broken = tmp_path / "test" / "7.jpg"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"7\.jpg cannot be decoded"):
        cached(splits, tmp_path / "cache", transforms())
    assert {file.suffix for file in (tmp_path / "cache").iterdir()} == {".lock"}


def test_chains_that_shrink_differently_share_no_cache(splits, tmp_path):
    chains = transforms(shrink_px=24)[0], transforms()[1]
    with pytest.raises(ValueError, match="needs one shrink_px and interpolation for all"):
        cached(splits, tmp_path / "cache", chains)


def test_another_process_gets_the_place_of_the_pixels_not_the_pixels(splits, tmp_path):
    stored = cached(splits, tmp_path / "cache", transforms()).train
    pixels = stored.picture(4).pixels()
    parcel = pickle.dumps(stored)
    assert len(parcel) < stored._bytes.nbytes / 50
    np.testing.assert_array_equal(pickle.loads(parcel).picture(4).pixels(), pixels)


def test_masks_of_queries_and_gallery_stay(splits, tmp_path):
    table = splits.test
    query = np.arange(len(table)) < 3
    masked = ImageFiles(table.labels, table.class_names, table.paths, query=query)
    stored = cached(Splits(splits.train, masked, "data"), tmp_path / "cache", transforms())
    assert stored.test.query is query
    assert stored.test.gallery is None


def test_pictures_in_memory_can_be_cached_too(tmp_path):
    tables = [
        ImageArray(np.array([0, 0]), [name], np.random.default_rng(0).integers(0, 256, (2, 9, 8), dtype=np.uint8))
        for name in "ab"
    ]
    stored = cached(Splits(*tables, "gray"), tmp_path / "cache", transforms())
    np.testing.assert_array_equal(stored.test.picture(1).pixels()[..., 2], tables[1].images[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_ship_the_same_bytes_with_a_cache_as_without(splits, tmp_path, num_workers):
    def batches(**settings):
        train, test = transforms(scaled_decode=True)
        data = RetrievalData(splits, train, test, classes_per_batch=2, images_per_class=2, **settings)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        return [*loader, *data.test_dataloader()[0]]

    plain = batches()
    stored = batches(image_cache_gb=1, cache_dir=tmp_path / "cache", num_workers=num_workers)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert len(plain) > 2
    for one, other in zip(plain, stored, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
