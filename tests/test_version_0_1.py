"""Files that version 0.1 wrote stay readable for good.

tests/cases/v0.1 holds checkpoints and packed files of that version, and expected.json what its own
reader made of them: the dense tensors of each packed file, and of each native network what it gives
for the first rows of digits. Nothing there is ever written anew; a later version adds a folder.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import kancompress
from command import done

OLD = Path(__file__).parent / "cases" / "v0.1"
NATIVE = sorted(path.name for path in OLD.glob("*.safetensors"))
PACKED = sorted(path.name for path in (OLD / "packed").iterdir())
OF_LIBRARIES = [
    name for name in PACKED if b'\\"restore\\"' in (OLD / "packed" / name).read_bytes()[:100_000]
]  # fmt: skip
ROWS = 2


def expected(name: str) -> dict[str, dict[str, str] | list[list[float]]]:
    return json.loads((OLD / "expected.json").read_text())[name]  # type: ignore[no-any-return]


def dense_tensors(path: Path) -> dict[str, str]:
    """Type, shape and the beginning of the SHA-256 of each tensor of a safetensors file."""
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: _told(array) for name, array in sorted(arrays.items())}


def _told(array: np.ndarray) -> str:  # type: ignore[type-arg]
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{array.dtype} {'x'.join(map(str, array.shape))} {digest[:24]}"


def outputs(path: Path, place: Path) -> np.ndarray:  # type: ignore[type-arg]
    """What a native network gives for the first test rows of digits."""
    predictions = place / "predictions.npz"
    done("eval", path, "--dataset", "digits", "--device", "cpu", "--predictions", predictions)
    with np.load(predictions) as arrays:
        return arrays["outputs"][:ROWS]  # type: ignore[no-any-return]


def agree(found: np.ndarray, name: str, rtol: float = 1e-4) -> None:  # type: ignore[type-arg]
    np.testing.assert_allclose(found, expected(name)["outputs"], rtol=rtol, atol=rtol / 5)


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_gives_the_same_dense_tensors(name: str, tmp_path: Path) -> None:
    dense = tmp_path / "dense.safetensors"
    done("expand", OLD / "packed" / name, "-o", dense)
    assert dense_tensors(dense) == expected(name)["tensors"]


@pytest.mark.parametrize("name", [*NATIVE, *(n for n in PACKED if n not in OF_LIBRARIES)])
def test_a_native_network_computes_the_same(name: str, tmp_path: Path) -> None:
    path = OLD / name if name in NATIVE else OLD / "packed" / name
    agree(outputs(path, tmp_path), name)


@pytest.mark.parametrize("name", [name for name in NATIVE if name.startswith("meta")])
def test_a_meta_checkpoint_is_clustered(name: str, tmp_path: Path) -> None:
    packed = tmp_path / "packed.st"
    done("cluster", OLD / name, "-k", "1024", "--force-pack", "-o", packed)
    # As many centroids as edges; those that differ by rounding alone may share one.
    agree(outputs(packed, tmp_path), name, rtol=1e-3)


def test_what_lay_beside_the_model_comes_back(tmp_path: Path) -> None:
    done("expand", OLD / "packed" / "extra.st", "-o", tmp_path / "trainer.pt")
    found = torch.load(tmp_path / "trainer.pt", weights_only=True)
    was = torch.load(OLD / "trainer.pt", weights_only=True)
    assert list(found) == list(was)
    assert found["epoch"] == was["epoch"]
    assert found["optimizer"]["param_groups"] == was["optimizer"]["param_groups"]
    for number, state in was["optimizer"]["state"].items():
        momentum = found["optimizer"]["state"][number]["momentum_buffer"]
        assert torch.equal(momentum, state["momentum_buffer"])


def test_indices_are_of_the_type_that_they_had() -> None:
    model = kancompress.load(OLD / "packed" / "dense_layer.st")
    packed, dense = model.layers
    indices, codebook = model.indices_of(packed), model.codebook_of(packed)
    assert codebook is not None
    assert indices.dtype == np.uint16
    rows = codebook[torch.from_numpy(indices.astype(np.int64))]
    assert torch.equal(rows.reshape(*packed.shape, -1), model.coefficients_of(packed))
    with pytest.raises(kancompress.UsageError, match="stays dense") as told:
        model.indices_of(dense)
    assert told.value.layer == dense.name
