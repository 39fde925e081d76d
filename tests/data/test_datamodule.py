import itertools
import logging
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tcm_bench.data.batch import Batch
from tcm_bench.data.datamodule import BatchIndices, EvaluationBatches, RetrievalData, TableDataset
from tcm_bench.data.sampler import ClassBalancedSampler
from tcm_bench.data.table import FeatureTable, ImageArray, Splits
from tcm_bench.data.transforms import Augmentation, Preprocessing

PLAIN = {"size_px": 16, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
CLASSES, IMAGES = 12, 6


def labels_of(classes):
    return np.random.default_rng(1).permutation(np.repeat(np.arange(classes), IMAGES))


def image_table(prefix, classes=CLASSES):
    labels = labels_of(classes)
    pixels = np.random.default_rng(len(prefix)).integers(0, 256, (len(labels), 20, 20, 3), dtype=np.uint8)
    return ImageArray(labels, [f"{prefix}{number}" for number in range(classes)], pixels)


def feature_table(prefix, classes=CLASSES):
    labels = labels_of(classes)
    features = np.random.default_rng(len(prefix)).normal(size=(len(labels), 8)).astype(np.float32)
    return FeatureTable(labels, [f"{prefix}{number}" for number in range(classes)], features)


def images(**settings):
    return data(image_table, train_transform=Augmentation(**PLAIN), test_transform=Preprocessing(**PLAIN), **settings)


def features(**settings):
    return data(feature_table, **settings)


def data(table, **settings):
    splits = Splits(train=table("train"), test=table("test"), fingerprint="")
    return RetrievalData(splits, **{"classes_per_batch": 4, "images_per_class": 3, **settings})


def as_rank(module, rank, world_size):
    device = torch.device("cpu")
    module.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=SimpleNamespace(root_device=device)
    )
    return module


def epochs(loader, count=2):
    """The batches of the first epochs, as Lightning asks for them."""
    result = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        result.append(list(loader))
    return result


def test_training_batches_are_rows_of_the_features():
    module = features()
    table = module.splits.train
    batches = list(module.train_dataloader())
    assert len(batches) == CLASSES * IMAGES // 12
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.inputs.dtype == torch.float32
        assert torch.equal(batch.inputs, torch.from_numpy(table.features[batch.indices]))
        assert torch.equal(batch.labels, torch.from_numpy(table.labels[batch.indices]))
        assert batch.labels.unique(return_counts=True)[1].tolist() == [3] * 4


def test_features_on_disk_stay_there(tmp_path):
    table = feature_table("a")
    np.save(tmp_path / "x.npy", table.features)
    mapped = FeatureTable(table.labels, table.class_names, np.load(tmp_path / "x.npy", mmap_mode="r"))
    batch = TableDataset(mapped)[BatchIndices(0, [5, 2, 5])]
    assert torch.equal(batch.inputs, torch.from_numpy(table.features[[5, 2, 5]]))
    batch.inputs.zero_()  # a copy of its own
    assert np.array_equal(mapped.features, table.features)


