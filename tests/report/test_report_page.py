"""The report's page: what it says, that it stands alone, and that anybody can read it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from bs4 import BeautifulSoup
from reportfacts import DATA, EVIL, METRICS, MODEL, PICTURES, facts

from qp2train.report.html import Facts, report_html


def page(found: Facts, pictures=PICTURES) -> BeautifulSoup:
    return BeautifulSoup(report_html(found, pictures), "html.parser")


@pytest.fixture(scope="module")
def full() -> BeautifulSoup:
    return page(facts())


def said(soup: BeautifulSoup) -> str:
    return re.sub(r"\s+", " ", soup.get_text(" "))


def short(soup: BeautifulSoup) -> str:
    return re.sub(r"\s+([).,])", r"\1", said(soup.find(id="short")).replace("( ", "("))


def test_the_same_facts_give_the_same_page() -> None:
    assert report_html(facts(), PICTURES) == report_html(facts(), PICTURES)


def test_ids_are_unique_and_every_reference_to_one_is_kept(full: BeautifulSoup) -> None:
    ids = [tag["id"] for tag in full.find_all(id=True)]
    assert len(ids) == len(set(ids))
    links = [tag["href"][1:] for tag in full.find_all(href=re.compile("^#"))]
    named = [name for tag in full.find_all(attrs={"aria-labelledby": True}) for name in tag["aria-labelledby"].split()]
    assert len(links) >= 8
    assert set(links) | set(named) <= set(ids)


def test_headings_go_down_one_step_at_a_time(full: BeautifulSoup) -> None:
    levels = [int(tag.name[1]) for tag in full.find_all(re.compile("^h[1-6]$"))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_landmarks_a_skip_link_and_boxes_that_a_keyboard_can_scroll(full: BeautifulSoup) -> None:
    assert [len(full.find_all(name)) for name in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    first = full.body.find(["a", "button", "input"])
    assert first["href"] == f"#{full.main['id']}"
    for table in full.find_all("table"):
        box = table.parent
        assert (box["tabindex"], box["role"], "scroll" in box["class"]) == ("0", "region", True)
        assert box["aria-label"]
        assert table.caption.get_text()
        assert all(cell["scope"] in ("row", "col") for cell in table.find_all("th"))


def test_every_picture_and_plot_says_what_it_shows(full: BeautifulSoup) -> None:
    assert len(full.find_all("img")) == 3
    assert all(tag["alt"].startswith("what <is> seen") for tag in full.find_all("img"))
    plots = full.find_all("svg", class_="plot")
    assert len(plots) == 5, "ROC, precision and recall, reliability, loss, validation"
    for plot in plots:
        assert plot["role"] == "img"
        assert all(full.find(id=name).get_text() for name in plot["aria-labelledby"].split())


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_a_script(full: BeautifulSoup) -> None:
    assert not full.find_all(["script", "iframe", "object", "embed", "base", "form"])
    loads = [tag.get("src") or tag.get("href") for tag in full.find_all(["img", "link", "source", "image", "use"])]
    assert len(loads) == 4
    assert all(url.startswith("data:") for url in loads)
    assert "url(" not in full.style.string
    assert "@import" not in full.style.string
    assert not [tag for tag in full.find_all(True) for key in tag.attrs if key.startswith("on")]


def test_what_comes_from_data_is_text_and_never_markup(full: BeautifulSoup) -> None:
    assert full.find_all("script") == []
    assert EVIL in full.get_text()
    assert "p1 <b>.svs" in full.get_text()
    assert not full.find_all("b")
    text = report_html(replace(facts(), recipe="</code></pre><script>1</script>", missing=["<i>gone</i>"]))
    assert "<script" not in text
    assert "<i>gone" not in text
    named = {**MODEL, "id": "</title><script>2</script>", "network": {"<u>": "<u>"}}
    assert "<script" not in report_html(Facts(METRICS, DATA, named))


def test_the_short_version_says_what_is_right_what_is_wrong_and_on_whom(full: BeautifulSoup) -> None:
    text = short(full)
    # Pooled Dice: Tumor 0.8125, shown as 0.812 (half to even); the third class could not be scored.
    assert "It recognises Tumor (Dice 0.812)." in text
    # 200 of 1000 px of tumour are called background; 500 of 9000 px of background tumour, 5.6 %.
    assert "20.0 % of what is Tumor it takes for Background." in text
    assert "worst on patient P2 (Dice 0.600)" in text
    assert "95 % interval 0.500 – 0.950" in text
    assert "off by 25.0 % on average" in text


def test_best_and_worst_class_are_named_where_there_are_several() -> None:
    dice = {"Background": 0.1, "Tumor": 0.5, EVIL: 0.75, "mean": 0.6}
    text = short(page(facts(pooled={"dice": dice})))
    assert f"Recognised best is {EVIL} (Dice 0.750), worst Tumor (0.500)." in text, "background is no class to praise"


def test_few_patients_make_a_warning(full: BeautifulSoup) -> None:
    assert "The intervals rest on 3 patients" in full.find(class_="warnings").get_text()


def test_without_intervals_the_page_says_so_and_why() -> None:
    nothing = {"dice": {"mean": {"value": 0.8, "low": None, "high": None}}, "patients": 1, "resamples": 2000}
    soup = page(facts(intervals=nothing, patients={"P1": METRICS["patients"]["P1"]}))
    assert "There are no confidence intervals" in soup.find(class_="warnings").get_text()
    assert "here is one patient" in soup.find(class_="warnings").get_text()
    assert "There are no intervals" in said(soup.find(id="scores"))
    assert "worst on patient" not in short(soup)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("val", "training itself was watched by"), ("train", "the patches that the model learnt from")],
)
def test_a_score_that_is_no_test_is_called_so(split: str, expected: str) -> None:
    assert expected in page(facts(split=split)).find(class_="warnings").get_text()


def test_a_split_by_patch_is_called_what_it_is() -> None:
    soup = page(replace(facts(), data={**DATA, "grouped_by": ["patch"]}))
    assert "numbers are too good" in soup.find(class_="warnings").get_text()


def test_a_patient_in_two_parts_is_a_warning() -> None:
    soup = page(replace(facts(), data={**DATA, "shared_patients": 1}))
    assert "1 patient is in more than one part" in soup.find(class_="warnings").get_text()
    assert "No patient is in two parts" not in said(soup)
    assert "No patient is in two parts" in said(page(replace(facts(), data={**DATA, "shared_patients": 0})))


def test_a_run_that_was_never_evaluated_has_a_page_that_says_so() -> None:
    soup = page(Facts(None, {}, MODEL), [])
    assert "There is no evaluation" in soup.find(class_="warnings").get_text()
    assert soup.find(id="scores") is None
    assert "no table of patches" in said(soup)
    assert "no learning curves" in said(soup)
    assert "no recipe" in said(soup)
    links = [tag["href"][1:] for tag in soup.nav.find_all("a")]
    assert all(soup.find(id=name) for name in links)


def test_classes_that_may_overlap_are_judged_one_by_one() -> None:
    each = {"Tumor": {"pixels": [[70, 10], [5, 15]], "mm2": [[0.7, 0.1], [0.05, 0.15]]}}
    soup = page(facts(confusion={"pixels": None, "mm2": None, "each": each}))
    cells = [cell.get_text(" ", strip=True) for cell in soup.find(id="confusion").find_all("td")]
    # Rows are the truth: 15 found, 5 missed, 10 called so that are not.
    assert cells == ["0.150 mm² 15 px", "0.0500 mm² 5 px", "0.100 mm² 10 px"]


def test_a_classification_counts_patches_and_has_no_areas() -> None:
    nothing = {"Yes": {"hd95_um": None, "assd_um": None}}
    scores = {"No": 0.8, "Yes": 0.9, "mean": 0.85}
    soup = page(facts(task="classification", confusion={"pixels": [[3, 1], [0, 4]], "mm2": None}, classes=["No", "Yes"],
                      boundary=nothing, pooled={"f1": scores, "dice": scores, "accuracy": {"all": 0.875}}))  # fmt: skip
    assert soup.find(id="confusion").find("td").get_text(" ", strip=True).startswith("75.0 %")
    assert "mm²" not in said(soup.find(id="confusion"))
    assert "F1, mean of the classes" in said(soup)
    assert "Dice" not in said(soup.find(id="scores")).split("Objects")[0], "of patches it is F1"
    assert "Outlines" not in said(soup), "nothing was measured"


def test_what_could_not_be_shown_is_said() -> None:
    text = "2 pictures of p1 are left out, as the slide cannot be read"
    assert text in said(page(replace(facts(), missing=[text]), []))
