"""Pages for a browser: their own scripts read and run packed files as torch does."""

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_hostile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_forms import (
    OPTIONS,
    SHARED,
    SUPPORTED,
    efficient_kan,
    encoded,
    needs_cases,
    polynomial_state,
)
from test_forms import packed as lossless
from test_roundtrip import native_models

import kancompress
from conftest import fresh
from javascript import NODE, Javascript
from kancompress import (
    Activation,
    ClusterConfig,
    Flaw,
    HeaderForm,
    HtmlOptions,
    IndexCoding,
    RunOptions,
    StoredDtype,
)
from kancompress.exporting.html.page import encode
from kancompress.models.foreign import packed_network
from kancompress.models.native import build
from kancompress.runtime.program import read

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not there")

EXAMPLE = Path(__file__).parents[1] / "docs" / "digits.html"
BYTES = StoredDtype.INT8
HALF = StoredDtype.FLOAT16
# A file's form, and whether its header is short.
CONFIGS = {
    "bits": ClusterConfig(clusters=5),
    "one": ClusterConfig(clusters=1, force_pack=True),
    "rans": ClusterConfig(clusters=5, indices=IndexCoding.RANS, header=HeaderForm.PLAIN),
    "short": ClusterConfig(clusters=7, header=HeaderForm.SHORT, codebook_dtype=HALF),
    "short rans": ClusterConfig(clusters=5, indices=IndexCoding.RANS, header=HeaderForm.SHORT),
    "int8": ClusterConfig(clusters=6, codebook_dtype=BYTES, side_dtype=BYTES),
    "short int8": ClusterConfig(
        clusters=6, codebook_dtype=BYTES, side_dtype=BYTES, header=HeaderForm.SHORT
    ),
    "bfloat16": ClusterConfig(
        clusters=3, codebook_dtype=StoredDtype.BFLOAT16, side_dtype=StoredDtype.BFLOAT16
    ),
}  # fmt: skip
FAMILIES = ("kan", "fastkan", "gramkan", "mlp", "kanconv", "fastkanconv", "gramkanconv")


@pytest.fixture(scope="module")
def javascript() -> Iterator[Javascript]:
    process = Javascript()
    yield process
    process.close()


def page_of(raw: bytes, **options: Any) -> bytes:
    return kancompress.export(raw, options=HtmlOptions(**options)).data


def check(javascript: Javascript, raw: bytes, seed: int = 0) -> None:
    """A page of this file gives what torch gives for random rows."""
    model = kancompress.load(raw)
    assert isinstance(model, kancompress.PackedModel)
    network = build(model).eval()
    inputs = model.layers[0].shape[1]
    shape = (inputs, 9, 7) if model.conv else (inputs,)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)) * 1.5
    with torch.no_grad():
        expected = network(x).numpy()
    more = {"side": [9, 7]} if model.conv else {}
    found = javascript.run(page_of(raw), rows=x.flatten(1).tolist(), **more)
    assert "error" not in found, found
    close(np.array(found["outputs"]), expected)
    told = kancompress.inspect(raw)
    assert found["bytes"]["header"] == told["header_bytes"]
    assert found["bytes"]["indices"] == told["totals"]["index_bytes"]
    assert found["bytes"]["codebooks"] == told["totals"]["codebook_bytes"]
    assert sum(found["bytes"].values()) == len(raw)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-30)


@cache
def drawn(family: str) -> kancompress.Checkpoint:
    return fresh(family, (2, 4, 5, 3) if family.endswith("conv") else (11, 7, 5, 4))


@pytest.mark.parametrize(
    ("family", "form"),
    [
        *((family, "short rans") for family in FAMILIES),
        *(("fastkan", form) for form in CONFIGS if form != "short rans"),
        ("kanconv", "int8"),
        ("mlp", "bits"),
    ],
)
def test_outputs_are_those_of_torch(family: str, form: str, javascript: Javascript) -> None:
    config = replace(CONFIGS[form], force_pack=True)
    check(javascript, kancompress.encode(kancompress.cluster(drawn(family), config).model))


@pytest.mark.parametrize(
    ("family", "coding", "header"),
    [
        ("kan", "bits", HeaderForm.SHORT),
        ("kan", "rans", HeaderForm.PLAIN),
        ("gramkanconv", "bits", HeaderForm.PLAIN),
        ("gramkanconv", "rans", HeaderForm.SHORT),
    ],
)
def test_edges_in_parts(
    family: str, coding: str, header: HeaderForm, javascript: Javascript
) -> None:
    size = 9 if family == "kan" else 5
    config = ClusterConfig(
        clusters=6, indices=IndexCoding(coding), header=header, force_pack=True,
        layer_parts={"0": size, "1": 3 if size == 9 else 5},
    )  # fmt: skip
    model = kancompress.cluster(drawn(family), config).model
    assert max(layer.parts for layer in model.layers) == size
    check(javascript, kancompress.encode(model))