@pytest.mark.parametrize(("num_workers", "test_batch_size"), [(0, 7), (2, 2)])  # two rows in three parts
def test_evaluation_images_are_the_tables_own(num_workers, test_batch_size):
    settings = {"train_transform": Preprocessing(**PLAIN), "test_transform": Preprocessing(**PLAIN)}
    settings |= {"test_batch_size": test_batch_size, "num_workers": num_workers}
    module = data(lambda prefix: image_table(prefix, classes=4), **settings)
    (unseen, seen) = module.test_dataloader()
    for loader, table in ((unseen, module.splits.test), (seen, module.splits.train)):
        batches = list(loader)
        indices = torch.cat([batch.indices for batch in batches])
        assert torch.equal(indices, torch.arange(len(table)))
        assert len(batches) == len(loader) == -(-len(table) // test_batch_size)
        assert max(len(batch.labels) for batch in batches) <= test_batch_size
        for batch in batches:
            expected = [module._unseen.transform(table.picture(row)) for row in batch.indices.tolist()]
            assert torch.equal(batch.inputs, torch.stack(expected))
            assert torch.equal(batch.labels, torch.from_numpy(table.labels)[batch.indices])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_augmentation_is_the_same_for_any_number_of_workers_and_ranks():
    alone = epochs(images(seed=7).train_dataloader())
    for num_workers, world_size in ((1, 1), (4, 1), (0, 2), (1, 2)):
        loaders = [
            as_rank(images(seed=7, num_workers=num_workers), rank, world_size).train_dataloader()
            for rank in range(world_size)
        ]
        assert {loader.persistent_workers for loader in loaders} == {num_workers > 0}
        parts = [itertools.chain(*epochs(loader)) for loader in loaders]  # the same workers serve both epochs
        for batch, *shares in zip(itertools.chain(*alone), *parts, strict=True):
            for column, pieces in zip(batch, zip(*shares, strict=True), strict=True):
                assert torch.equal(column, torch.cat(pieces))
    first, second = alone[0][0], alone[1][0]
    dataset = images(seed=7)._augmented
    assert torch.equal(dataset[BatchIndices(1, second.indices.tolist())].inputs, second.inputs)
    assert not torch.equal(dataset[BatchIndices(1, first.indices.tolist())].inputs, first.inputs)


class Counting(Preprocessing):
    """Counts the images that it has made in all processes."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.made = multiprocessing.Value("q")

    def __call__(self, picture):
        image = super().__call__(picture)
        with self.made.get_lock():
            self.made.value += 1
        return image


class Asking(EvaluationBatches):
    """Counts the images that it has asked for."""

    asked = 0

    def __iter__(self):
        for indices in super().__iter__():
            self.asked += len(indices.rows)
            yield indices


def bytes_in_shared_memory():
    """Of tensors that this process and its workers map or have open, but for those of less than a page."""
    sizes = {}
    for process in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            if "/torch_" in line:
                start, end = (int(place, 16) for place in line.split()[0].split("-"))
                sizes[line.split()[4]] = end - start
        for handle in Path(f"/proc/{process}/fd").iterdir():
            if handle.is_symlink() and "/torch_" in str(handle.readlink()):
                sizes[str(handle.stat().st_ino)] = handle.stat().st_size
    return sum(size for size in sizes.values() if size > os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_workers_hold_no_more_than_two_batches_in_shared_memory():
    transform = Counting(**{**PLAIN, "size_px": 32})
    module = data(image_table, train_transform=transform, test_transform=transform, num_workers=4)
    batches = Asking(np.tile(np.arange(40), 5), batch_size=40)
    batch_bytes = 40 * 3 * 32 * 32
    until = time.monotonic() + 100
    for _ in module._loader(module._known, batches):
        while transform.made.value < batches.asked and time.monotonic() < until:
            time.sleep(0.001)  # until the workers have nothing left to do
        held = bytes_in_shared_memory()
        assert held <= 2 * batch_bytes
        assert held > batch_bytes or batches.asked == 5 * 40  # they read ahead


def test_loaders_ship_bytes_and_the_device_makes_them_the_networks_input():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    train, test = Augmentation(16, mean, std), Preprocessing(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    module = data(image_table, train_transform=train, test_transform=test)
    batch = next(iter(module.train_dataloader()))
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs.shape == (12, 3, 16, 16)
    evaluated = module.on_after_batch_transfer(batch)
    torch.testing.assert_close(evaluated.inputs, batch.inputs.float() / 255)
    assert torch.equal(evaluated.labels, batch.labels)
    as_rank(module, 0, 1).trainer.training = True
    expected = (batch.inputs / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(module.on_after_batch_transfer(batch).inputs, expected)
    vectors = next(iter(features().train_dataloader()))
    assert features().on_after_batch_transfer(vectors) is vectors


def test_augmentation_depends_on_seed_epoch_and_row():
    table, transform = image_table("a"), Augmentation(**PLAIN)
    twins = ImageArray(table.labels, table.class_names, np.repeat(table.images[:1], len(table), axis=0))
    looks = [
        TableDataset(twins, transform, seed)[BatchIndices(epoch, [row])].inputs
        for seed in (0, 1)
        for epoch in (0, 1)
        for row in (0, 1)
    ]
    assert not any(torch.equal(looks[i], looks[j]) for i in range(8) for j in range(i))
    again = TableDataset(twins, transform, 1)[BatchIndices(1, [5, 1])].inputs[1:]
    assert torch.equal(again, looks[-1])


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(images().train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize(("rows", "batch_size"), [(72, 7), (61, 256), (61, 1), (16, 4), (3, 2)])
def test_ranks_evaluate_every_row_once_in_equally_many_batches(rows, batch_size, world_size):
    table = np.arange(100, 100 + rows)
    draws = [list(EvaluationBatches(table, batch_size, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in draws}) == 1
    sizes = [len(draw.rows) for batches in draws for draw in batches]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    seen = [row for batches in draws for draw in batches for row in draw.rows]
    assert set(seen) == set(table.tolist())
    surplus = sum(len(batches) for batches in draws) - rows  # more batches than rows: some must repeat one
    assert len(seen) == rows + max(0, surplus)
    assert seen.count(100) == 1 + max(0, surplus)


def test_held_out_and_seen_classes_are_fixed_and_apart():
    module = features(validation_classes=3, seen_classes=4, seed=0)
    other = features(validation_classes=3, seen_classes=4, seed=1)
    assert module.validation_classes.tolist() == other.validation_classes.tolist() == [2, 6, 10]
    assert module.seen_classes.tolist() == other.seen_classes.tolist()
    assert not set(module.seen_classes) & set(module.validation_classes)

    def labels(loader):
        return set(torch.cat([batch.labels for batch in loader]).tolist())

    assert labels(module.val_dataloader()) == {2, 6, 10}
    assert module.train_classes.tolist() == sorted(set(range(12)) - {2, 6, 10})
    for batch in module.train_dataloader():  # numbered anew
        assert module.train_classes[batch.labels].tolist() == module.splits.train.labels[batch.indices].tolist()
    assert labels(module.train_dataloader()) == set(range(9))
    assert module.drawn_classes.tolist() == module.train_classes.tolist()
    assert labels(module.test_dataloader()[1]) == set(module.seen_classes)
    assert len(module.seen_classes) == 4
    assert labels(features(seen_classes=500).test_dataloader()[1]) == set(range(12))
    assert features().val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_classes": 12}, "must leave some of the 12 training classes, got 12"),
        ({"validation_classes": 11}, "at least two classes with at least two images each, the data have 1: add images"),
        ({"seen_classes": 0}, "seen_classes must be at least 1"),
        ({"classes_per_batch": 0}, "classes_per_batch >= 1"),
    ],
)
def test_impossible_settings_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        features(**settings)


def test_images_need_a_transform():
    with pytest.raises(ValueError, match="ImageArray holds images: a transform to tensors is needed"):
        data(image_table)


class Recorder(L.LightningModule):
    """Learns something that depends on every batch, and writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)
        self.given = {}

    def training_step(self, batch, batch_idx):
        self.given.setdefault(self.current_epoch, []).append(batch.indices.tolist())
        return self.layer(batch.inputs).square().mean()

    def validation_step(self, batch, batch_idx):
        self.given.setdefault("validation", set()).update(batch.indices.tolist())

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.given.setdefault(f"test {dataloader_idx}", []).extend(batch.indices.tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_may_warn(test):
    """Not about what is tested: features need no workers, resuming finds a checkpoint, torch has moved on."""
    messages = (
        ".*does not have many workers",
        ".isinstance.treespec, LeafSpec.. is deprecated",
        "Checkpoint directory .* exists and is not empty",
    )
    for message in messages:
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


def trainer(folder, max_epochs):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)],
        log_every_n_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@lightning_may_warn
