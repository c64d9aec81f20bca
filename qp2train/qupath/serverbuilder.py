"""A project's `serverBuilder`: which file an image is made from, and which view of it QuPath shows.

Annotations are in pixels of the outermost builder. What moves pixels without changing them is applied; what makes new
ones is refused. Source: qupath.lib.images.servers.ImageServers and the servers it names, QuPath 0.2 to 0.7.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from qp2train.core.view import View
from qp2train.errors import ProjectError

log = logging.getLogger(__name__)

Step = Callable[[View], View]

_TURNS = {"ROTATE_NONE": 0, "ROTATE_90": 1, "ROTATE_180": 2, "ROTATE_270": 3}
_IDENTITY = {"m00": 1, "m10": 0, "m01": 0, "m11": 1, "m02": 0, "m12": 0}
_ORDERS = ("RGB", "RBG", "GRB", "GBR", "BRG", "BGR")
_EXPORT = (
    "In QuPath, File > Export images > OME TIFF writes it to a file as it is shown; add that file to the project and "
    "copy the annotations to it: they fit"
)
_RGB_ONLY = (
    "qp2train reads flat 8-bit RGB images (brightfield); annotate the RGB image it was made from, if there is one"
)
_NOT_RGB = frozenset({"channels", "color", "color_deconvolved", "typeConvert", "z_concatenated"})
_WHY_NOT = {
    "affine": "its pixels are resampled",
    "channels": "its channels come from several images",
    "color": "its pixels are computed from channels",
    "color_deconvolved": "its pixels are stain concentrations",
    "normalized": "its pixels are computed by QuPath",
    "sparse": "it is pieced together from several images",
    "z_concatenated": "it is a stack of several images",
    "z_projected": "it is projected from a stack",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How QuPath makes an image.

    Args:
        uri: Of the file.
        bounds: QuPath shows the part of it that the file says is not empty, not all.
        steps: What comes upon it, in this order.
    """

    uri: str
    bounds: bool
    steps: tuple[Step, ...]

    def view(self, size: tuple[int, int], bounds: tuple[int, int, int, int] | None) -> View:
        """What of a file of this size is shown; `bounds` is the part that the file says is not empty."""
        view = View(0, 0, *size) if bounds is None or not self.bounds else View(*bounds)
        for step in self.steps:
            view = step(view)
        return view


def recipe(builder: Mapping[str, Any], name: str) -> Recipe:
    """Read a builder from the outside in.

    Args:
        builder: An entry's `serverBuilder`.
        name: The image's, for messages.

    Raises:
        ProjectError: A kind, or an argument, that makes pixels which qp2train cannot make.
    """
    steps: list[Step] = []
    while (kind := builder.get("builderType", "uri")) != "uri":
        inner = builder.get("builder")
        if not isinstance(inner, dict):
            raise _refusal(name, kind, _WHY_NOT.get(str(kind), "qp2train does not know this kind"))
        step = _step(builder, kind, inner, name)
        steps += [] if step is None else [step]
        builder = inner
    bounds, more = _arguments(builder, name)
    steps += reversed(more)
    uri = builder.get("uri")
    return Recipe(uri if isinstance(uri, str) else "", bounds, tuple(reversed(steps)))


def uri_leaves(builder: object) -> Iterator[dict[str, Any]]:
    """Every part of a builder that names a file, in order; those of images made from several files, too."""
    stack: list[object] = [builder]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("uri"), str):
                yield item
            stack.extend(reversed([value for key, value in item.items() if key != "metadata"]))
        elif isinstance(item, list):
            stack.extend(reversed(item))


def check_pixels(metadata: Mapping[str, Any], name: str) -> None:
    """Refuse what is no flat picture of 8-bit grey or RGB, as far as the project says.

    Raises:
        ProjectError: More bits, other channels, or a stack.
    """
    channels, kind = metadata.get("channels"), metadata.get("pixelType", "UINT8")
    if kind != "UINT8":
        raise ProjectError(f"the pixels of {name} are {kind}. {_RGB_ONLY}")
    if metadata.get("isRGB") is False and isinstance(channels, list) and len(channels) > 1:
        raise ProjectError(f"{name} has {len(channels)} channels that are not red, green and blue. {_RGB_ONLY}")
    for key, what in (("sizeZ", "z-slices"), ("sizeT", "time points")):
        count = metadata.get(key, 1)
        if isinstance(count, int) and count > 1:
            raise ProjectError(f"{name} has {count} {what}. {_RGB_ONLY}")


