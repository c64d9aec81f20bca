"""What QuPath makes of a file is what `slide()` shows, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import write_leica

from qp2train import Box
from qp2train.errors import ProjectError, SlideNotFoundError
from qp2train.qupath.project import Project
from qp2train.qupath.serverbuilder import uri_leaves

from .derived import TINY, around, cropped, flipped, leaf, project_of, rotated

BIOFORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"


def red(project: Project) -> list[list[int]]:
    """The red channel of the project's first image, whole."""
    with project["1"].slide() as slide:
        return slide.read(Box(0, 0, *slide.size), slide.size)[..., 0].tolist()


# As QuPath 0.7.0's own servers showed this picture; core/test_view.py has more of them


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (lambda b: b, [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]),
        (lambda b: rotated(b, 90), [[20, 10, 0], [21, 11, 1], [22, 12, 2], [23, 13, 3]]),
        (lambda b: rotated(b, 180), [[23, 22, 21, 20], [13, 12, 11, 10], [3, 2, 1, 0]]),
        (lambda b: rotated(b, 270), [[3, 13, 23], [2, 12, 22], [1, 11, 21], [0, 10, 20]]),
        (lambda b: rotated(b, 0), [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]),
        (lambda b: flipped(b, "HORIZONTAL"), [[3, 2, 1, 0], [13, 12, 11, 10], [23, 22, 21, 20]]),
        (lambda b: flipped(b, "VERTICAL"), [[20, 21, 22, 23], [10, 11, 12, 13], [0, 1, 2, 3]]),
        (lambda b: flipped(b, "BOTH"), [[23, 22, 21, 20], [13, 12, 11, 10], [3, 2, 1, 0]]),
        (lambda b: flipped(b, "NONE"), [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]),
        (lambda b: cropped(b, 1, 1, 3, 2), [[11, 12, 13], [21, 22, 23]]),
        (lambda b: rotated(cropped(b, 1, 0, 2, 3), 90), [[21, 11, 1], [22, 12, 2]]),
        (lambda b: cropped(rotated(b, 90), 1, 1, 2, 3), [[11, 1], [12, 2], [13, 3]]),
        (lambda b: cropped(flipped(rotated(b, 90), "HORIZONTAL"), 0, 1, 2, 2), [[1, 11], [2, 12]]),
        (lambda b: flipped(cropped(cropped(b, 1, 1, 3, 2), 1, 0, 2, 2), "HORIZONTAL"), [[13, 12], [23, 22]]),
        (lambda b: around(cropped(b, 0, 0, 4, 1), "swapRedBlue", order="BRG"), [[200, 201, 202, 203]]),
        (
            lambda b: rotated(
                around(cropped(rotated(flipped(b, "VERTICAL"), 270), 1, 0, 2, 3), "swapRedBlue", order="GRB"), 90
            ),
            [[111, 112, 113], [101, 102, 103]],
        ),
        (lambda b: around(rotated(b, 180), "pyramidize"), [[23, 22, 21, 20], [13, 12, 11, 10], [3, 2, 1, 0]]),
        (lambda b: around(cropped(b, 0, 0, 2, 1), "typeConvert", pixelType="UINT8"), [[0, 1]]),
        (
            lambda b: around(
                {**cropped(b, 0, 0, 2, 1), "metadata": {"sizeZ": 1, "sizeT": 1}}, "sliced", zStart=0, zEnd=1, zStep=1
            ),
            [[0, 1]],
        ),
        (
            lambda b: around(
                cropped(b, 0, 0, 2, 1),
                "affine",
                transform={"m00": 1.0, "m10": 0.0, "m01": 0.0, "m11": 1.0, "m02": 0.0, "m12": 0.0},
            ),
            [[0, 1]],
        ),
    ],
)
def test_pixels_are_where_qupath_has_them(tmp_path: Path, made: Any, shown: list[list[int]]) -> None:
    project = project_of(tmp_path, made(leaf(tmp_path)), (len(shown[0]), len(shown)))
    assert red(project) == shown


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (around({}, "channels", channels=[{}, {}]), "'channels' .* its channels come from several images.*8-bit RGB"),
        (around({}, "color", transforms=[]), "'color' .* computed from channels"),
        (around({}, "color_deconvolved", stains={}, channels=[1]), "'color_deconvolved' .* stain concentrations"),
        (around({}, "normalized", normalizer={}), "'normalized' .* computed by QuPath.*OME TIFF"),
        (around({}, "typeConvert", pixelType="FLOAT32"), "'typeConvert' .* become FLOAT32"),
        (around({}, "sliced", zStart=1, zEnd=2), "'sliced' .* part of a stack"),
        (around({}, "z_projected", projection="MAX"), "'z_projected' .* projected from a stack"),
        ({"builderType": "z_concatenated", "builders": [{}]}, "'z_concatenated' .* stack of several images"),
        ({"builderType": "sparse", "regions": [], "path": "x"}, "'sparse' .* pieced together"),
        (around({}, "affine", transform={"m00": 2.0}), "'affine' .* resampled.*OME TIFF"),
        (around({}, "warped"), "'warped' .* does not know this kind"),
        ({"builderType": ["rotated"]}, "does not know this kind"),
        (around({}, "rotated", rotation="ROTATE_45"), "rotation='ROTATE_45'"),
        (around({}, "rotated"), "rotation=None"),
        ({"builderType": "rotated", "rotation": "ROTATE_90"}, "'rotated' .* does not know this kind"),
        (around({}, "flipped", flip="DIAGONAL"), "flip='DIAGONAL'"),
        (around({}, "cropped", region={"x": 0, "y": 0, "width": 0, "height": 1}), "region="),
        (around({}, "cropped", region={"x": 0.5, "y": 0, "width": 1, "height": 1}), "region="),
        (around({}, "cropped", region={"x": 0, "y": 0, "width": 1e99, "height": 1}), "region="),
        (around({}, "cropped"), "region=None"),
        (around({}, "swapRedBlue", order="RRB"), "order='RRB'"),
        (rotated(around({}, "channels"), 90), "tiny.png is a 'channels' image"),
    ],
)
def test_what_qupath_computes_is_refused_before_a_file_is_looked_for(
    tmp_path: Path, builder: dict[str, Any], message: str
) -> None:
    entry = project_of(tmp_path, builder, (4, 3))["1"]
    with pytest.raises(ProjectError, match=message) as caught:
        entry.slide()
    assert not isinstance(caught.value, SlideNotFoundError)
    assert entry.annotations() == []


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"args": ["--rotate", "ROTATE_180"]}, 0),  # a named reader overlooks it, and so does QuPath
        ({"args": ["--rotate", "ROTATE_180"], "providerClassName": None}, 23),
        ({"args": ["--rotate=ROTATE_180", "--order", "bgr"], "providerClassName": None}, 223),
        ({"args": ["--classname", "ImageJServerBuilder"], "providerClassName": None}, 0),
        ({"args": ["--series", "0"], "providerClassName": BIOFORMATS}, 0),
        ({"args": ["--series", "0", "--name", "x"], "providerClassName": BIOFORMATS}, 0),
        ({"args": ["--no-crop", "--icc-profile"], "providerClassName": OPENSLIDE}, 0),
    ],
)
def test_arguments(tmp_path: Path, more: dict[str, Any], shown: int) -> None:
    assert red(project_of(tmp_path, leaf(tmp_path, **more), (4, 3)))[0][0] == shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"args": ["--series", "2"], "providerClassName": BIOFORMATS}, "image 2 of its file"),
        ({"args": ["-s=3"], "providerClassName": BIOFORMATS}, "image 3 of its file"),
        ({"args": ["--name", "overview"], "providerClassName": BIOFORMATS}, "--name overview"),
        ({"args": ["--dims", "XYTZC"], "providerClassName": BIOFORMATS}, "--dims XYTZC"),
        ({"args": ["--bfOptions", "a=b"], "providerClassName": BIOFORMATS}, "--bfOptions a"),
        ({"uri": "file:/a/tiny.lif#4", "providerClassName": BIOFORMATS}, "image 4 of its file"),
        ({"uri": "file:/a/tiny.lif?name=B", "providerClassName": BIOFORMATS}, "--name B"),
        ({"args": ["--rotate", "ROTATE_1"], "providerClassName": None}, "ROTATE_1"),
        ({"args": ["--magic"], "providerClassName": "org.acme.MagicServerBuilder"}, "what MagicServerBuilder makes of"),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        project_of(tmp_path, leaf(tmp_path, **more), (4, 3))["1"].slide()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"pixelType": "UINT16", "channels": [{}]}, "pixels of tiny.png are UINT16"),
        ({"isRGB": False, "channels": [{}, {}, {}, {}]}, "4 channels that are not red, green and blue"),
        ({"sizeZ": 5}, "5 z-slices"),
        ({"sizeT": 2}, "2 time points"),
    ],
)
def test_what_is_no_flat_rgb_picture(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    builder = leaf(tmp_path, metadata={"width": 4, "height": 3, **metadata})
    with pytest.raises(ProjectError, match=message):
        project_of(tmp_path, builder, None)["1"].slide()


def test_one_grey_channel_is_a_picture(tmp_path: Path) -> None:
    builder = leaf(tmp_path, metadata={"width": 4, "height": 3, "isRGB": False, "channels": [{}]})
    assert red(project_of(tmp_path, builder, None)) == TINY[..., 0].tolist()


def test_a_file_of_another_size_is_another_image(tmp_path: Path) -> None:
    entry = project_of(tmp_path, rotated(leaf(tmp_path), 90), (4, 3))["1"]
    with pytest.raises(ProjectError, match=r"tiny\.png is 3 × 4 px where the project says 4 × 3.*uri_map"):
        entry.slide()


def test_where_the_project_says_nothing_the_file_counts(tmp_path: Path) -> None:
    with project_of(tmp_path, cropped(leaf(tmp_path), 1, 1, 2, 2), None)["1"].slide() as slide:
        assert slide.size == (2, 2)


def test_qupath_counts_from_the_corner_of_what_is_not_empty_unless_told_not_to(tmp_path: Path) -> None:
    path = write_leica(tmp_path / "a.scn", np.full((64, 96, 3), 7, np.uint8), at=(100, 50), within=(300, 200))
    builder: dict[str, Any] = {"builderType": "uri", "providerClassName": OPENSLIDE, "uri": path.as_uri(), "args": []}
    with project_of(tmp_path / "a", builder, (96, 64))["1"].slide() as slide:
        assert slide.view == "100,50 96x64"
        assert (slide.read(Box(0, 0, 96, 64), (96, 64)) == 7).all()
    with project_of(tmp_path / "b", {**builder, "args": ["--no-crop"]}, (300, 200))["1"].slide() as slide:
        assert slide.view == ""
    with project_of(tmp_path / "c", rotated(cropped(builder, 6, 4, 90, 60), 90), (60, 90))["1"].slide() as slide:
        assert slide.view == "106,54 90x60 turned 90"


def test_every_file_of_an_image_is_named() -> None:
    leaves = [{"builderType": "uri", "uri": f"file:/{name}"} for name in "abc"]
    merged = {"builderType": "channels", "builder": leaves[0], "channels": leaves, "metadata": {"uri": "no"}}
    sparse = {"builderType": "sparse", "regions": [{"resolutions": [{"serverBuilder": merged}]}]}
    assert [found["uri"] for found in uri_leaves(sparse)] == ["file:/a", "file:/a", "file:/b", "file:/c"]


def test_builders_nested_as_deep_as_json_allows(tmp_path: Path) -> None:
    builder = leaf(tmp_path)
    for _ in range(240):
        builder = rotated(builder, 90)
    assert red(project_of(tmp_path, builder, (4, 3))) == TINY[..., 0].tolist()
