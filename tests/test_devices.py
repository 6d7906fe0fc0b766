"""Where runs compute: devices, threads, number formats."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress import devices, fitting
from kancompress.nn.network import build
from kancompress.specs import ModelName


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", list(ModelName))
def test_every_model_makes_its_tensors_where_its_parameters_are(name: ModelName) -> None:
    widths, row = ((1, 4, 4, 10), (1, 8, 8)) if name.is_conv else ((64, 8, 10), (64,))
    network = build(fresh(name.value, widths)).to("meta").train()
    output = network(torch.empty(5, *row, device="meta"))
    target = torch.empty(5, dtype=torch.int64, device="meta")
    fitting.loss_of(output, target).backward()
    assert devices.of(network).type == output.device.type == "meta"
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in network.parameters())


def test_a_device_that_is_not_there_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kancompress.save(fresh("kan"), "kan.st")
    for command in (("train", "-o", "out.st"), ("eval", "kan.st")):
        assert "--device cuda was asked for" in refused(2, *command, "--device", "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "--device mps was asked for" in refused(2, "eval", "kan.st", "--device", "mps")
    auto = done("eval", "kan.st", "--json")
    cpu = done("eval", "kan.st", "--json", "--device", "cpu")
    assert json.loads(auto.stdout)["loss"] == json.loads(cpu.stdout)["loss"]


def test_threads_are_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kancompress.save(fresh("kan"), "kan.st")
    try:
        done("eval", "kan.st", "--threads", "3")
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    finally:
        kancompress.use_threads(before)
    assert "--threads" in call("eval", "kan.st", "--threads", "0").stderr


@pytest.mark.parametrize("model", ["kan", "metafastkan", "gramkan"])
def test_bfloat16_trains_float32_parameters(model: str) -> None:
    config = kancompress.TrainConfig(lr=1e-2, lr_embedding=1e-2, epochs=3, batch_size=32)
    full = kancompress.train(model, config=config)
    half = kancompress.train(model, config=replace(config, precision="bfloat16"))
    assert all(t.dtype == torch.float32 for t in half.checkpoint.tensors.values())
    assert full.test.accuracy is not None
    assert half.test.accuracy is not None
    assert full.test.accuracy != half.test.accuracy or full.test.loss != half.test.loss
    assert half.test.accuracy > full.test.accuracy - 0.1