def test_a_trainer_moves_through_the_epochs_and_resumes_in_step(tmp_path):
    torch.manual_seed(0)
    start = Recorder().state_dict()

    def model():
        fresh = Recorder()
        fresh.load_state_dict(start)
        return fresh

    undisturbed = model()
    whole = trainer(tmp_path / "whole", 4)
    whole.fit(undisturbed, datamodule=features(validation_classes=2))
    classes = np.setdiff1d(np.arange(CLASSES), undisturbed.trainer.datamodule.validation_classes)
    sampler = ClassBalancedSampler(labels_of(CLASSES), classes_per_batch=4, images_per_class=3, classes=classes)
    expected = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        expected.append(list(sampler))
    assert all(expected[i] != expected[j] for i in range(4) for j in range(i))
    assert [undisturbed.given[epoch] for epoch in range(4)] == expected
    assert len(undisturbed.given["validation"]) == 2 * IMAGES

    resumed = model()
    trainer(tmp_path / "part", 2).fit(resumed, datamodule=features(validation_classes=2))
    resumed = model()
    trainer(tmp_path / "part", 4).fit(
        resumed,
        datamodule=features(validation_classes=2),
        ckpt_path=tmp_path / "part" / "epoch=1.ckpt",
        weights_only=False,
    )
    assert [resumed.given.get(epoch) for epoch in range(4)] == [None, None, *expected[2:]]
    assert torch.equal(resumed.layer.weight, undisturbed.layer.weight)


