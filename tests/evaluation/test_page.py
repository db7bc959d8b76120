"""The page of results, in a real browser: what one sees is what was given."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from support.clips import texture
from unsmear.evaluation.page import write_page
from unsmear.evaluation.pictures import Picture, most_blurred_crop
from unsmear.evaluation.results import ClipResult, Result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
RED, GREEN, BLUE, OTHER = (200, 30, 30), (30, 170, 60), (40, 60, 200), (180, 170, 20)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (400, 300)) -> np.ndarray:
    return np.full((size[1], size[0], 3), colour, np.uint8)


def result(method: str = "cpfp", psnr: tuple[float, ...] = (31.0, 29.5, 104.25)) -> Result:
    names = ("clip_9", "clip_10", "<b>&odd</b>")
    clips = tuple(
        ClipResult(name, 10, {"psnr": p}, {"psnr": 29.0}, seconds_per_frame=0.1)
        for name, p in zip(names, psnr, strict=True)
    )
    return Result(method, "my set", "basicsr", clips, device="cpu", dtype="float32")


RESULTS = [result(), result("line", (22.0, 19.0, 23.0)), result("slow", (28.0, 28.0, 28.0))]


def colour_pictures() -> list[Picture]:
    before, truth = plain(RED), plain(BLUE)
    return [
        Picture("street", 7, "cpfp", before, plain(GREEN), truth),
        Picture("street", 7, "line", before, plain(OTHER), truth),
        Picture("no </script> truth", 2, "cpfp", plain(RED), plain(GREEN), None),
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    write_page(tmp_path / "page.html", RESULTS, colour_pictures())
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda m: page.wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    assert page.wrong == []
    page.close()


def colour_at(page: Any, across: float = 0.5, down: float = 0.5) -> tuple[int, ...]:
    """What is on the screen at this part of the stage."""
    shot = cv2.imdecode(np.frombuffer(page.locator("#stage").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    h, w = shot.shape[:2]
    return tuple(int(v) for v in shot[int(down * h), int(across * w), ::-1])


def sees(page: Any, colour: tuple[int, int, int], across: float = 0.5) -> bool:
    return max(abs(a - b) for a, b in zip(colour_at(page, across), colour, strict=True)) <= 8


@needs_browser
def test_keys_show_each_picture(opened: Any) -> None:
    assert sees(opened, GREEN)
    for key, colour in (("1", RED), ("3", BLUE), ("2", GREEN)):
        opened.keyboard.press(key)
        assert sees(opened, colour), f"key {key} shows {colour_at(opened)}"
    opened.keyboard.press("4")
    assert sees(opened, (252, 255, 164))  # everywhere farther off than the scale: its brightest colour
    assert "32 levels" in opened.locator("#scale").inner_text()


@needs_browser
def test_arrows_and_clicks_cycle_through_the_views(opened: Any) -> None:
    opened.keyboard.press("ArrowLeft")
    assert sees(opened, RED)
    opened.keyboard.press("ArrowRight")
    assert sees(opened, GREEN)
    opened.keyboard.press("ArrowRight")
    assert sees(opened, BLUE)
    opened.locator("#stage").click()
    opened.locator("#stage").click()
    assert sees(opened, RED)
    assert opened.locator("#img-a").get_attribute("alt") == "before (input), street, frame 7"
    assert opened.get_by_role("button", name="before").get_attribute("aria-pressed") == "true"
    assert opened.locator("#caption").inner_text() == "street, frame 7: before (input) (400×300)"


@needs_browser
def test_the_split_follows_its_slider_and_the_pointer(opened: Any) -> None:
    opened.locator("#split").click()
    assert sees(opened, RED, 0.4)
    assert sees(opened, GREEN, 0.6)
    opened.locator("#split-at").fill("70")
    assert sees(opened, RED, 0.6)
    opened.locator("#side-b").select_option("truth")
    assert sees(opened, BLUE, 0.8)
    box = opened.locator("#stage").bounding_box()
    opened.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 50)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 50, steps=4)
    opened.mouse.up()
    assert sees(opened, BLUE, 0.4)
    opened.keyboard.press("2")
    assert sees(opened, GREEN, 0.2)


@needs_browser
def test_methods_share_input_and_truth(opened: Any) -> None:
    opened.locator("#methods").select_option(label="line")
    opened.keyboard.press("2")
    assert sees(opened, OTHER)
    opened.keyboard.press("1")
    assert sees(opened, RED)


@needs_browser
def test_without_truth_there_is_neither_truth_nor_error(opened: Any) -> None:
    opened.locator("#thumbs button").nth(1).click()
    assert opened.locator("#views button").nth(2).is_disabled()
    assert opened.locator("#views button").nth(3).is_disabled()
    opened.keyboard.press("1")
    opened.keyboard.press("3")
    assert sees(opened, RED)
    assert "no </script> truth, frame 2" in opened.locator("#caption").inner_text()


@needs_browser
def test_zoom_keeps_the_point_under_the_pointer_and_the_pixels(browser: Any, tmp_path: Path) -> None:
    image = plain(RED, (64, 48))
    image[10, 20] = BLUE  # one pixel
    write_page(tmp_path / "p.html", [], [Picture("dot", 0, "m", None, image, None)])
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto((tmp_path / "p.html").as_uri())
    page.get_by_role("button", name="crop").click()  # lossless
    stage, picture = page.locator("#stage").bounding_box(), page.locator("#img-a").bounding_box()
    x = picture["x"] + 20.5 / 64 * picture["width"]
    y = picture["y"] + 10.5 / 48 * picture["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    page.mouse.wheel(0, -300)
    after = page.locator("#img-a").bounding_box()
    assert after["width"] > 1.5 * picture["width"]
    across, down = (x - stage["x"]) / stage["width"], (y - stage["y"]) / stage["height"]
    assert colour_at(page, across, down) == BLUE
    one = after["width"] / 64 / stage["width"]
    assert colour_at(page, across + 0.4 * one, down) == BLUE  # pixelated: no mixing up to the pixel's edge
    assert colour_at(page, across + 0.7 * one, down) == RED
    page.get_by_role("button", name="fit").click()
    assert page.locator("#img-a").bounding_box() == picture
    page.close()


@needs_browser
def test_tables_sort_by_value_not_by_letter(opened: Any) -> None:
    table = opened.locator("table.sortable").nth(1)
    names = lambda: [row.split("\t")[0] for row in table.locator("tbody tr").all_inner_texts()]  # noqa: E731
    assert names() == ["clip_9", "clip_10", "<b>&odd</b>"]
    head = table.get_by_role("button", name=re.compile("^PSNR ↑"))
    head.click()
    assert names() == ["clip_10", "clip_9", "<b>&odd</b>"]
    head.click()
    assert names() == ["<b>&odd</b>", "clip_9", "clip_10"]
    table.get_by_role("button", name="clip").click()
    assert names() == ["<b>&odd</b>", "clip_9", "clip_10"]
    table = opened.locator("table.sortable").nth(0)
    table.get_by_role("button", name="PSNR gain").click()
    assert names() == ["line", "slow", "cpfp", "blurred input"]  # −7.67, −1, +25.92, none


@needs_browser
def test_the_theme_button_changes_light_and_dark(opened: Any) -> None:
    paper = lambda: opened.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = paper()
    opened.locator("#theme").click()
    dark = paper()
    opened.locator("#theme").click()
    assert (sum(map(int, re.findall(r"\d+", light))), paper()) == (251 + 250 + 247, light)
    assert sum(map(int, re.findall(r"\d+", dark))) < 100
    opened.emulate_media(color_scheme="dark")
    opened.reload()
    assert paper() == dark


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", [result()], colour_pictures())
    text = (tmp_path / "page.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)|https?://|@import|url\((?!data:)""", text)
    assert "@@" not in text
    assert "<b>&odd" not in text


