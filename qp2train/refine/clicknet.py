"""ClickModel: a trained network for prompts, as something that answers them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch

from qp2train.core.clicks import BitMask, extent_of
from qp2train.errors import PromptError
from qp2train.infer.predict import choose_device
from qp2train.learn.models import Model
from qp2train.learn.objects import ROUND
from qp2train.learn.prompted import PromptedNet
from qp2train.learn.promptguide import guide
from qp2train.learn.prompting import THRESHOLD
from qp2train.refine.heard import heard
from qp2train.refine.prompts import Candidate, Pixels, Prompt, check_image

# (left, top, side) of a square window, in pixels of the view.
Window = tuple[float, float, float]

# Where an answer goes beyond the window round an earlier outline, a window so much wider is looked at.
WIDER = 1.5
# An outline so near to its window's side goes on beyond it, as a share of the side.
EDGE = 0.02
# A window is at least so much wider than its clicks are apart.
LEAST = 1.1


class ClickModel:
    """Answers prompts with a network that was trained for them.

    It looks at a square window round what is prompted: round the earlier mask or the box, else round the clicks at
    several scales, of which each gives a candidate.

    Args:
        model: A model of the task "prompted".
        device: "auto", "cpu", "cuda", …

    Raises:
        PromptError: The model is of another task.
        ModelError: The device is not there.
    """

    def __init__(self, model: Model, *, device: str = "auto") -> None:
        if not isinstance(model.net, PromptedNet):
            raise PromptError(f"{model.id} is a model of {model.task}; prompts need one of the task 'prompted'")
        self.model = model
        self.device = choose_device(device)
        self.net = model.net.to(self.device).eval()
        self.size_px = model.size_px

    @property
    def id(self) -> str:
        return self.model.id

    def encode(self, image: Pixels) -> ClickView:
        check_image(image)
        return ClickView(self, image)


class ClickView:
    """A picture that prompts are about; the network looks at it anew with each of them."""

    def __init__(self, model: ClickModel, image: Pixels) -> None:
        self._model, self._image = model, image

    def predict(self, prompt: Prompt) -> list[Candidate]:
        """What the prompt may mean, the best first."""
        height, width = self._image.shape[:2]
        prompt = prompt.within(height, width)
        assert prompt.mask is not None
        if not prompt.points and prompt.box is None and not prompt.mask.any():
            return [Candidate(np.zeros((height, width), np.bool_), 0.0)]
        windows = self._windows(prompt)
        found = self._answer(prompt, windows)
        while prompt.mask.any() and _reaches(found[0].mask, windows[0]):  # the outline was of a part
            windows = [self._wider(windows[0])]
            found = self._answer(prompt, windows)
        # What a window cuts off may fit the part that it shows as well as can be: wider windows go first.
        whole = [not _reaches(c.mask, window) for c, window in zip(found, windows, strict=True)]
        return [found[i] for i in sorted(range(len(found)), key=lambda i: (not whole[i], -found[i].iou))]

    def _windows(self, prompt: Prompt) -> list[Window]:
        height, width = self._image.shape[:2]
        assert prompt.mask is not None
        whole = self._whole()
        side = whole[2]
        given = None
        if prompt.mask.any():
            given = _round(extent_of(prompt.mask), prompt.points, ROUND)
        elif prompt.box is not None:
            left, top, right, bottom = prompt.box
            given = _round((max(0, left), max(0, top), min(width, right), min(height, bottom)), prompt.points, ROUND)
        if given is not None:
            return [given if given[2] < side else whole]
        sides = []
        while side / 2 >= self._model.size_px:
            side /= 2
            sides.append(side)
        belongs = [p for p, label in zip(prompt.points, prompt.labels, strict=True) if label]
        clicks = np.array(belongs or prompt.points)
        x, y = clicks.mean(axis=0)
        least = LEAST * 2 * np.abs(clicks - (x, y)).max()  # each click is inside
        return [whole, *((x - s / 2, y - s / 2, s) for s in sides if s >= least)]

    def _whole(self) -> Window:
        height, width = self._image.shape[:2]
        side = float(max(height, width))
        return (width - side) / 2, (height - side) / 2, side

    def _wider(self, window: Window) -> Window:
        left, top, side = window
        whole, more = self._whole(), (WIDER - 1) * side / 2
        return (left - more, top - more, WIDER * side) if WIDER * side < whole[2] else whole

    @torch.no_grad()
    def _answer(self, prompt: Prompt, windows: Iterable[Window]) -> list[Candidate]:
        size, windows = self._model.size_px, list(windows)
        pixels, guides, clicks = [], [], []
        for left, top, side in windows:
            zoom = size / side
            pixels.append(_cut(self._image, (left, top, side), size, cv2.BORDER_REFLECT_101))
            mask = None
            if prompt.mask is not None and prompt.mask.any():
                given = 255 * prompt.mask.astype(np.uint8)
                mask = _cut(given, (left, top, side), size, cv2.BORDER_CONSTANT) > 127
            points = [((x - left) * zoom, (y - top) * zoom) for x, y in prompt.points]
            box = None
            if prompt.box is not None:
                x, y, right, bottom = prompt.box
                box = (x - left) * zoom, (y - top) * zoom, (right - left) * zoom, (bottom - top) * zoom
            guides.append(guide(size, points, prompt.labels, box, mask))
            clicks.append(points)
        net, device = self._model.net, self._model.device
        logits, said = net(
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device),
            torch.from_numpy(np.stack(guides)).to(device),
        )
        shares = logits[:, 0].sigmoid().cpu().numpy()
        return [
            Candidate(self._pasted(heard(share, points, prompt.labels), window, prompt), float(s))
            for share, points, window, s in zip(shares, clicks, windows, said.cpu(), strict=True)
        ]

    def _pasted(self, share: np.ndarray, window: Window, prompt: Prompt) -> BitMask:
        height, width = self._image.shape[:2]
        left, top, side = window
        zoom = side / self._model.size_px
        back = np.array([[zoom, 0, left + 0.5 * zoom - 0.5], [0, zoom, top + 0.5 * zoom - 0.5]])
        mask = np.asarray(cv2.warpAffine(share, back, (width, height), flags=cv2.INTER_LINEAR) > THRESHOLD)
        return _meant(mask, prompt)


def _round(box: tuple[float, float, float, float], points: Sequence[tuple[float, float]], room: float) -> Window:
    """The square window round a box and all clicks, `room` times as wide as the box."""
    xs, ys = [box[0], box[2], *(x for x, _ in points)], [box[1], box[3], *(y for _, y in points)]
    side = max(room * max(box[2] - box[0], box[3] - box[1]), LEAST * max(max(xs) - min(xs), max(ys) - min(ys)), 1.0)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    return x - side / 2, y - side / 2, side


def _cut(pixels: np.ndarray, window: Window, size: int, border: int) -> np.ndarray:
    """A window of a picture or mask as size × size pixels, between them interpolated; beyond the edge by `border`."""
    left, top, side = window
    zoom = size / side
    # Pixels are averaged before they get fewer: on the whole view, which is enough for windows of half its size.
    shrink = max(1, int(side // size))
    if shrink > 1:
        height, width = pixels.shape[:2]
        small = max(1, round(width / shrink)), max(1, round(height / shrink))
        pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        fx, fy = small[0] / width, small[1] / height
    else:
        fx = fy = 1.0
    # cv2 counts from the pixels' middles, we from their corners.
    at = np.array(
        [
            [zoom / fx, 0, (0.5 / fx - left) * zoom - 0.5],
            [0, zoom / fy, (0.5 / fy - top) * zoom - 0.5],
        ]
    )
    return np.asarray(cv2.warpAffine(pixels, at, (size, size), flags=cv2.INTER_LINEAR, borderMode=border))


def _reaches(mask: BitMask, window: Window) -> bool:
    """Whether an outline goes up to a side of its window beyond which the picture goes on."""
    if not mask.any():
        return False
    height, width = mask.shape
    left, top, side = window
    right, bottom = left + side, top + side
    near = side * EDGE
    x0, y0, x1, y1 = extent_of(mask)
    return (
        (left > 0 and x0 < left + near)
        or (top > 0 and y0 < top + near)
        or (right < width and x1 > right - near)
        or (bottom < height and y1 > bottom - near)
    )


def _meant(mask: BitMask, prompt: Prompt) -> BitMask:
    """Without the parts that nothing points at, if clicks point at any: a neighbour that looks alike is another one."""
    inside = [(int(x), int(y)) for (x, y), label in zip(prompt.points, prompt.labels, strict=True) if label]
    if not inside or not mask.any():
        return mask
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    kept = {int(parts[y, x]) for x, y in inside} - {0}
    if prompt.mask is not None:  # what was outlined before may be of several parts
        kept |= {int(i) for i in np.unique(parts[prompt.mask])} - {0}
    return np.isin(parts, list(kept)) if kept else mask