@pytest.mark.parametrize(
    ("coding", "header"), [("bits", HeaderForm.PLAIN), ("rans", HeaderForm.SHORT)]
)
def test_kept_edges_and_shared_codebooks(
    coding: str, header: HeaderForm, javascript: Javascript
) -> None:
    model = kancompress.cluster(drawn("fastkan"), ClusterConfig(clusters=5, parts=3)).model
    first, second, third = model.layers
    rng = torch.Generator().manual_seed(1)
    kept_at = torch.tensor([0, 5, 6, 30])
    index = np.delete(first.indices().reshape(-1, 3), kept_at.numpy(), axis=0).reshape(-1)
    first = replace(
        first, index=index, kept_at=kept_at, kept=torch.randn(4, 9, generator=rng), encoding=coding
    )
    second = replace(second, codebook=None, shares="0", parts=3, encoding=coding)
    coefficients = torch.randn(*third.shape, 9, generator=rng)
    third = replace(third, codebook=None, index=None, parts=1, coefficients=coefficients)
    changed = replace(model, layers=(first, second, third), header=header)
    check(javascript, kancompress.encode(changed))


@settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(model=native_models(), coded=st.booleans())
def test_any_file_is_read(model: kancompress.PackedModel, coded: bool, javascript: Any) -> None:
    """Types, kept edges, shared codebooks, dense layers, and headers of both kinds."""
    if coded:
        layers = [
            replace(layer, encoding="rans") if (model.clusters_of(layer) or 0) >= 2 else layer
            for layer in model.layers
        ]
        model = replace(model, layers=tuple(layers))
    found = javascript.read(kancompress.encode(model))
    assert "error" not in found, found
    assert [one["name"] for one in found["layers"]] == [one.name for one in model.layers]
    for layer, own in zip(model.layers, found["layers"], strict=True):
        table = np.array(own["table"]).reshape(-1, own["size"] // own["parts"])
        vectors = table if own["rows"] is None else table[own["rows"]]
        expected = model.coefficients_of(layer).double().numpy()
        assert np.array_equal(vectors.reshape(expected.shape), expected)


# --- other libraries' networks ---------------------------------------------------------------


def check_foreign(
    javascript: Javascript, model: kancompress.PackedModel, options: RunOptions | None = None
) -> bytes:
    """The page's outputs are those of torch, each row by itself."""
    raw = kancompress.encode(model)
    program = read(raw, options=options)
    page = encode(program, HtmlOptions(), raw).data
    network = packed_network(model, options)
    x = torch.randn(3, program.inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([network(row[None]) for row in x]).numpy()
    found = javascript.run(page, rows=x.tolist())
    assert "error" not in found, found
    close(np.array(found["outputs"]), expected)
    return page


@needs_cases
def test_networks_of_other_libraries(javascript: Javascript) -> None:
    for case in SUPPORTED:
        check_foreign(javascript, lossless(SHARED / case / "distinct8.pt", 8), OPTIONS.get(case))


def test_activations_and_polynomials_of_other_libraries(javascript: Javascript) -> None:
    for activation in sorted(Activation):
        options = RunOptions(base_activation=activation)
        check_foreign(javascript, lossless(encoded(efficient_kan(uneven=True))), options)
    for name in ("cheby", "cheby2", "legendre", "hermite", "bessel"):
        check_foreign(javascript, lossless(polynomial_state(f"{name}_coeffs")))


def test_factors_and_layers_that_a_file_keeps_apart(javascript: Javascript) -> None:
    state = encoded(efficient_kan((11, 9, 4)))
    check_foreign(javascript, lossless(state, keep_scaler=True))
    page = check_foreign(javascript, lossless(state, layouts={"layers.1": "none"}))
    assert b'"name":"layers.0","stored":"layers.0"' in page
    assert b'"name":"layers.1","edges":' in page


# What the page's reader refuses; kancompress has refused the rest before it makes a page.
REFUSED = {
    Flaw.BAD_CHECKSUM_FORM, Flaw.CHECKSUM_MISMATCH, Flaw.EMPTY, Flaw.HEADER_NOT_UTF8,
    Flaw.HEADER_TOO_LARGE, Flaw.HEADER_TRUNCATED, Flaw.HOLE, Flaw.HTML, Flaw.INDEX_PADDING,
    Flaw.INDEX_RANGE, Flaw.KEPT_POSITIONS, Flaw.LATER_VERSION, Flaw.NOT_KANCOMPRESS,
    Flaw.NOT_SAFETENSORS, Flaw.TOO_MANY_CENTROIDS, Flaw.TOO_SHORT, Flaw.TORCH_PICKLE,
    Flaw.TRAILING_BYTES, Flaw.UNKNOWN_DTYPE, Flaw.WRONG_KIND,
}  # fmt: skip


def test_files_that_lie_end_with_an_error(javascript: Javascript) -> None:
    """Each of them is answered, whatever it asks for; what concerns numbers is refused."""
    for name, flaw, _, raw in test_hostile.CORPUS:
        found = javascript.read(raw)
        assert "error" in found or flaw not in REFUSED, (name, flaw)


def packed_in(page: bytes) -> bytes:
    return base64.b64decode(page.split(b'id="packed">')[1].split(b"<")[0])


def test_the_example_is_what_is_written_today() -> None:
    page = EXAMPLE.read_bytes()
    assert len(page) < 60_000
    again = page_of(packed_in(page))
    assert page == again, "write docs/digits.html anew: docs/guides/export-web.md says how"
    assert f"{len(page):,} bytes, " in (EXAMPLE.parent / "guides" / "export-web.md").read_text()


def test_a_page_is_one_file_that_asks_for_nothing() -> None:
    raw = packed_in(EXAMPLE.read_bytes())
    made = kancompress.export(raw, options=HtmlOptions(title="5 < 6 & {{script}}</title>"))
    page = made.data.decode()
    assert sum(made.parts.values()) == len(made.data) < 60_000
    assert "<title>5 &lt; 6 &amp; {{script}}&lt;/title&gt;</title>" in page
    assert not re.search(r"(src|href)=(?!\"data:,)", page)
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = page.split('Content-Security-Policy" content="')[1].split('"')[0]
    for text, kind in ((script, "script"), (style, "style")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert packed_in(made.data) == raw
    assert kancompress.export(raw, options=HtmlOptions()).data == page_of(raw)


def test_labels_are_as_many_as_outputs() -> None:
    raw = packed_in(EXAMPLE.read_bytes())
    with pytest.raises(kancompress.UsageError, match=r"2 names; the network has 10 outputs"):
        page_of(raw, labels=("a", "b"))
    assert b'"labels":["</' not in page_of(raw, labels=("</script>", *"abcdefghi"))


def test_a_dense_network_is_to_be_packed_first() -> None:
    with pytest.raises(kancompress.UsageError, match="is not packed, and a page holds"):
        page_of(fresh("kan", (4, 3)).encode())


# --- drawings --------------------------------------------------------------------------------


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> list[Any]:
    """Points of a part of an ellipse, in degrees clockwise from the right."""
    steps = [math.radians(start + (end - start) * step / 24) for step in range(25)]
    return [[x + width * math.cos(turn), y + height * math.sin(turn)] for turn in steps]


# Strokes of digits, from 0 to 1 to the right and down.
DIGITS: dict[int, list[list[Any]]] = {
    0: [arc(0.5, 0.5, 0.2, 0.3, -90, 270)],
    2: [[*arc(0.5, 0.36, 0.18, 0.16, -160, 40), [0.32, 0.8], [0.7, 0.8]]],
    4: [[[0.45, 0.2], [0.3, 0.58], [0.7, 0.58]], [[0.6, 0.35], [0.58, 0.82]]],
    5: [[[0.68, 0.2], [0.38, 0.2], [0.36, 0.46], *arc(0.48, 0.62, 0.18, 0.18, -110, 140)]],
    7: [[[0.3, 0.22], [0.7, 0.22], [0.45, 0.8]]],
    9: [[*arc(0.5, 0.36, 0.15, 0.16, 0, -360), [0.65, 0.36], [0.62, 0.6], [0.55, 0.82]]],
}


def moved(digit: int) -> list[list[Any]]:
    """A digit small and in a corner."""
    return [[[0.1 + 0.4 * x, 0.05 + 0.4 * y] for x, y in stroke] for stroke in DIGITS[digit]]


def test_drawn_digits_are_recognised(javascript: Javascript) -> None:
    page = EXAMPLE.read_bytes()
    for strokes in ([DIGITS[digit] for digit in DIGITS], [moved(digit) for digit in DIGITS]):
        found = javascript.run(page, strokes=strokes, fit=True)
        assert np.argmax(found["outputs"], axis=1).tolist() == list(DIGITS)