class Looker(Recorder):
    """Sees images; notes what they are when they reach the network."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(("train", *self.traits(batch.inputs)))
        return self.layer(batch.inputs.mean((2, 3))).square().mean()

    def validation_step(self, batch, batch_idx):
        self.seen.append(("validate", *self.traits(batch.inputs)))

    test_step = validation_step

    def traits(self, images):
        layout = "channels last" if images.is_contiguous(memory_format=torch.channels_last) else "channels first"
        return images.dtype, layout, images.min().item() < 0


@lightning_may_warn
def test_a_trainer_normalizes_each_kind_of_batch_by_its_own_transform(tmp_path):
    centered = {**PLAIN, "mean": (0.5, 0.5, 0.5)}
    transforms = {"train_transform": Augmentation(**centered), "test_transform": Preprocessing(**PLAIN)}
    model = Looker()
    module = data(image_table, **transforms, validation_classes=2, num_workers=1)
    trainer(tmp_path, 1).fit(model, datamodule=module)
    kind = torch.float32, "channels last"
    assert set(model.seen) == {("train", *kind, True), ("validate", *kind, False)}


@lightning_may_warn
def test_a_trainer_works_without_validation_and_tests_unseen_then_seen(tmp_path):
    module = features(seen_classes=3)
    model = Recorder()
    run = trainer(tmp_path, 1)
    run.fit(model, datamodule=module)
    assert "validation" not in model.given
    run.test(model, datamodule=module, verbose=False)
    assert model.given["test 0"] == list(range(len(module.splits.test)))
    assert model.given["test 1"] == np.flatnonzero(np.isin(module.splits.train.labels, module.seen_classes)).tolist()


def test_a_batch_larger_than_the_data_is_fitted_to_them_and_said(caplog):
    caplog.set_level(logging.INFO)
    asked = {"classes_per_batch": None, "images_per_class": None, "validation_classes": 3}
    module = features(**asked)
    assert (module.classes_per_batch, module.images_per_class) == (9, 4)
    (line,) = caplog.messages
    assert line == "a batch of 64 classes x 4 images -> 9 x 4: there are 9 training classes, the largest of 6 images"
    whole = epochs(module.train_dataloader())
    assert {len(batch.labels.unique()) for batch in whole[0]} == {9}
    for world_size in (2, 3):  # the same batch, cut
        parts = [epochs(as_rank(features(**asked), rank, world_size).train_dataloader()) for rank in range(world_size)]
        for number, batches in enumerate(whole):
            for batch, *shares in zip(batches, *(part[number] for part in parts), strict=True):
                assert torch.equal(batch.indices, torch.cat([share.indices for share in shares]))


def test_a_batch_that_can_be_drawn_is_left_as_it_was_asked_for(caplog):
    caplog.set_level(logging.INFO)
    module = features(classes_per_batch=6, images_per_class=6)  # some have fewer: each gives all, and more fill up
    assert (module.classes_per_batch, module.images_per_class) == (6, 6)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("classes", "images", "fitting"),
    [(64, 4, (9, 4)), (10, 6, (9, 6)), (6, 9, (6, 6)), (100, 100, (9, 6)), (9, 6, None)],
)
def test_a_batch_that_the_training_classes_do_not_give_is_refused_with_one_that_they_do(classes, images, fitting):
    asked = {"classes_per_batch": classes, "images_per_class": images, "validation_classes": 3}
    if fitting is None:
        assert features(**asked).classes_per_batch == classes
        return
    told = (
        f"data.loader.classes_per_batch={classes} data.loader.images_per_class={images} cannot be drawn from 9 "
        f"training classes, the largest of 6 images; data.loader.classes_per_batch={fitting[0]} "
        f"data.loader.images_per_class={fitting[1]} can"
    )
    with pytest.raises(ValueError, match=f"^{told}$"):
        features(**asked)
    features(**{**asked, "classes_per_batch": fitting[0], "images_per_class": fitting[1]})


def test_related_classes_are_held_out_together():
    module = features(validation_classes=6, held_out_together=3)
    assert module.validation_classes.tolist() == [3, 4, 5, 9, 10, 11]
    with pytest.raises(ValueError, match="must be a multiple of the 3 that are held out together, got 4"):
        features(validation_classes=4, held_out_together=3)
