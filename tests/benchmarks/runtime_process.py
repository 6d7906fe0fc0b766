"""One runtime in a process of its own, for `tests.benchmarks.runtimes`.

It loads little beside the runtime, whose start is measured: the file names come as JSON in the
variable RUNTIME_FILES, the runtime's name is the argument.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

RUNTIMES = ("torch, dense", "torch, packed", "numpy", "onnx, folded", "onnx, not folded", "C")
_SECONDS = 0.15  # of a measurement, at least

Run = Callable[[np.ndarray], np.ndarray]


def torch_dense(files: dict[str, str]) -> Run:
    return _torch(files["dense"])


def torch_packed(files: dict[str, str]) -> Run:
    return _torch(files["packed"])


def _torch(path: str) -> Run:
    torch = import_module("torch")
    torch.set_num_threads(1)
    module = import_module("kancompress").load(path).module()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = module(torch.from_numpy(x)).numpy()
        return found

    return run


def in_numpy(files: dict[str, str]) -> Run:
    run: Run = import_module("kancompress.runtime").load(files["packed"]).run
    return run


def onnx_folded(files: dict[str, str]) -> Run:
    return _onnx(files["onnx"], folded=True)


def onnx_not_folded(files: dict[str, str]) -> Run:
    return _onnx(files["onnx"], folded=False)


def _onnx(path: str, *, folded: bool) -> Run:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not folded:
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "ConstantFolding"
        )
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {name: x})[0]
        return found

    return run


def in_c(files: dict[str, str]) -> Run:
    """A library of the header and a loop over rows."""
    ctypes = import_module("ctypes")
    library = ctypes.CDLL(files["library"])
    outputs = int(files["outputs"])
    pointer = ctypes.POINTER(ctypes.c_float)

    def run(x: np.ndarray) -> np.ndarray:
        y = np.empty((len(x), outputs), np.float32)
        status = library.run_rows(
            x.ctypes.data_as(pointer), y.ctypes.data_as(pointer), len(x), x[0].size
        )
        assert status == 0
        return y

    return run


OPENERS = dict(
    zip(
        RUNTIMES,
        (torch_dense, torch_packed, in_numpy, onnx_folded, onnx_not_folded, in_c),
        strict=True,
    )
)


def child(name: str, files: dict[str, str]) -> None:
    """Answer with the first row's outputs and the memory held, then with seconds a call."""
    rows = np.load(files["rows"])
    held = _resident()
    run = OPENERS[name](files)
    first = run(rows[:1])
    print(json.dumps({"first": first.tolist(), "held": _resident() - held}), flush=True)
    for line in sys.stdin:
        batch = rows[: int(line)]
        run(batch)
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < _SECONDS:
            run(batch)
            count += 1
        print(json.dumps((time.perf_counter() - begin) / count), flush=True)


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    child(sys.argv[1], json.loads(os.environ["RUNTIME_FILES"]))
