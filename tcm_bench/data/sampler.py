"""Class-balanced batches, a pure function of seed and epoch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def drawable_classes(labels: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Those, of ``classes`` or of all, that have two images: of a single one there is no positive pair."""
    found = np.flatnonzero(np.bincount(labels) >= 2)
    return found if classes is None else np.intersect1d(found, classes)


def drawable_batch(
    labels: np.ndarray, classes: np.ndarray, classes_per_batch: int, images_per_class: int
) -> tuple[int, int]:
    """The batch that is asked for or, where the classes are too few or too small for it, the one nearest to it.

    Then ``images_per_class`` is lowered as far as no class has so many, or two classes could not be in the batch, and
    ``classes_per_batch`` to what the classes give. Nothing else decides it: it is the same on any number of ranks.

    Args:
        labels: int ``(items,)``, class of each item.
        classes: Classes to draw from.
        classes_per_batch: Asked for.
        images_per_class: Asked for.

    Returns:
        ``classes_per_batch`` and ``images_per_class``, neither above what was asked for.

    Raises:
        ValueError: If fewer than two classes have two images.

    Example:
        >>> drawable_batch(np.repeat(np.arange(5), 3), np.arange(5), 64, 4)
        (5, 3)
    """
    counts = np.bincount(labels)[drawable_classes(labels, classes)]
    if len(counts) < 2:
        raise ValueError(
            f"training needs at least two classes with at least two images each, the data have {len(counts)}: "
            "add images, or hold out fewer classes with data.loader.validation_classes"
        )

    def capacity(images: int) -> int:
        return int(np.minimum(counts, images).sum())

    if capacity(images_per_class) >= classes_per_batch * images_per_class:
        return classes_per_batch, images_per_class
    images = min(images_per_class, int(counts.max()))
    while capacity(images) < 2 * images:  # ends at 2: every class has two
        images -= 1
    return min(classes_per_batch, capacity(images) // images), images


class ClassBalancedSampler(Sampler[list[int]]):
    """Batches of ``classes_per_batch`` classes with ``images_per_class`` images each.

    Classes and images are dealt from shuffled decks: within an epoch every class is drawn before any is
    drawn again, and so is every image of a class, so that draws differ by at most one. No class and no
    image occurs twice in a batch.

    Class sizes may differ. A class with a single image has no positive pair and is never drawn. A class with
    fewer than ``images_per_class`` images gives all it has and further classes fill the batch, which always
    holds exactly ``classes_per_batch * images_per_class`` images; the class that fills it up may give fewer
    than it has, but no image is left without a positive (unless the batch is odd and its classes are pairs).

    The batches depend on ``seed`` and on the epoch set by :meth:`set_epoch`, and on nothing else: every rank
    draws the same global batch and keeps its own contiguous part, so that the union over any number of ranks
    is the batch of a single one, and an epoch can be repeated or resumed without the ones before it.

    Args:
        labels: int ``(items,)``, class of each item.
        classes_per_batch: At least 1.
        images_per_class: At least 2.
        batches_per_epoch: ``None``: as many as the drawable images fill.
        classes: Classes to draw from; ``None``: all.
        seed: At least 0.
        rank: Part of the batch to yield, ``0 <= rank < world_size``.
        world_size: Number of equal parts; must divide the batch.

    Raises:
        ValueError: If the images do not suffice for one batch, or the parts would not be equal.

    Example:
        >>> sampler = ClassBalancedSampler(
        ...     np.repeat([0, 1, 2], 4), classes_per_batch=2, images_per_class=3
        ... )
        >>> [len(batch) for batch in sampler]
        [6, 6]
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        classes_per_batch: int,
        images_per_class: int,
        batches_per_epoch: int | None = None,
        classes: np.ndarray | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if classes_per_batch < 1 or images_per_class < 2:
            raise ValueError(
                "a batch needs classes_per_batch >= 1 and images_per_class >= 2 to hold a positive pair, "
                f"got {classes_per_batch} x {images_per_class}"
            )
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be at least 1, or null for one pass, got {batches_per_epoch}")
        counts = np.bincount(labels)
        drawable = np.zeros(len(counts), dtype=bool)
        drawable[drawable_classes(labels, classes)] = True
        order = np.argsort(labels, kind="stable")
        # Rows of the drawable classes, class after class; half as many bytes to copy in every epoch.
        self._rows = order[drawable[labels[order]]].astype(np.int32)
        self._counts = counts[drawable]
        self._starts = np.cumsum(self._counts) - self._counts
        self._gives = np.minimum(self._counts, images_per_class)
        self._size = classes_per_batch * images_per_class

        batch = f"a batch of {classes_per_batch} x {images_per_class} = {self._size} images"
        if (capacity := int(self._gives.sum())) < self._size:
            most = capacity // images_per_class
            remedy = f"lower classes_per_batch to at most {most}" if most else "lower images_per_class"
            raise ValueError(
                f"{batch} cannot be drawn: the {len(self._counts)} classes with at least two images "
                f"give {capacity} when each gives at most {images_per_class}, so {remedy} or add images"
            )
        if self._size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"{batch} cannot be cut into equal parts for rank {rank} of {world_size}: "
                f"make data.loader.classes_per_batch * images_per_class a multiple of the number of ranks"
            )
        part = self._size // world_size
        self._part = slice(rank * part, (rank + 1) * part)
        self._batches = batches_per_epoch or len(self._rows) // self._size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """The epoch's batches, as rows of the table; this rank's part of each."""
        rng = np.random.default_rng((self.seed, self.epoch))
        class_deck = np.empty(0, dtype=np.int64)
        # Every class's cards lie in its own segment of `cards`; those before its cursor have been dealt. All
        # decks start as used up.
        cards, cursor = self._rows.copy(), self._counts.copy()
        for _ in range(self._batches):
            classes, class_deck = self._deal_classes(class_deck, rng)
            rows = self._deal_images(classes, self._shares(classes), cards, cursor, rng)
            yield rows[self._part].tolist()

    def _deal_classes(self, deck: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Just enough distinct classes for one batch, and the deck that remains."""
        window = deck[: self._size // 2 + 1]  # every class gives two images or more
        filled = np.cumsum(self._gives[window])
        needed = int(np.searchsorted(filled, self._size)) + 1
        if needed <= len(deck):
            return deck[:needed], deck[needed:]

        # The deck ends inside the batch: go on with a fresh one, passing over the classes in hand.
        missing = self._size - self._gives[deck].sum()
        fresh = rng.permutation(len(self._counts))
        held = np.isin(fresh, deck)
        others = fresh[~held]
        needed = int(np.searchsorted(np.cumsum(self._gives[others]), missing)) + 1
        rest = rng.permutation(np.concatenate([others[needed:], fresh[held]]))
        return np.concatenate([deck, others[:needed]]), rest

    def _shares(self, classes: np.ndarray) -> np.ndarray:
        """Images that each class of a batch gives; they sum to the batch exactly."""
        shares = self._gives[classes]
        shares[-1] -= shares.sum() - self._size
        donors = np.flatnonzero(shares > 2)
        if shares[-1] == 1 and len(donors):  # a lone image would have no positive
            shares[-1] += 1
            shares[donors[-1]] -= 1
        return shares

    def _deal_images(
        self,
        classes: np.ndarray,
        shares: np.ndarray,
        cards: np.ndarray,
        cursor: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The next ``shares`` images of each class, class after class; moves ``cursor``, shuffles ``cards`` as it goes.

        A card is chosen among those left of its deck, and changes places with the first of them: dealing costs what is
        dealt, however large the decks are. Where a deck ends inside the batch, the next one starts with all cards but
        the last ones, which are in the batch.
        """
        counts, starts, first = self._counts[classes], self._starts[classes], cursor[classes]
        rows = np.empty(self._size, dtype=cards.dtype)
        ends = np.cumsum(shares)
        for number in range(int(shares.max())):
            gives = np.flatnonzero(shares > number)
            position, end = first[gives] + number, counts[gives]
            renewed = position >= end
            position, end = np.where(renewed, position - end, position), np.where(renewed, first[gives], end)
            place, chosen = starts[gives] + position, starts[gives] + rng.integers(position, end)
            rows[(ends - shares)[gives] + number] = cards[chosen]
            cards[place], cards[chosen] = cards[chosen], cards[place]
        after = first + shares
        cursor[classes] = np.where(after > counts, after - counts, after)
        return rows
