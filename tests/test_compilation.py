"""torch.compile: the same numbers where a compiler is there, a clear word where not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kancompress
from conftest import fresh
from kancompress.models.native import build
from kancompress.system import compilation
from kancompress.warnings import CompileFallbackWarning


def test_without_a_compiler_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.shutil, "which", lambda _: None)
    config = kancompress.TrainConfig(lr=1e-3, lr_embedding=1e-2, epochs=1, compile=True)
    with pytest.warns(CompileFallbackWarning, match="C\\+\\+ compiler"):
        done = kancompress.train("metafastkan", config=config)
    plain = kancompress.train(
        "metafastkan", config=kancompress.TrainConfig(lr=1e-3, lr_embedding=1e-2, epochs=1)
    )
    assert kancompress.encode(done.checkpoint) == kancompress.encode(plain.checkpoint)


@pytest.mark.exhaustive
def test_with_a_compiler_that_fails_training_goes_on(tmp_path: Path) -> None:
    line = "-m kancompress train --model kan --hidden 4 --epochs 1 --compile -o out.st"
    place = {"CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, *line.split()],
        cwd=tmp_path, env=os.environ | place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "torch.compile does not work here" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out.st").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about this machine, not about us
@pytest.mark.parametrize("model", [pytest.param("kan", marks=pytest.mark.exhaustive), "metakan"])
def test_compiled_twin_gives_the_same_gradients(model: str) -> None:
    network = build(fresh(model, (12, 6, 3)))
    twin = compilation.compiled(network)
    assert twin is not None
    x = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
    network(x).square().sum().backward()
    eager = [parameter.grad.clone() for parameter in network.parameters()]  # type: ignore[union-attr]
    network.zero_grad()
    twin(x).square().sum().backward()
    for before, parameter in zip(eager, network.parameters(), strict=True):
        assert torch.allclose(before, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_goes_through() -> None:
    config = kancompress.TrainConfig(lr=1e-3, epochs=1, compile=True)
    done = kancompress.train("kan", config=config, hidden=(4,))
    assert done.history[-1].train_loss is not None
