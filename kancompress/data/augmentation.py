"""Augmented training images, as torch-conv-kan augments each data set.

Each image is drawn from the run's seed, the epoch and its own number, so that a run gives the same
batches whatever the number of processes that prepare or share them, and when it is resumed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kancompress.data.datasets import Split
from kancompress.data.images import IMAGE_SETS, Images
from kancompress.errors import UsageError
from kancompress.specs import DatasetName
from kancompress.system import seeds

# An epoch and the numbers of a batch's rows in it.
Batch = tuple[int, list[int]]


def is_wanted(choice: bool | None, train: Split, *, conv: bool) -> bool:
    """Whether to augment; without a choice, convolutions that learn from images do.

    Raises UsageError where that was asked for and cannot be.
    """
    if choice and train.images is None:
        raise UsageError(
            f"`augment` is for images ({', '.join(IMAGE_SETS)}); this data set has none.",
            fields=("augment",),
        )
    if choice and train.soft:
        raise UsageError(
            "`teacher` learns from outputs for rows as they are; leave `augment` out.",
            fields=("teacher", "augment"),
        )
    possible = conv and train.images is not None and not train.soft
    return possible if choice is None else choice


def transform(name: str) -> Any:
    """A callable that changes images (channels, height, width) of bytes at random.

    Handwriting is turned, moved, scaled and lit; Fashion-MNIST, for which torch-conv-kan has no
    script, likewise. CIFAR is mirrored and put through one of four policies.
    """
    from torchvision.transforms import v2

    if name in (DatasetName.MNIST, DatasetName.FASHION_MNIST):
        placed = v2.RandomAffine(degrees=20, translate=(0.1, 0.1), scale=(0.9, 1.1))
        return v2.Compose([placed, v2.ColorJitter(brightness=0.2, contrast=0.2)])
    kinds = v2.AutoAugmentPolicy
    policies = [v2.AutoAugment(kind) for kind in (kinds.CIFAR10, kinds.IMAGENET, kinds.SVHN)]
    choice = v2.RandomChoice([*policies, v2.TrivialAugmentWide()])
    return v2.Compose([v2.RandomHorizontalFlip(), choice])


class _Augmented(Dataset[Tensor]):
    """Batches of augmented images (n, channels, height, width) bytes, by epoch and rows."""

    def __init__(self, images: Images, seed: int) -> None:
        self._images = images
        self._seed = seed
        self._transform: Any = None

    def __getitem__(self, batch: Batch) -> Tensor:
        self._transform = self._transform or transform(self._images.name)
        epoch, rows = batch
        generator = torch.default_generator
        before = generator.get_state()  # dropout draws from the same one where there is no worker
        try:
            parts = []
            for row in rows:
                generator.manual_seed(seeds.mixed(self._seed, epoch, row))
                parts.append(self._transform(self._images.pixels[row]))
        finally:
            generator.set_state(before)
        return torch.stack(parts)


class Augmenter:
    """Augmented rows of a split, prepared by processes of their own.

    workers : how many; 0 prepares them in this process
    """

    def __init__(self, train: Split, seed: int, workers: int) -> None:
        assert train.images is not None
        self._images = train.images
        self._shape = train.x.shape[1:]
        self._batches: list[Batch] = []
        self._loader: DataLoader[Any] = DataLoader(
            _Augmented(train.images, seed),
            batch_size=None,
            sampler=_Sampler(self._batches),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_undisturbed,
            generator=torch.Generator(),  # else its seeds for workers shift what dropout draws
        )

    def epoch(
        self, number: int, batches: Sequence[Tensor], device: torch.device
    ) -> Iterator[Tensor]:
        """x of each batch of rows (n,), as `Split.x` has them, on a device."""
        self._batches[:] = [(number, rows.tolist()) for rows in batches]
        for pixels in self._loader:
            features = self._images.features(pixels.to(device, non_blocking=True))
            yield features.view(len(features), *self._shape)


def _undisturbed(_: int) -> None:
    """What stops a whole group of processes is for the run's own, which ends its workers."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _Sampler:
    """What the loader goes through; a list that is filled anew for every epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
