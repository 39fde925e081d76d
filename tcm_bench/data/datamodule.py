"""The four loaders of a run: training batches, held-out, unseen and seen classes."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from tcm_bench.data.batch import Batch
from tcm_bench.data.image_cache import cached_images
from tcm_bench.data.loader import Batches, BatchIndices, BatchLoader
from tcm_bench.data.sampler import ClassBalancedSampler, drawable_batch, drawable_classes
from tcm_bench.data.table import FeatureTable, ImageTable, Splits, Table
from tcm_bench.data.transforms import ImageTransform

log = logging.getLogger(__name__)

STANDARD_BATCH = (64, 4)  # classes, images of each


class TableDataset(Dataset[Batch]):
    """Batches of a table, or parts of them.

    A random transform draws from torch's global generator, seeded for each item by ``(seed, epoch, row)``:
    an item looks the same whichever worker or rank makes it. The generator is left as it was found.

    Args:
        table: Images or features.
        transform: Applied to each image; not used for features.
        seed: Of the transform.
        classes: Those that are there, in the order in which they are numbered from 0; None: all, as the table does.

    Raises:
        ValueError: If the table holds images and there is no transform.
    """

    def __init__(
        self,
        table: Table,
        transform: ImageTransform | None = None,
        seed: int = 0,
        classes: np.ndarray | None = None,
    ) -> None:
        if not isinstance(table, FeatureTable) and transform is None:
            raise ValueError(f"{type(table).__name__} holds images: a transform to tensors is needed, got none")
        self.table = table
        self.transform = transform
        self.seed = seed
        self.labels = table.labels
        if classes is not None:
            numbers = np.full(table.num_classes, -1)
            numbers[classes] = np.arange(len(classes))
            self.labels = numbers[table.labels]

    def __len__(self) -> int:
        """Number of items."""
        return len(self.table)

    def __getitem__(self, indices: BatchIndices) -> Batch:
        """The items of ``indices.rows``, in their order; of no row, where a part of a batch is empty."""
        rows = np.asarray(indices.rows, dtype=np.int64)
        if isinstance(self.table, FeatureTable):
            inputs = torch.from_numpy(np.asarray(self.table.features[rows], dtype=np.float32))
        else:
            inputs = self._images(indices)
        return Batch(inputs, torch.from_numpy(self.labels[rows]), torch.from_numpy(rows))

    def _images(self, indices: BatchIndices) -> Tensor:
        """The images of these rows, each written to its place while it is fresh."""
        assert self.transform is not None
        side = self.transform.size_px
        images = torch.empty((len(indices.rows), 3, side, side), dtype=torch.uint8, memory_format=torch.channels_last)
        if get_worker_info() is not None:
            images.share_memory_()  # now, empty: it would be copied on its way out of the worker
        with torch.random.fork_rng(devices=[]):
            for place, row in zip(images, indices.rows, strict=True):
                place.copy_(self._image(indices.epoch, row))
        return images

    def _image(self, epoch: int, row: int) -> Tensor:
        """One image, transformed."""
        assert isinstance(self.table, ImageTable)
        assert self.transform is not None
        (state,) = np.random.SeedSequence((self.seed, epoch, row)).generate_state(1)
        torch.default_generator.manual_seed(int(state))  # 100 times faster than torch.manual_seed: CPU only
        return self.transform(self.table.picture(row))


class TrainingBatches(Batches):
    """The batches of a :class:`ClassBalancedSampler` together with their epoch.

    Workers outlive epochs, so the epoch must travel with the rows. Passed as ``sampler`` (and no batch size),
    because Lightning calls ``set_epoch`` on a loader's ``sampler``, but not on its ``batch_sampler``.

    Args:
        batches: In the order of their epoch.
        always_first: Yield the first epoch's batches in every epoch.
        done: Batches of the first epoch to iterate that have been trained on before, and are passed over.
    """

    def __init__(self, batches: ClassBalancedSampler, *, always_first: bool = False, done: int = 0) -> None:
        self.batches = batches
        self.always_first = always_first
        self.done = done

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.batches.set_epoch(0 if self.always_first else epoch)

    def whole(self) -> Iterator[BatchIndices]:
        """The epoch's batches, or those that are left of it."""
        done, self.done = self.done, 0
        for rows in itertools.islice(self.batches, done, None):
            yield BatchIndices(self.batches.epoch, rows)


