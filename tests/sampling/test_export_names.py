"""Names that every file system and tool takes, each of them once."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qp2train.sampling.export.naming import distinct, patch_name, safe


def test_a_name_is_slide_position_class_and_roi():
    assert patch_name("p01.svs", 1024, 512, "Tumor", "core") == "p01_x1024_y512_Tumor_core"
    assert patch_name("p01.svs", 1024, 512, "Tumor") == "p01_x1024_y512_Tumor"


@pytest.mark.parametrize(
    ("slide", "name"),
    [
        ("p01.ome.tiff", "p01"),
        ("S12.34567.svs", "S12_34567"),  # only the ending goes
        ("Case 7 - HE (2).ndpi", "Case_7_-_HE_2"),
        ("スライド一.mrxs", "スライド一"),
        ("Blase ü.png", "Blase_ü"),  # composed, as Windows and Linux write it
        ("../../etc/passwd", "etc_passwd"),
        ("...", "slide"),
        ("a" * 200 + ".svs", "a" * 56),
        ("肝" * 30 + ".svs", "肝" * 18),  # 3 bytes each, none of them cut
    ],
)
def test_of_a_slide_is_kept_what_is_safe(slide, name):
    assert patch_name(slide, 0, 0, "T") == f"{name}_x0_y0_T"


def test_positions_are_rounded_and_may_be_negative():
    assert patch_name("a.svs", -12.4, 7.6, "Tumor: Positive") == "a_x-12_y8_Tumor_Positive"


def test_names_that_windows_keeps_for_itself_are_avoided():
    assert [safe(n, 50) for n in ("con", "LPT1", "COM¹", "console", "nul.txt")] == [
        "_con",
        "_LPT1",
        "_COM¹",
        "console",
        "nul_txt",
    ]


def test_a_name_that_was_there_in_any_case_gets_a_number():
    assert distinct(["a", "A", "b", "a", "a-2"]) == ["a", "A-2", "b", "a-3", "a-2-2"]


@given(st.text(), st.floats(-1e9, 1e9), st.text(), st.text())
def test_whatever_the_names_no_file_system_refuses(slide, x, label, roi):
    name = patch_name(slide, x, x, label, roi)
    assert not re.search(r'[<>:"/\\|?*.\x00-\x1f\s]', name)
    assert len(name.encode("utf-8")) <= 143
    assert name[-1] not in " ."


@given(st.lists(st.sampled_from(["a", "A", "a-2", "b", "a-2-2"])))
def test_distinct_names_differ_in_any_case(names):
    found = distinct(names)
    assert len({n.casefold() for n in found}) == len(names)
