"""Pages in headless Chromium: drawn on, moved by hand and by keys, silent, and alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_web import DIGITS, EXAMPLE, close, packed_in, page_of

import kancompress
from browser import CHROMIUM, Browser
from conftest import fresh
from kancompress import ClusterConfig
from kancompress.models.native import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there"),
]

SAID = "document.getElementById('said').textContent"
VALUES = "[...document.querySelectorAll('#outputs li')].map((one) => Number(one.dataset.value))"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def quiet(tab: Browser, path: Path) -> None:
    """Nothing is said on the console, and nothing but the file is asked for."""
    assert tab.log == []
    assert set(tab.requests) == {path.resolve().as_uri()}


def outputs(raw: bytes, x: torch.Tensor) -> np.ndarray:
    model = kancompress.load(raw)
    assert isinstance(model, kancompress.PackedModel)
    with torch.no_grad():
        found: np.ndarray = build(model).eval()(x).numpy()
    return found


def middle(tab: Browser, part: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element, which is brought into view."""
    tab.run(f"{part}.scrollIntoView({{ block: 'center' }})")
    sides = "({ left, top, width, height }) => [left, top, width, height]"
    left, top, width, height = tab.run(f"({sides})({part}.getBoundingClientRect())")
    return left, top, width, height


def draw(tab: Browser, digit: int) -> None:
    left, top, width, height = middle(tab, "document.getElementById('canvas')")
    for stroke in DIGITS[digit]:
        tab.drag([(left + x * width, top + y * height) for x, y in stroke])
    tab.settle()


def test_outputs_are_those_of_torch(tab: Browser) -> None:
    raw = packed_in(EXAMPLE.read_bytes())
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    expected = outputs(raw, x)
    tab.open(EXAMPLE)
    close(np.array(tab.run(f"kancompress.run({x.tolist()})")), expected)
    tab.open(EXAMPLE, "#x=" + ",".join(map(str, x[0].tolist())))
    close(np.array(tab.run(VALUES)), expected[0])
    assert tab.run("document.querySelector('#outputs .best').dataset.output") == str(
        expected[0].argmax()
    )
    quiet(tab, EXAMPLE)


def test_a_digit_is_drawn_and_recognised(tab: Browser) -> None:
    tab.size(1100, 900)
    tab.open(EXAMPLE)
    for digit in DIGITS:
        draw(tab, digit)
        tab.wait(f"{SAID}.startsWith('Most likely: {digit},')")
        tab.run("[...document.querySelectorAll('button')][0].click()")
        tab.wait(f"{SAID} === 'Draw something.'")
    quiet(tab, EXAMPLE)


def test_a_digit_is_drawn_by_keys(tab: Browser) -> None:
    tab.open(EXAMPLE)
    tab.run("document.getElementById('canvas').focus()")
    tab.press("ArrowUp", 9)
    tab.press(" ")
    tab.press("ArrowDown", 18)
    tab.press(" ")
    tab.wait(f"{SAID}.startsWith('Most likely: 1,')")
    tab.press("Backspace")
    tab.wait(f"{SAID} === 'Draw something.'")


def test_a_pixel_s_centroids_are_read_and_chosen(tab: Browser) -> None:
    model = kancompress.load(packed_in(EXAMPLE.read_bytes()))
    assert isinstance(model, kancompress.PackedModel)
    index = model.layers[0].indices().reshape(32, 8, 8)
    tab.open(EXAMPLE)
    tab.run("(unit => (unit.value = 6, unit.dispatchEvent(new Event('change'))))"
            "(document.getElementById('unit'))")  # fmt: skip
    tab.run("document.querySelector('.maps canvas').focus()")
    tab.press("ArrowDown", 2)
    tab.press("ArrowRight", 3)
    text = tab.run("document.querySelector('.map [role=status]').textContent")
    assert text.startswith(f"Row 3, column 4: centroid {index[6, 2, 3]}, which ")
    buttons = "[...document.querySelectorAll('.curves button')]"
    tab.run(f"{buttons}[5].click()")
    assert tab.run(f"{buttons}.map((one) => one.ariaPressed).indexOf('true')") == 5
    quiet(tab, EXAMPLE)


def test_sliders_move_the_outputs(tab: Browser, tmp_path: Path) -> None:
    model = kancompress.cluster(fresh("kan", (3, 5, 2)), ClusterConfig(clusters=4)).model
    raw, path = kancompress.encode(model), tmp_path / "page.html"
    path.write_bytes(page_of(raw, labels=("a", "b")))
    tab.open(path)
    tab.run("document.getElementById('x1').focus()")
    before = tab.run(VALUES)
    tab.press("ArrowRight", 30)
    x = tab.run(
        "[...document.querySelectorAll('.slider input[type=number]')].map((one) => +one.value)"
    )
    assert x == [0, 0.3, 0]
    found = np.array(tab.run(VALUES))
    assert not np.array_equal(found, before)
    close(found, outputs(raw, torch.tensor([x]))[0])
    names = "[...document.querySelectorAll('#outputs .name')].map((one) => one.textContent)"
    assert tab.run(names) == ["a", "b"]
    quiet(tab, path)


def test_convolutions_run(tab: Browser, tmp_path: Path) -> None:
    model = kancompress.cluster(
        fresh("gramkanconv", (1, 4, 5, 10)), ClusterConfig(clusters=4)
    ).model
    raw, path = kancompress.encode(model), tmp_path / "page.html"
    path.write_bytes(page_of(raw))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tab.open(path)
    found = tab.run(f"kancompress.run({x.flatten(1).tolist()})")
    close(np.array(found), outputs(raw, x))
    quiet(tab, path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(scheme: str, tab: Browser) -> None:
    tab.size(390, 844, scheme)
    tab.open(EXAMPLE)
    assert tab.run("document.documentElement.scrollWidth") <= 390
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, ground[4:-1].split(","))) < 128) == (scheme == "dark")
    tab.size(1100, 900)


def test_a_page_can_ask_for_nothing(tab: Browser) -> None:
    tab.open(EXAMPLE)
    asked = "fetch('data:text/plain,a').then(() => 'went', () => 'refused')"
    assert tab.run(asked) == "refused"
    assert "Content Security Policy" in " ".join(tab.log)


def test_a_page_says_that_its_file_is_damaged(tab: Browser, tmp_path: Path) -> None:
    page, path = EXAMPLE.read_bytes(), tmp_path / "page.html"
    path.write_bytes(page.replace(b'id="packed">', b'id="packed">AAAA'))
    tab.open(path)
    told = tab.run("document.querySelector('[role=alert]:not([hidden])').textContent")
    assert told.startswith("The network does not run: ")