def _step(builder: Mapping[str, Any], kind: object, inner: Mapping[str, Any], name: str) -> Step | None:
    """What a builder does to the view of the one inside; None = nothing."""
    match kind:
        case "pyramidize":
            return None
        case "rotated":
            turns = _TURNS.get(str(builder.get("rotation")))
            if turns is None:
                raise _refusal(name, kind, f"rotation={builder.get('rotation')!r}")
            return _turned(turns)
        case "flipped":
            return _flipped(builder.get("flip"), name)
        case "cropped":
            return _cropped(builder.get("region"), name)
        case "swapRedBlue":
            return _reordered(builder.get("order"), name)
        case "affine" if builder.get("transform") == _IDENTITY:
            return None
        case "typeConvert" if builder.get("pixelType") == "UINT8":
            return None  # ours are, and the project says of others that they are not
        case "sliced" if _is_flat(inner):
            return None  # QuPath takes the nearest slice there is
        case "typeConvert":
            raise _refusal(name, kind, f"its pixels become {builder.get('pixelType')}")
        case "sliced":
            raise _refusal(name, kind, "it is a part of a stack")
    raise _refusal(name, kind, _WHY_NOT.get(str(kind), "qp2train does not know this kind"))


def _turned(turns: int) -> Step:
    return lambda view: view.turned(turns)


def _flipped(flip: object, name: str) -> Step | None:
    match flip:
        case "NONE":
            return None
        case "HORIZONTAL":
            return lambda view: view.flipped("horizontal")
        case "VERTICAL":
            return lambda view: view.flipped("vertical")
        case "BOTH":
            return _turned(2)
    raise _refusal(name, "flipped", f"flip={flip!r}")


def _cropped(region: object, name: str) -> Step:
    values = [region.get(key) for key in ("x", "y", "width", "height")] if isinstance(region, dict) else []
    numbers = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and abs(v) < 1 << 31]
    if len(numbers) < 4 or min(numbers[2:]) < 1:
        raise _refusal(name, "cropped", f"region={region!r}")
    x, y, width, height = numbers
    return lambda view: view.cropped(x, y, width, height)


def _reordered(order: object, name: str) -> Step:
    if order not in _ORDERS:
        raise _refusal(name, "swapRedBlue", f"order={order!r}")
    return lambda view: view.reordered(str(order))


def _is_flat(builder: Mapping[str, Any]) -> bool:
    metadata = builder.get("metadata")
    return isinstance(metadata, dict) and metadata.get("sizeZ") == metadata.get("sizeT") == 1


def _arguments(builder: Mapping[str, Any], name: str) -> tuple[bool, list[Step]]:
    """Whether the file's bounds count, and the steps that QuPath takes from the arguments of a file's reader.

    Readers overlook arguments that are not theirs, so these are harmless: `--rotate` and `--order` do something only
    where no reader is named. `--icc-profile` (0.7) changes what the screen shows; we read the file's own colours.
    """
    reader = str(builder.get("providerClassName") or "")
    given = builder.get("args")
    args = [str(part) for arg in given for part in str(arg).split("=", 1)] if isinstance(given, list) else []
    steps: list[Step] = []
    if not reader:
        turns = _TURNS.get(_after(args, "--rotate", "ROTATE_NONE"))
        if turns is None:
            raise _refusal(name, "uri", f"its arguments are {args}")
        steps.append(_turned(turns))
        if (order := _after(args, "--order", "").strip().upper()) != "":
            steps.append(_reordered(order, name))
    if not reader or "bioformats" in reader.lower():
        _check_bioformats(args, str(builder.get("uri")), name)
    elif "openslide" not in reader.lower() and "imagej" not in reader.lower() and args:
        raise _refusal(name, "uri", f"qp2train does not know what {reader.rsplit('.', 1)[-1]} makes of {args}")
    openslide = not reader or "openslide" in reader.lower()
    return openslide and "--no-crop" not in args, steps


def _check_bioformats(args: Sequence[str], uri: str, name: str) -> None:
    """Bio-Formats' own arguments: of a file's several images we read the first, in the usual order of axes."""
    series = _after(args, "--series", _after(args, "-s", ""))
    if not args and "#" in uri:  # QuPath 0.2 in its early days
        series = uri.rsplit("#", 1)[1]
    elif not args and "?series=" in uri:
        series = uri.rsplit("?series=", 1)[1]
    elif not args and "?name=" in uri:
        args = ["--name", uri.rsplit("?name=", 1)[1]]
    if series not in ("", "-1", "0"):
        raise _refusal(name, "uri", f"it is image {series} of its file, and qp2train reads the first one (image 0)")
    for argument in ("--dims", "--bfOptions") + (("--name", "-n") if not series else ()):
        if value := _after(args, argument, ""):
            raise _refusal(name, "uri", f"Bio-Formats reads it with {argument} {value}")


def _after(args: Sequence[str], name: str, default: str) -> str:
    """The value that follows an argument."""
    return next((value for argument, value in pairwise(args) if argument == name), default)


def _refusal(name: str, kind: object, why: str) -> ProjectError:
    cure = _RGB_ONLY if str(kind) in _NOT_RGB else _EXPORT
    return ProjectError(
        f"{name} is a {kind!r} image whose pixels qp2train cannot make: {why}. Its annotations can be read. {cure}"
    )
