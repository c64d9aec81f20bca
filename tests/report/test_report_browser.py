"""The report in a real browser, where Chromium and its driver are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from reportfacts import MODEL, PICTURES, facts

from qp2train.report.html import Facts, report_html

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:selenium.*"),
]
PHONE, DESK = 375, 1280


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_html(facts(), PICTURES), encoding="utf-8")
    return path


def shown(driver, file: Path, *, width: int = DESK, dark: bool = False) -> None:
    """Open the page anew in a window of this width."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.get(file.as_uri())


def requested(driver, page: str) -> list[str]:
    """What this page asked for; Chromium's own start page may still be loading icons of its own."""
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    sent = (e["params"] for e in events if e["method"] == "Network.requestWillBeSent")
    return [e["request"]["url"] for e in sent if e["documentURL"] == page]


def test_it_opens_without_an_error_and_asks_for_nothing_but_itself(driver, file: Path) -> None:
    shown(driver, file)
    assert driver.title == "tumor-1a2b3c4d: training report"
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "DEBUG"] == []
    asked = requested(driver, file.as_uri())
    assert file.as_uri() in asked
    assert [url for url in asked if url != file.as_uri() and not url.startswith("data:")] == []
    widths = driver.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert widths == [40, 40, 40]


@pytest.mark.parametrize("width", [320, PHONE, DESK])
def test_the_page_never_scrolls_sideways(driver, file: Path, width: int) -> None:
    shown(driver, file, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    wide = driver.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
    )
    assert wide > 0 or width == DESK, "wide tables scroll in their own box"
    # What sticks out of the window does so inside of a box that scrolls.
    outside = driver.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, pre')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_the_keyboard_reaches_the_skip_link_every_chapter_and_every_box_that_scrolls(driver, file: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    shown(driver, file, width=PHONE)
    reached = []
    for _ in range(60):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        here = driver.switch_to.active_element
        if here.tag_name == "body":
            break
        reached.append((here.tag_name, here.get_attribute("href") or here.get_attribute("aria-label")))
        visible = driver.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return b.left >= 0 && b.width > 0", here
        )
        assert visible, reached[-1]
    page = file.as_uri()
    assert reached[0] == ("a", f"{page}#main")
    chapters = ["short", "scores", "confusion", "thresholds", "pictures", "data", "learning", "protocol"]
    assert reached[1:9] == [("a", f"{page}#{name}") for name in chapters]
    boxes = driver.execute_script("return [...document.querySelectorAll('[tabindex=\"0\"]')].map(b => b.ariaLabel)")
    assert [name for tag, name in reached if tag in ("div", "pre")] == boxes
    assert len(boxes) > 8


def test_the_skip_link_leads_into_the_report(driver, file: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    shown(driver, file)
    ActionChains(driver).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
    assert driver.switch_to.active_element.get_attribute("id") == "main"


CONTRAST = """
const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
const lum = ([r, g, b]) => { const f = v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
  return .2126 * f(r) + .7152 * f(g) + .0722 * f(b) };
const back = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c }
  return [255, 255, 255, 1] };
return [...document.querySelectorAll('p, a, h1, h2, h3, th, dt, dd, li, figcaption, small, caption, td, text')]
  .filter(e => e.getClientRects().length && !e.closest('.confusion td') && e.textContent.trim())
  .map(e => { const s = getComputedStyle(e), a = lum(parse(e.tagName === 'text' ? s.fill : s.color)), b = lum(back(e));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 90)] })
  .filter(([ratio]) => ratio < 4.5);
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(driver, file: Path, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least."""
    shown(driver, file, dark=dark)
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    assert driver.execute_script(CONTRAST) == []


def test_the_page_of_a_run_that_has_next_to_nothing_opens_as_well(driver, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_html(Facts(None, {}, MODEL)), encoding="utf-8")
    shown(driver, path, width=PHONE)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_it_prints_in_black_on_white_with_nothing_cut_off(driver, file: Path) -> None:
    shown(driver, file, dark=True)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    style = "return getComputedStyle(document.body)"
    assert driver.execute_script(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert driver.execute_script(f"{style}.color") == "rgb(0, 0, 0)"
    assert driver.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