class EvaluationBatches(Batches):
    """Every row once, in order, cut into near-equal batches: the same number on every rank.

    The number must be the same because a forward pass may synchronize ranks. No row is repeated, except where
    a rank would have an empty batch (fewer rows than ranks): it evaluates the first row again, and whoever
    gathers the batches must key them by ``indices``.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"test_batch_size must be at least 1, got {batch_size}")
        parts = np.array_split(rows, world_size)
        batches = np.array_split(parts[rank], -(-len(parts[0]) // batch_size))  # the first part is the longest
        self.batches = [(batch if len(batch) else rows[:1]).tolist() for batch in batches]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def whole(self) -> Iterator[BatchIndices]:
        """The batches."""
        return (BatchIndices(0, rows) for rows in self.batches)


class RetrievalData(L.LightningDataModule):
    """Loaders over the splits of a dataset, whether they hold images or features.

    Training batches come from a :class:`ClassBalancedSampler`. All loaders cut themselves by rank: use
    ``Trainer(use_distributed_sampler=False)``.

    Args:
        splits: Training and test tables.
        train_transform: For training images, may be random.
        test_transform: For evaluation images.
        classes_per_batch: Of the training batches; None: 64, or as many as there are.
        images_per_class: Of the training batches; None: 4, or as many as the largest class has. A class that has fewer
            gives all, and further classes fill the batch.
        batches_per_epoch: ``None``: as many as the training images fill.
        test_batch_size: Images at a time in evaluation; changes no result.
        seen_classes: Training classes that are evaluated beside the test classes; all if there are fewer.
        validation_classes: Training classes that are held out from training, for choosing settings.
        held_out_together: Neighbors in the order of classes that are held out together, because they are related;
            must divide `validation_classes`.
        seed: Of the batches and of the random transform. Which classes are seen or held out does not depend
            on it: they are spaced evenly over the training classes.
        num_workers: Processes that decode images; features are always read in the main process.
        image_cache_gb: Keep decoded images in a cache of at most this size; 0: decode one whenever it is needed.
            Changes no result.
        cache_dir: Where that cache lies.

    Raises:
        ValueError: If a number is out of range, the training classes do not give the batch, or images come without
            transforms.
    """

    def __init__(
        self,
        splits: Splits,
        train_transform: ImageTransform | None = None,
        test_transform: ImageTransform | None = None,
        *,
        classes_per_batch: int | None = None,
        images_per_class: int | None = None,
        batches_per_epoch: int | None = None,
        test_batch_size: int = 256,
        seen_classes: int = 500,
        validation_classes: int = 0,
        held_out_together: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        image_cache_gb: float = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        available = splits.train.num_classes
        if not 0 <= validation_classes < available:
            raise ValueError(
                f"validation_classes must leave some of the {available} training classes, got {validation_classes}"
            )
        if seen_classes < 1:
            raise ValueError(f"seen_classes must be at least 1, got {seen_classes}")
        if image_cache_gb and cache_dir and train_transform and test_transform and isinstance(splits.train, ImageTable):
            splits = cached_images(
                splits,
                train_transform,
                test_transform,
                cache_dir=cache_dir,
                limit_gb=image_cache_gb,
                num_workers=num_workers,
            )
        self.splits = splits
        if validation_classes % held_out_together:
            raise ValueError(
                f"validation_classes must be a multiple of the {held_out_together} that are held out together, got "
                f"{validation_classes}"
            )
        families = _evenly_spaced(np.arange(available // held_out_together), validation_classes // held_out_together)
        self.validation_classes = (families[:, None] * held_out_together + np.arange(held_out_together)).flatten()
        self.train_classes = np.setdiff1d(np.arange(available), self.validation_classes)
        self.drawn_classes = drawable_classes(splits.train.labels, self.train_classes)
        self.seen_classes = _evenly_spaced(self.train_classes, seen_classes)
        self.seed = seed
        self.num_workers = num_workers
        self.test_batch_size = test_batch_size
        # Numbered anew, for a loss with proxies has none of the classes that are never drawn.
        self._augmented = TableDataset(splits.train, train_transform, seed, self.drawn_classes)
        self._known = TableDataset(splits.train, test_transform)
        self._unseen = TableDataset(splits.test, test_transform)
        self.classes_per_batch, self.images_per_class = self._batch(classes_per_batch, images_per_class)
        self.batches_per_epoch = batches_per_epoch
        self._done = 0
        self._training_batches()  # refuse what cannot be drawn now, not after the network has been built

    def _batch(self, classes_per_batch: int | None, images_per_class: int | None) -> tuple[int, int]:
        """The batch that is asked for, the standard one as far as the data give it where nothing is."""
        labels = self.splits.train.labels
        given = (classes_per_batch, images_per_class)
        asked = [standard if one is None else one for one, standard in zip(given, STANDARD_BATCH, strict=True)]
        fitted = drawable_batch(labels, self.train_classes, *asked)
        largest = int(np.bincount(labels)[self.train_classes].max())
        there = f"{len(self.train_classes)} training classes, the largest of {largest} images"
        too_many = classes_per_batch is not None and fitted[0] < classes_per_batch
        if too_many or (images_per_class is not None and images_per_class > min(fitted[1], largest)):
            most = drawable_batch(labels, self.train_classes, asked[0], min(asked[1], largest))
            raise ValueError(
                f"data.loader.classes_per_batch={asked[0]} data.loader.images_per_class={asked[1]} cannot be drawn "
                f"from {there}; data.loader.classes_per_batch={most[0]} data.loader.images_per_class={most[1]} can"
            )
        if fitted != tuple(asked):
            log.info("a batch of %d classes x %d images -> %d x %d: there are %s", *asked, *fitted, there)
        return fitted

    @property
    def shared_classes(self) -> set[str]:
        """Names of the test classes that are trained on: none, unless the set is closed."""
        trained = {self.splits.train.class_names[number] for number in self.train_classes}
        return trained.intersection(self.splits.test.class_names)

    def setup(self, stage: str) -> None:
        """Without held-out classes there is nothing to validate: tell the trainer, which warns otherwise."""
        if self.trainer is not None and not len(self.validation_classes):
            self.trainer.limit_val_batches = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch have been trained on; part of a checkpoint."""
        assert self.trainer is not None
        taken = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"batches": taken % int(self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind the batches that the checkpoint has seen."""
        self._done = state_dict["batches"]

    def training_items(self, epoch: int, rows: Sequence[int], device: str | torch.device = "cpu") -> Batch:
        """Items of the training table as a step of that epoch sees them, ready for the network.

        Args:
            epoch: Decides what a random transform does.
            rows: Of the table.
            device: Where the network is.
        """
        batch = Batch(*(tensor.to(device) for tensor in self._augmented[BatchIndices(epoch, list(rows))]))
        return self._normalized(batch, self._augmented)

    def unseen(self, device: torch.device) -> Iterator[Batch]:
        """This process's share of the test items, in batches that are ready for the network."""
        loader, *_ = self.test_dataloader()
        for batch in loader:
            yield self._normalized(Batch(*(tensor.to(device) for tensor in batch)), self._unseen)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Make pixels the network's input, where the network is: loaders ship bytes, a quarter of the floats."""
        dataset = self._augmented if self.trainer is not None and self.trainer.training else self._known
        return self._normalized(batch, dataset)

    def _normalized(self, batch: Batch, dataset: TableDataset) -> Batch:
        if dataset.transform is None:
            return batch
        return batch._replace(inputs=dataset.transform.normalize(batch.inputs))

    def train_dataloader(self) -> BatchLoader:
        """Class-balanced batches of the training classes."""
        done, self._done = self._done, 0
        return self._loader(self._augmented, self._training_batches(done), again=True)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """The held-out training classes; an empty list if there are none."""
        if not len(self.validation_classes):
            return []
        return self._loader(self._known, self._evaluation_batches(self._rows(self.validation_classes)), again=True)

    def test_dataloader(self) -> list[BatchLoader]:
        """The test classes, the seen classes and, if there are any, those held out."""
        everything = np.arange(len(self.splits.test))
        known = [classes for classes in (self.seen_classes, self.validation_classes) if len(classes)]
        return [
            self._loader(self._unseen, self._evaluation_batches(everything)),
            *(self._loader(self._known, self._evaluation_batches(self._rows(classes))) for classes in known),
        ]

    @property
    def _ranks(self) -> dict[str, int]:
        """This process among its peers."""
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _training_batches(self, done: int = 0) -> TrainingBatches:
        """The sampler of the training loader; `done` batches of its first epoch are passed over."""
        return TrainingBatches(
            ClassBalancedSampler(
                self.splits.train.labels,
                classes_per_batch=self.classes_per_batch,
                images_per_class=self.images_per_class,
                batches_per_epoch=self.batches_per_epoch,
                classes=self.train_classes,
                seed=self.seed,
                **self._ranks,
            ),
            always_first=getattr(self.trainer, "overfit_batches", 0) > 0,
            done=done,
        )

    def _evaluation_batches(self, rows: np.ndarray) -> EvaluationBatches:
        """The sampler of an evaluation loader."""
        return EvaluationBatches(rows, self.test_batch_size, **self._ranks)

    def _rows(self, classes: np.ndarray) -> np.ndarray:
        """Rows of the training table that belong to ``classes``."""
        return np.flatnonzero(np.isin(self.splits.train.labels, classes))

    def _loader(self, dataset: TableDataset, batches: Batches, again: bool = False) -> BatchLoader:
        """A loader of a dataset's batches; whoever iterates `again` over it finds the same workers."""
        workers = 0 if isinstance(dataset.table, FeatureTable) else self.num_workers
        return BatchLoader(
            dataset,
            batches,
            num_workers=workers,
            persistent_workers=again and workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # spares the global one, which the network uses
        )


def _evenly_spaced(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` of ``values``, or all of them, at even distances."""
    count = min(count, len(values))
    return values[(2 * np.arange(count) + 1) * len(values) // (2 * max(count, 1))]
