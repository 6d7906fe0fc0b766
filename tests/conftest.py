"""Small networks that many tests share."""

import os
from pathlib import Path

import pytest
import torch

import kancompress
from kancompress.models.native import initialise, to_checkpoint
from kancompress.models.records import Checkpoint
from kancompress.specs import DataSpec, ModelName, default_basis, default_conv, default_meta

# There are as many processes of tests as cores; more threads than that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def fresh(name: str, widths: tuple[int, ...] = (64, 32, 10), seed: int = 0) -> Checkpoint:
    """A freshly drawn checkpoint of a model, for digits."""
    model = ModelName(name)
    basis = default_basis(model.family, conv=model.is_conv)
    conv = default_conv(len(widths) - 2) if model.is_conv else None
    meta = default_meta(conv=model.is_conv) if model.is_meta else None
    network = initialise(basis, widths, meta, seed, conv=conv)
    data = DataSpec(name="digits", classes=widths[-1], mean=(0.0,), std=(1.0,))
    return to_checkpoint(network, basis, data, conv)


@pytest.fixture(scope="session")
def trained() -> Checkpoint:
    """metafastkan after a few epochs of digits."""
    config = kancompress.TrainConfig(lr=1e-3, lr_embedding=1e-2, epochs=6)
    return kancompress.train("metafastkan", config=config).checkpoint


@pytest.fixture(scope="session")
def packed(trained: Checkpoint) -> kancompress.PackedModel:
    """`trained`, clustered at k = 16."""
    return kancompress.cluster(trained).model


@pytest.fixture
def packed_file(packed: kancompress.PackedModel, tmp_path: Path) -> Path:
    """`packed` on disk."""
    path = tmp_path / "packed.safetensors"
    kancompress.save(packed, path)
    return path
