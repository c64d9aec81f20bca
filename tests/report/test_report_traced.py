"""Every number of the report's tables and plots stands in metrics.json or data.json."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bs4 import BeautifulSoup
from reportfacts import CLASSES, DATA, METRICS, PICTURES, facts
from tracing import at, check_number, check_page

from qp2train.report.html import report_html
from qp2train.report.traced import Traced, pointer, shown

FILES = {"metrics.json": METRICS, "data.json": DATA}


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    return BeautifulSoup(report_html(facts(), PICTURES), "html.parser")


def test_every_number_and_every_corner_of_a_line_is_that_of_its_place(page: BeautifulSoup) -> None:
    numbers, lines = check_page(FILES, page)
    assert numbers > 100
    # ROC, PR and reliability have a line each, the losses two, validation Dice two.
    assert lines == 7


def test_no_tile_sentence_or_legend_shows_a_number_without_a_place(page: BeautifulSoup) -> None:
    for kind in ("tiles", "sentences", "legend"):
        for box in page.find_all(class_=kind):
            for part in box.find_all(string=re.compile(r"\d")):
                placed = part.find_parent(attrs={"data-source": True}) is not None
                assert placed or part in ("95 % interval ",) or "patient" in part, part


def test_a_cell_names_the_place_of_its_own_row_and_column(page: BeautifulSoup) -> None:
    """A right number in the wrong cell would be traced as well."""
    table = page.find("caption", string="Scores of each class").parent
    heads = [cell.get_text() for cell in table.thead.find_all("th")]
    assert heads == ["Class", "Dice", "Recall"]
    rows = {row.th.get_text(strip=True): row for row in table.tbody.find_all("tr")}
    assert list(rows) == [*CLASSES, "Mean"]
    dice, recall = rows["Tumor"].find_all("td")
    where = [[tag["data-source"] for tag in cell.find_all(class_="n")] for cell in (dice, recall)]
    assert where == [
        ["metrics.json#/pooled/dice/Tumor", *(f"metrics.json#/intervals/dice/Tumor/{end}" for end in ("low", "high"))],
        ["metrics.json#/pooled/recall/Tumor"],
    ]
    confusion = page.select(".confusion tbody tr")[1].find_all("td")[0]
    assert confusion.find(class_="n")["data-source"] == "metrics.json#/confusion/pixels/1/0", "row = truth"


def test_bars_and_tints_have_the_numbers_beside_them(page: BeautifulSoup) -> None:
    bars = page.select("td.bar i")
    assert len(bars) == 5, "three patients and two slides"
    for bar in bars:
        value = at(FILES, bar.parent.find(class_="n")["data-source"])
        assert bar["style"] == f"--v: {value}"
    for cell in page.select(".confusion td"):
        tag = cell.find(class_="n", attrs={"data-over": True})
        assert (f"{tag.get_text()}" if tag else "0.0 %") == f"{float(cell['style'].removeprefix('--s: ')):.1f} %"


def test_bars_of_confidence_are_as_high_as_their_share(page: BeautifulSoup) -> None:
    (bar,) = page.select("rect.bar")
    left, _, width, height = map(float, bar.find_parent("svg")["data-frame"].split())
    assert bar["data-source"] == "metrics.json#/calibration/bins/1/share"
    assert float(bar["height"]) / height == pytest.approx(1.0), "all pixels"
    # The second of two bins: centred on 0.75, nine tenths of a half wide.
    assert (float(bar["x"]) - left) / width == pytest.approx(0.75 - 0.225, abs=1e-4)


def test_a_line_that_was_drawn_elsewhere_is_found_out(page: BeautifulSoup) -> None:
    start = 'points="52,272 '
    assert start in str(page), "the ROC curve begins at 0, 0"
    moved = BeautifulSoup(str(page).replace(start, 'points="52,271 '), "html.parser")
    with pytest.raises(AssertionError):
        check_page(FILES, moved)


def test_a_number_that_was_changed_after_the_fact_is_found_out(page: BeautifulSoup) -> None:
    tag = BeautifulSoup('<i data-source="metrics.json#/pooled/dice/Tumor">0.815</i>', "html.parser").i
    with pytest.raises(AssertionError, match=r"0\.815"):
        check_number(FILES, tag)


@pytest.mark.parametrize(
    ("value", "style", "expected"),
    [
        (0.5, "score", "0.500"),
        (0.1234, "share", "12.3 %"),
        (12345.6, "count", "12,346"),
        (12.345, "size", "12.3"),
        (0.0001234, "size", "0.000123"),
        (1234.5, "size", "1,234"),
        (0.0, "size", "0.00"),
    ],
)
def test_numbers_as_text(value: float, style: Any, expected: str) -> None:
    assert shown(value, style) == expected


def test_a_place_with_slashes_and_tildes_and_one_that_is_not_there() -> None:
    assert pointer("metrics.json", "a/b~", 0) == "metrics.json#/a~1b~0/0"
    traced = Traced({"metrics.json": {"a": [None, True, float("nan"), 2]}})
    assert [traced.number("metrics.json", "a", i).striptags() for i in range(5)] == ["–", "–", "–", "2.000", "–"]
    assert traced.get("metrics.json", "a", "b", "c") is None
