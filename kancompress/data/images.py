"""Image data sets as torchvision lays them out: their bytes, and what networks see of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kancompress.errors import Flaw, InvalidFileError
from kancompress.specs import DataOptions, DatasetName

_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A torchvision data set: class, classes, and the usual per-channel statistics."""

    source: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGE_SETS: dict[str, ImageSet] = {
    DatasetName.MNIST: ImageSet(source="MNIST", classes=10, mean=(0.1307,), std=(0.3081,)),
    DatasetName.FASHION_MNIST: ImageSet(
        source="FashionMNIST", classes=10, mean=(0.286,), std=(0.353,)
    ),
    DatasetName.CIFAR10: ImageSet(
        source="CIFAR10",
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
    ),
    DatasetName.CIFAR100: ImageSet(
        source="CIFAR100",
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}
# Fully connected networks see CIFAR images at the size of MNIST's (MetaKAN, arXiv 2506.07549).
_SIDE = 28


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Images:
    """Images as they are stored, and how they become a network's rows.

    name   : of the data set
    pixels : (rows, channels, height, width) bytes
    mean, std : of each channel, with bytes as numbers from 0 to 1
    size   : (height, width) that a network sees
    """

    name: str
    pixels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]

    def part(self, rows: Tensor) -> Images:
        """Some of the images, by their numbers (n,)."""
        return replace(self, pixels=self.pixels[rows])

    def features(self, pixels: Tensor) -> Tensor:
        """Bytes (n, channels, any height, any width) as (n, channels * height * width) float32,
        resized and normalised, on their device."""
        mean, std = (
            torch.tensor(value, device=pixels.device)[:, None, None]
            for value in (self.mean, self.std)
        )
        width = pixels.shape[1] * self.size[0] * self.size[1]
        result = torch.empty(len(pixels), width, device=pixels.device)
        for start in range(0, len(pixels), _BLOCK):
            block = pixels[start : start + _BLOCK].float().div_(255)
            if tuple(block.shape[2:]) != self.size:
                block = functional.interpolate(
                    block, size=self.size, mode="bilinear", antialias=True, align_corners=False
                )
            result[start : start + _BLOCK] = block.sub_(mean).div_(std).flatten(1)
        return result


def read_images(options: DataOptions) -> list[tuple[Images, Tensor]]:
    """Images and classes (rows,) int64 of the training and of the test rows.

    options : names one of `IMAGE_SETS`; a shape (channels, height, width) is the size to see.
              With `images` it is the images' own, and pixels run from -1 to 1 as in torch-conv-kan
    Raises InvalidFileError where they are missing or cannot be read.
    """
    from torchvision import datasets as sets

    kind = IMAGE_SETS[str(options.name)]
    make: Callable[..., Any] = getattr(sets, kind.source)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision tells of its downloads
            parts = [
                make(root=str(options.directory), train=train, download=options.download)
                for train in (True, False)
            ]
    except MemoryError:
        raise
    except Exception as error:  # torchvision has no errors of its own
        if isinstance(error, RuntimeError) and "not found" in str(error).lower():
            raise InvalidFileError(
                Flaw.MISSING,
                f"{options.name} is not in {options.directory}. Name its directory with"
                " `directory`, or let torchvision fetch it with `download`.",
                where=str(options.directory),
                fields=("directory", "download"),
            ) from None
        verb = "read or fetched" if options.download else "read"
        raise InvalidFileError(
            Flaw.UNREADABLE,
            f"{options.name} could not be {verb} in {options.directory}:"
            f" {' '.join(str(error).split()) or type(error).__name__}.",
        ) from None
    return [
        (
            _seen(_channels_first(part.data), kind, options),
            torch.as_tensor(part.targets, dtype=torch.int64),
        )
        for part in parts
    ]


def _seen(pixels: Tensor, kind: ImageSet, options: DataOptions) -> Images:
    shape = options.shape
    size = (shape[1], shape[2]) if shape and len(shape) == 3 else (_SIDE, _SIDE)
    mean, std = kind.mean, kind.std
    if options.images:
        size = (pixels.shape[2], pixels.shape[3])
        mean = std = (0.5,) * pixels.shape[1]
    return Images(name=str(options.name), pixels=pixels, mean=mean, std=std, size=size)


def _channels_first(data: Any) -> Tensor:
    """(rows, height, width[, channels]) as (rows, channels, height, width)."""
    pixels = torch.as_tensor(data)
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
