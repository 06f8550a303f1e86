"""In a browser: an image that is dropped on the page gets the classes that the model gives it."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeps.demo.server import DemoServer, demo_server
from sweeps.final_model.pyfunc_model import ImageModel
from tests.browser import CHROMIUM, Page, page_in_chromium
from tests.javascript import PACKAGES, needs_packages
from tests.sweeps.final_model.image_tables import file_of, noise, other_colours, turned

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    needs_packages("onnxruntime-web"),
]
STATE = "document.getElementById('page').dataset.state"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[DemoServer]:
    with demo_server(folder, PACKAGES / "onnxruntime-web", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(server: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with page_in_chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.open(server.address)
        page.wait_for(f"document.getElementById('page') && {STATE} !== 'loading'")
        assert page.evaluate(STATE) == "ready", page.complaints
        yield page
        assert page.complaints == []


@pytest.fixture(scope="module")
def opened(folder: Path) -> ImageModel:
    return ImageModel(folder, 1024, {})


def answered(page: Page, file: Path, *, dropped: bool = True) -> dict[str, float]:
    """Give the page a file; what it says, in its order."""
    page.evaluate(f"{STATE} = 'given'")
    if dropped:
        page.drop(file, "#drop")
    else:
        page.choose(file, "#file")
    page.wait_for(f"['done', 'failed'].includes({STATE})")
    said = page.evaluate("document.getElementById('status').textContent")
    assert page.evaluate(STATE) == "done", said
    lines: list[Any] = page.evaluate(
        "[...document.querySelectorAll('#bars li')].map((line) =>"
        " [line.querySelector('.name').textContent, Number(line.dataset.probability)])"
    )
    assert page.evaluate("document.getElementById('best').textContent") == lines[0][0]
    return dict(lines)


def seen(page: Page) -> np.ndarray:
    """The picture that the page says the net sees: (R, R, 3) uint8."""
    address: str = page.evaluate("document.getElementById('seen').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def with_gamma(pixels: np.ndarray) -> bytes:
    """A PNG that names a gamma, which a viewer would apply; the model passes over it."""
    linear = struct.pack(">I", 100_000)  # a gamma of 1
    chunk = b"gAMA" + linear
    chunk = struct.pack(">I", len(linear)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    file, header = file_of(pixels), 33  # bytes: the signature and the first chunk
    return file[:header] + chunk + file[header:]


EXACT = {
    "wide.png": lambda: file_of(noise(90, 300, seed=1)),
    "tall.png": lambda: file_of(noise(300, 70, seed=2)),
    "small.png": lambda: file_of(noise(20, 31, seed=3)),
    "large.png": lambda: file_of(noise(1500, 1200, seed=4)),
    "grey.png": lambda: file_of(noise(90, 90, 1, seed=5)[..., 0]),
    "gamma.png": lambda: with_gamma(noise(80, 100, seed=6)),
    "profile.jpg": lambda: file_of(noise(80, 100, seed=10), "JPEG", icc_profile=other_colours()),
    "photo.webp": lambda: file_of(noise(90, 100, seed=7), "WEBP", lossless=True),
    "photo.jpg": lambda: file_of(noise(120, 160, seed=8), "JPEG", quality=90),
    "turned.jpg": lambda: turned(noise(120, 160, seed=9), 6),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_browser_says_what_the_model_says(
    page: Page, opened: ImageModel, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_bytes(EXACT[name]())
    found = answered(page, file)
    pixels = opened.square(file.read_bytes())
    np.testing.assert_array_equal(seen(page), pixels)
    shares = opened.probabilities(opened.logits(pixels[None]))[0]
    order = np.argsort(-shares, kind="stable")[:5]
    assert list(found) == [opened.labels[k] for k in order]
    assert list(found.values()) == pytest.approx(shares[order].tolist(), abs=1e-4)
    assert np.ptp(shares) > 0.01


def test_a_transparent_image_lies_on_white(page: Page, opened: ImageModel, tmp_path: Path) -> None:
    """A canvas multiplies by alpha before it lays on white, which rounds otherwise than Pillow."""
    file = tmp_path / "transparent.png"
    file.write_bytes(file_of(noise(90, 120, 4, seed=1)))
    answered(page, file)
    difference = np.abs(seen(page).astype(int) - opened.square(file.read_bytes()))
    assert difference.max() <= 2


def test_an_image_can_be_chosen_by_a_click_and_twice(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(file_of(noise(80, 80)))
    first = answered(page, file, dropped=False)
    assert answered(page, file, dropped=False) == first


def test_what_is_no_image_is_said_and_the_next_one_is_classified(
    page: Page, tmp_path: Path
) -> None:
    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"no image")
    good.write_bytes(file_of(noise(80, 80)))
    page.drop(bad, "#drop")
    page.wait_for(f"{STATE} === 'failed'")
    assert page.evaluate("document.getElementById('status').textContent") == (
        "bad.png cannot be classified: it is no image that this browser reads."
    )
    assert len(answered(page, good)) == 5
    assert page.evaluate("document.getElementById('status').textContent") == ""


def test_the_browser_asks_nobody_but_the_server(page: Page, server: DemoServer) -> None:
    assert f"{server.address}model.onnx" in page.requested
    assert [
        a for a in page.requested if not a.removeprefix("blob:").startswith(server.address)
    ] == []


@pytest.mark.parametrize("shape", [(300, 60), (60, 300)])
def test_the_whole_image_is_shown(page: Page, tmp_path: Path, shape: tuple[int, int]) -> None:
    (tmp_path / "oblong.png").write_bytes(file_of(noise(*shape)))
    answered(page, tmp_path / "oblong.png")
    inside = page.evaluate(
        "(() => { const image = document.getElementById('given');"
        " const own = image.getBoundingClientRect();"
        " const frame = image.parentElement.getBoundingClientRect();"
        " return own.top >= frame.top && own.bottom <= frame.bottom"
        " && own.left >= frame.left && own.right <= frame.right"
        " && getComputedStyle(image).objectFit === 'contain'; })()"
    )
    assert inside


def test_the_page_fits_a_telephone(page: Page, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(file_of(noise(80, 80)))
    answered(page, tmp_path / "photo.png")
    page.show(360, 740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
