"""The page in a real browser, where Chromium and its driver are installed: look, click, box, undo, save, take out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from servestubs import listening

from qp2train.core.annotation import Annotation
from qp2train.qupath.project import Project
from qp2train.serve.app import create_app
from qp2train.serve.project import ServedProject
from qp2train.serve.settings import Settings
from tests.fakes import square, write_pyramid

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
TOKEN = "0123456789abcdef"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:selenium.*"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1100")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A purple disc of radius 60 in the middle of a slide of 480×320, and what a human drew."""
    folder = tmp_path_factory.mktemp("served")
    rows, columns = np.mgrid[:320, :480] + 0.5
    picture = np.full((320, 480, 3), (230, 180, 210), np.uint8)
    picture[np.hypot(columns - 240, rows - 160) <= 60] = (110, 60, 140)
    slide = write_pyramid(folder / "a.tiff", [picture], mpp=1.0)
    project = Project.create(folder / "p")
    project.add_image(slide, width=480, height=320, mpp=1.0, annotations=[square(5, 5, 20, name="mine")])
    return project


@pytest.fixture(scope="module")
def address(project: Project) -> Iterator[str]:
    app = create_app(settings=Settings(token=TOKEN), project=ServedProject(project.path))
    with listening(app) as base:
        yield f"{base}/t/{TOKEN}/"


def until(driver, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20, poll_frequency=0.05).until(lambda d: d.execute_script(f"return {script}"))


@pytest.fixture
def page(driver, address: str):
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(address)
    until(driver, "document.body.dataset.shown == '1'")
    return driver


def at(driver, x: float, y: float):
    """A pointer at a place of the slide, which fills the view at the beginning."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    view = driver.find_element(By.ID, "view")
    width, height = driver.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", view
    )
    return ActionChains(driver).move_to_element_with_offset(view, (x / 480 - 0.5) * width, (y / 320 - 0.5) * height)


def press(driver, name: str) -> None:
    driver.execute_script("document.getElementById(arguments[0]).click()", name)


def steps(driver, count: int) -> None:
    until(driver, f"document.body.dataset.steps == '{count}'")


def saved(project: Project) -> list[Annotation]:
    return [a for a in next(iter(Project(project.path))).annotations() if a.source]


def test_it_opens_without_an_error_and_asks_this_server_alone(page, address: str) -> None:
    assert page.title == "qp2train: try prompts"
    assert [entry for entry in page.get_log("browser") if entry["level"] != "DEBUG"] == []
    events = (json.loads(entry["message"])["message"] for entry in page.get_log("performance"))
    sent = (e["params"] for e in events if e["method"] == "Network.requestWillBeSent")
    asked = {e["request"]["url"] for e in sent if e["documentURL"] == address}
    assert asked
    assert all(url.startswith((address, "data:", f"blob:{address[:20]}")) for url in asked), asked
    shown = page.execute_script("return document.body.innerText")
    assert "run:colours" in shown
    assert f"{address}sam/" in shown
    middle = page.execute_script(
        "const c = document.getElementById('view'); return [...c.getContext('2d').getImageData(480, 320, 1, 1).data]"
    )
    assert middle == [110, 60, 140, 255]


def test_clicks_box_undo_save_and_take_out(page, project: Project) -> None:
    at(page, 240, 160).click().perform()
    steps(page, 1)
    at(page, 20, 160).context_click().perform()
    steps(page, 2)
    press(page, "undo")
    steps(page, 1)
    press(page, "new")
    steps(page, 0)
    at(page, 170, 90).click_and_hold().perform()
    at(page, 310, 230).release().perform()
    steps(page, 1)
    assert "predicted IoU" in page.execute_script("return document.getElementById('answer').textContent")
    page.execute_script("document.getElementById('class').value = 'Gland: Large'")
    press(page, "save")
    until(page, "document.getElementById('status').textContent == 'Saved.'")
    (kept,) = saved(project)
    assert kept.class_name == "Gland: Large"
    assert kept.source == "colour-fallback-clicks"
    assert abs(kept.geometry.area / (np.pi * 60**2) - 1) < 0.1
    prompt = json.loads(kept.metadata["qp2train prompt"])
    np.testing.assert_allclose(prompt["box"], [170, 90, 310, 230], atol=2)
    press(page, "unsave")
    until(page, "document.getElementById('status').textContent == 'Taken out again.'")
    assert saved(project) == []
    assert [a.name for a in next(iter(Project(project.path))).annotations()] == ["mine"]


def test_the_keyboard_is_enough(page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.execute_script("document.getElementById('view').focus()")
    ActionChains(page).send_keys("+").perform()
    until(page, "document.body.dataset.shown == '2'")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    steps(page, 1)
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    steps(page, 2)
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    steps(page, 1)


def test_what_goes_wrong_is_said(page) -> None:
    press(page, "save")
    until(page, "document.getElementById('status').textContent.startsWith('There is nothing to save')")


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_never_scrolls_sideways(page, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