def test_a_page_keeps_within_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (300, 1000, 3), dtype=np.uint8) for _ in range(3)]
    pictures = [Picture("noise", i, "m", None, frame, None) for i, frame in enumerate(frames)]
    path = tmp_path / "page.html"
    write_page(path, [], pictures)
    assert "at most 1280 px" in path.read_text()
    free = path.stat().st_size
    write_page(path, [], pictures, max_bytes=free // 2)
    bare = len(path.read_text()) - sum(map(len, re.findall(r"data:image[^\"]+", path.read_text())))
    assert path.stat().st_size <= free // 2 + bare
    assert "at most 1280 px" not in path.read_text()


def test_crops_are_lossless(tmp_path: Path) -> None:
    import base64
    import json

    image = texture((500, 400), seed=3, smooth_px=0.5)
    before = cv2.blur(image, (1, 9))
    write_page(tmp_path / "page.html", [], [Picture("c", 0, "m", before, image, image)])
    text = (tmp_path / "page.html").read_text()
    data = json.loads(text.split('type="application/json">')[1].split("</script>")[0])
    shown = data["pictures"][0]
    uri = data["images"][shown["truth"]["crop"]]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    box = most_blurred_crop(before, image)
    assert tuple(shown["box"]) == box
    assert np.array_equal(decoded[..., ::-1], box.cut(image))


def test_pictures_of_other_kinds_are_refused(tmp_path: Path) -> None:
    wrong = Picture("c", 0, "m", plain(RED, (40, 40)), plain(RED, (40, 30)), None)
    with pytest.raises(ValueError, match="c, frame 0"):
        write_page(tmp_path / "page.html", [], [wrong])
