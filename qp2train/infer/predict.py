"""predict: a model and a slide in, a ScoreMap out."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.morphology import dilation, disk, remove_small_holes
from torch import nn

from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE
from qp2train.core.scores import STEPS, ScoreMap
from qp2train.errors import ModelError
from qp2train.infer.stitch import Stitcher, window_starts
from qp2train.learn.models import Model
from qp2train.learn.prompted import PromptedNet
from qp2train.learn.segmentation import Segmentation
from qp2train.slides import Slide
from qp2train.slides.stain import normalised
from qp2train.slides.tissue import tissue_mask

log = logging.getLogger(__name__)

# Maps larger than this are kept in a temporary file.
IN_MEMORY_BYTES = 1 << 29
# The overview on which tissue is found, and how far from it is still looked: a stroma's pale rim belongs to it.
TISSUE_MPP, TISSUE_MARGIN_UM = 8.0, 40.0
# Clear areas up to this size, surrounded by tissue, are lumina and fat rather than glass.
HOLE_UM2 = 250_000.0

Progress = Callable[[int, int], None]


def predict(
    model: Model,
    slide: Slide,
    *,
    overlap: float = 0.25,
    tta: Literal["none", "dihedral"] = "none",
    tissue: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    progress: Progress | None = None,
) -> ScoreMap:
    """Predict a whole slide by a sliding window at the model's resolution.

    Neighbouring windows overlap and are blended by a cosine bell, so that there are no seams. Memory holds
    one band of windows; a large result lies in a temporary file.

    Of a classification model each patch is one pixel of the map, of its middle: 1 − overlap of its side wide.

    Args:
        model: A segmentation or classification model.
        slide: Any slide with a known pixel size.
        overlap: Share of a window's side that neighbours have in common, 0 ≤ overlap < 1.
        tta: "dihedral" averages the predictions of all eight flips and quarter turns: eight times the time.
        tissue: Only where there is tissue (and clear areas inside it); glass is left unpredicted.
        batch_size: Windows per step.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        progress: Called with (windows done, windows in all).

    Raises:
        ModelError: An overlap, tta, batch_size or device that cannot be used.
        SlideError: The slide has no pixel size, or cannot be read.
    """
    if not 0 <= overlap < 1:
        raise ModelError(f"overlap must be at least 0 and below 1, not {overlap}")
    if tta not in ("none", "dihedral") or batch_size < 1:
        raise ModelError(f"tta must be 'none' or 'dihedral', and batch_size at least 1, not {tta!r} and {batch_size}")
    if isinstance(model.net, PromptedNet):
        raise ModelError(f"{model.id} answers prompts, and predicts nothing by itself: use Refiner, or qp2train refine")
    chosen, coloured = choose_device(device), normalised(slide, model.spec.stain)
    if model.task == "classification":
        from qp2train.infer.classify import classify_slide  # which itself needs this file

        def wanted_cells(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
            columns, rows = size
            if not tissue:
                return np.ones((rows, columns), dtype=bool)
            return _Wanted(_tissue(slide, box), rows, columns).rows(0, rows)

        return classify_slide(
            model,
            coloured,
            wanted=wanted_cells,
            overlap=overlap,
            tta=tta,
            batch_size=batch_size,
            device=chosen,
            progress=progress,
        )
    net, temperature = model.net.to(chosen).eval(), temperature_of(model)
    scale = model.mpp / slide.mpp
    full_w, full_h = slide.size
    width, height = max(1, round(full_w / scale)), max(1, round(full_h / scale))
    # At exactly the model's scale, so that no picture is interpolated; the last pixel may reach half over the border.
    box = Box(0, 0, width * scale, height * scale)
    size, channels = model.size_px, len(model.labels.names)
    overlapping = isinstance(model.spec, Segmentation) and model.spec.multilabel
    wanted = _Wanted(_tissue(slide, box) if tissue else np.ones((1, 1), dtype=bool), height, width)
    scores, classmap = _array((channels, height, width)), _array((height, width))
    stitcher = Stitcher(channels, height, width, size=size)
    columns = window_starts(width, size, overlap)
    bands = list(stitcher.bands(window_starts(height, size, overlap)))
    todo = [[x for x in columns if wanted.rows(y, y + size)[:, max(x, 0) : x + size].any()] for y, _ in bands]
    done, total = 0, sum(map(len, todo))
    if total == 0:
        log.warning("%s: no tissue was found, so nothing is predicted; tissue=False predicts everything", slide.name)
    with torch.inference_mode():
        for (y, finished), xs in zip(bands, todo, strict=True):
            for batch in _batches(xs, batch_size):
                side = size * scale
                pixels = np.stack([coloured.read(Box(x * scale, y * scale, side, side), (size, size)) for x in batch])
                tensor = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(chosen)
                found = _probabilities(net, tensor, tta, temperature, overlapping=overlapping)
                for x, window in zip(batch, found, strict=True):
                    stitcher.add(window, x, y)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
            top, mean = stitcher.rows_above(finished)
            rows = slice(top, top + mean.shape[1])
            seen = wanted.rows(rows.start, rows.stop) & (mean.sum(axis=0) > 0)
            if overlapping:
                mean[0] = 1 - mean[1:].max(axis=0)
            scores[:, rows] = np.round(mean * STEPS).astype(np.uint8) * seen
            classmap[rows] = np.where(seen, mean.argmax(axis=0), IGNORE)
    return ScoreMap(scores, classmap, box, model.mpp, slide.mpp, model.labels, overlapping)


def _probabilities(
    net: torch.nn.Module, pixels: torch.Tensor, tta: str, temperature: float = 1.0, *, overlapping: bool = False
) -> NDArray[np.float32]:
    """(B, C, H, W) softmax of logits / temperature, averaged over the eight symmetries of the square if asked.

    Of overlapping classes a sigmoid each, after a first channel that is kept for the background.
    """

    def said(view: torch.Tensor) -> torch.Tensor:
        logits = net(view).float() / temperature
        return nn.functional.pad(logits.sigmoid(), (0, 0, 0, 0, 1, 0)) if overlapping else logits.softmax(dim=1)

    if tta == "none":
        return np.asarray(said(pixels).cpu().numpy())
    views = []
    for turns in range(4):
        for flip in (False, True):
            view = torch.rot90(pixels.flip(-1) if flip else pixels, turns, (-2, -1))
            back = torch.rot90(said(view), -turns, (-2, -1))
            views.append(back.flip(-1) if flip else back)
    return np.asarray(torch.stack(views).mean(dim=0).cpu().numpy())


class _Wanted:
    """Where to predict: a coarse mask of the map's box, enlarged to the map a few rows at a time."""

    def __init__(self, mask: NDArray[np.bool_], height: int, width: int) -> None:
        self._mask, self._height = mask, height
        self._columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)

    def rows(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """(rows, W) bool of the map rows [top, bottom) that there are."""
        rows = np.arange(max(top, 0), min(bottom, self._height))
        nearest = ((rows + 0.5) * self._mask.shape[0] / self._height).astype(int)
        enlarged: NDArray[np.bool_] = self._mask[nearest[:, None], self._columns[None, :]]
        return enlarged


def _tissue(slide: Slide, box: Box) -> NDArray[np.bool_]:
    """(rows, columns) bool: tissue in the box at a low resolution, a margin round it, and the clear areas inside."""
    mpp = max(TISSUE_MPP, slide.mpp)
    scale = mpp / slide.mpp
    overview = slide.read(box, (max(1, round(box.width / scale)), max(1, round(box.height / scale))))
    mask = tissue_mask(overview, min_area_px=16)
    mask = dilation(mask, disk(round(TISSUE_MARGIN_UM / mpp)))
    mask = remove_small_holes(mask, max_size=round(HOLE_UM2 / mpp**2))
    return np.asarray(mask, dtype=bool)


def _batches(xs: list[int], size: int) -> Iterator[list[int]]:
    return (xs[i : i + size] for i in range(0, len(xs), size))


def _array(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Zeros, in memory or in a temporary file that vanishes with the array."""
    if np.prod(shape) <= IN_MEMORY_BYTES:
        return np.zeros(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="qp2train-scores-") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def temperature_of(model: Model) -> float:
    """By what the model's logits are divided, see `fit_temperature`; 1 if none was fitted.

    Raises:
        ModelError: It is no number above 0.
    """
    temperature = model.about.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ModelError(f"the temperature of {model.id} must be a number above 0, not {temperature!r}")
    return float(temperature)


def choose_device(asked: str) -> torch.device:
    """The device of a name; "auto" = the GPU if there is one.

    Raises:
        ModelError: The device is unknown or not there.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {asked!r} cannot be used here: {error}") from error
    return device
