"""Augmented images: what is drawn, from what, and that nothing else depends on who draws."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kancompress
from command import refused
from kancompress.data import augmentation, datasets
from kancompress.data.augmentation import Augmenter
from kancompress.data.datasets import Split
from kancompress.data.images import IMAGE_SETS, Images
from kancompress.specs import DataOptions
from kancompress.system import distributed
from kancompress.training import loop as fitting
from kancompress.training import state as states
from kancompress.training.history import Epoch
from kancompress.training.loop import Schedule

CPU = torch.device("cpu")


def split(name: str, rows: int = 60) -> Split:
    """Blobs on black, in the shape of a data set's images."""
    kind = IMAGE_SETS[name]
    channels, side = len(kind.mean), 28 if len(kind.mean) == 1 else 32
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(rows, channels, side, side, dtype=torch.uint8)
    middle = (rows, channels, side - 16, side - 16)
    pixels[:, :, 8:-8, 8:-8] = torch.randint(
        64, 256, middle, dtype=torch.uint8, generator=generator
    )
    images = Images(name=name, pixels=pixels, mean=kind.mean, std=kind.std, size=(side, side))
    x = images.features(pixels).view(rows, channels, side, side)
    return Split(x=x, y=torch.arange(rows) % 10, images=images)


def epoch(rows: Split, number: int, *, seed: int = 0, workers: int = 0, size: int = 16) -> Tensor:
    """All rows of an epoch, augmented, in the order of their numbers."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(number))
    found = Augmenter(rows, seed, workers).epoch(number, torch.split(order, size), CPU)
    return torch.cat(list(found))[torch.argsort(order)]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_rows_depend_on_seed_epoch_and_row_alone(name: str) -> None:
    rows = split(name)
    first = epoch(rows, 1)
    assert first.shape == rows.x.shape
    assert torch.equal(epoch(rows, 1, workers=1), first)
    assert torch.equal(epoch(rows, 1, size=7), first)
    assert not torch.equal(epoch(rows, 2), first)
    assert not torch.equal(epoch(rows, 1, seed=1), first)
    assert rows.images is not None
    twins = replace(rows, images=rows.images.part(torch.zeros(60, dtype=torch.int64)))
    assert len({row.numpy().tobytes() for row in epoch(twins, 1)}) > 30  # of one image


def test_handwriting_is_turned_moved_and_lit_but_little() -> None:
    rows = split("mnist")
    kind = IMAGE_SETS["mnist"]
    images = (epoch(rows, 1) * kind.std[0] + kind.mean[0]) * 255
    assert images.min() > -0.01
    assert images.max() < 255.01
    whole = (rows.x * kind.std[0] + kind.mean[0]) * 255
    # brightness and contrast change by a fifth at most, lengths by a tenth
    ratio = images.sum((1, 2, 3)) / whole.sum((1, 2, 3))
    assert 0.8**2 * 0.9**2 * 0.9 < ratio.min() < 0.95
    assert 1.02 < ratio.max() < 1.2**2 * 1.1**2 * 1.1
    grid = torch.arange(28.0)
    centres = [(part.sum((1, 2)) * grid).sum(1) / part.sum((1, 2, 3)) for part in (images, whole)]
    assert 1 < (centres[0] - centres[1]).abs().max() < 0.1 * 28 + 1


def test_photographs_are_mirrored_and_put_through_one_policy() -> None:
    from torchvision.transforms import v2

    flip, choice = augmentation.transform("cifar100").transforms
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert flip.p == 0.5
    policies = [getattr(change, "policy", type(change)) for change in choice.transforms]
    kinds = v2.AutoAugmentPolicy
    assert policies == [kinds.CIFAR10, kinds.IMAGENET, kinds.SVHN, v2.TrivialAugmentWide]


def learnt(rows: Split, file: states.StateFile | None = None, last: int = 9) -> list[Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(rows.x[0].numel(), 10))

    def stop(found: Epoch) -> None:
        if found.number == last:
            raise InterruptedError

    fitting.fit(
        network,
        [{"params": list(network.parameters()), "lr": 1e-3}],
        rows,
        Schedule(epochs=3, patience=9, batch_size=16, seed=0, augment=True),
        measure=lambda: fitting.score(network, rows),
        keeper=states.keeper(file, dict, CPU),
        workers=0 if last == 1 else 1,
        on_epoch=stop,
    )
    return list(network.parameters())


def test_training_is_the_same_with_any_workers_and_when_it_is_resumed(tmp_path: Path) -> None:
    rows, path = split("mnist"), tmp_path / "state"
    assert rows.images is not None
    before = rows.x.clone(), rows.images.pixels.clone()
    uncut = learnt(rows)
    with pytest.raises(InterruptedError):
        learnt(rows, states.StateFile(path=path), last=1)
    cut = learnt(rows, states.StateFile(path=path, resume=path))
    assert all(torch.equal(a, b) for a, b in zip(uncut, cut, strict=True))
    # what it is measured on stays as it was
    assert torch.equal(rows.x, before[0])
    assert torch.equal(rows.images.pixels, before[1])


def test_processes_that_share_a_batch_draw_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = split("mnist")
    whole = next(Augmenter(rows, 0, 0).epoch(1, [torch.arange(20)], CPU))
    monkeypatch.setattr(distributed, "count", lambda: 2)
    halves = []
    for number in range(2):
        monkeypatch.setattr(distributed, "number", lambda number=number: number)
        own, _ = distributed.part(torch.arange(20))
        halves.append(next(Augmenter(rows, 0, 0).epoch(1, [own], CPU)))
    assert torch.equal(torch.cat(halves), whole)


def test_what_augments_by_itself_and_what_cannot(tmp_path: Path) -> None:
    images, plain = split("mnist"), datasets.load_for_training(DataOptions(), seed=0).train
    assert augmentation.is_wanted(None, images, conv=True)
    assert not augmentation.is_wanted(None, images, conv=False)
    assert not augmentation.is_wanted(None, plain, conv=True)
    assert not augmentation.is_wanted(None, replace(images, soft=True), conv=True)
    assert augmentation.is_wanted(True, images, conv=False)
    assert not augmentation.is_wanted(False, images, conv=True)
    with pytest.raises(kancompress.UsageError, match="--distill"):
        augmentation.is_wanted(True, replace(images, soft=True), conv=True)
    line = refused(2, "train", "--augment", "-o", tmp_path / "out.st")
    assert line.startswith("--augment is for images (mnist, fashion-mnist, cifar10, cifar100)")
