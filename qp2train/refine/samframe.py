"""Frame: the square that a SAM looks at, and where a view, its clicks, boxes and masks are in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from qp2train.core.clicks import BitMask, next_click
from qp2train.refine.prompts import Prompt

# What an outlined mask says as logits: ±log(0.999 / 0.001), as micro-sam says it, so that it weighs like an answer of
# the model itself, which is what SAM was trained with.
SURE = 6.9


@dataclass(frozen=True)
class Frame:
    """A view within the square picture that a SAM is shown.

    SAM 1 pads it at the right and at the bottom; later models distort it so that it fills the square.

    Args:
        view: (height, width) of the view.
        inner: (height, width) of the part of the square that the view fills, at the top left.
        side: Side of the square, in its pixels.
        grid: Side of the coarse grid that masks have inside of the model: 256 for a square of 1024.
        padded: Whether it is SAM 1's, which scales its answers up in the square before the padding is cut away.
    """

    view: tuple[int, int]
    inner: tuple[int, int]
    side: int
    grid: int
    padded: bool = True

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A place of the view, corners at integers, in the square, where SAM has pixels' centres at integers."""
        return x * self.inner[1] / self.view[1] - 0.5, y * self.inner[0] / self.view[0] - 0.5

    def share(self, mask: BitMask) -> torch.Tensor:
        """(H, W) bool → (grid, grid) float32, the share of each cell that the mask covers; none of the padding."""
        height, width = self.inner
        more = self.view[1] - mask.shape[1], self.view[0] - mask.shape[0]  # of a strip that was made broader
        whole = pad(torch.from_numpy(mask)[None, None].float(), (0, more[0], 0, more[1]))
        square = pad(interpolate(whole, (height, width), mode="area"), (0, self.side - width, 0, self.side - height))
        return interpolate(square, (self.grid, self.grid), mode="area")[0, 0]

    def to_view(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, grid, grid) logits → (N, H, W): scaled up, without the padding."""
        if not self.padded:
            return interpolate(logits[None], self.view, mode="bilinear", align_corners=False)[0]
        square = interpolate(logits[None], (self.side, self.side), mode="bilinear", align_corners=False)
        inner = square[..., : self.inner[0], : self.inner[1]]
        return interpolate(inner, self.view, mode="bilinear", align_corners=False)[0]


def question(prompt: Prompt, frame: Frame) -> dict[str, Any] | None:
    """What a SAM is asked for a prompt: the arguments of its `forward`, beside the image embeddings.

    A click, and nothing else, is ambiguous and asks for several masks, as in SAM's own practice. A mask becomes
    logits of ±`SURE`, in each cell of the grid by the share that it covers. SAM has seen masks in its training only
    together with clicks or boxes on the object, and takes little notice of a mask alone: where neither is given, the
    mask's own box is added, and where no click contradicts the mask, a click in its middle, too.

    Args:
        prompt: As it counts in the view (see `Prompt.within`); its mask is there, and may be empty.
        frame: Of the view.

    Returns:
        None where nothing says where the object is.
    """
    assert prompt.mask is not None, "Prompt.within gives one"
    height, width = prompt.mask.shape
    outlined = bool(prompt.mask.any())
    clicks = dict(zip(prompt.points, prompt.labels, strict=True))  # of two on one spot the later counts
    box = _clipped(prompt.box, height, width)
    if outlined and box is None and 1 not in clicks.values():
        box = _bounds(prompt.mask)
        middle = None if clicks else next_click(np.zeros_like(prompt.mask), prompt.mask)
        if middle is not None:
            clicks[middle[:2]] = 1
    if box is None and 1 not in clicks.values():
        return None
    asked: dict[str, Any] = {"multimask_output": len(clicks) == 1 and box is None and not outlined}
    if clicks:
        asked["input_points"] = torch.tensor([[[frame.place(*point) for point in clicks]]], dtype=torch.float32)
        asked["input_labels"] = torch.tensor([[[*clicks.values()]]], dtype=torch.int64)
    if box is not None:
        asked["input_boxes"] = torch.tensor([[[*frame.place(*box[:2]), *frame.place(*box[2:])]]], dtype=torch.float32)
    if outlined:
        asked["input_masks"] = (SURE * (2 * frame.share(prompt.mask) - 1))[None, None]
    return asked


def _clipped(
    box: tuple[float, float, float, float] | None, height: int, width: int
) -> tuple[float, float, float, float] | None:
    """The part of a box within the view: beyond it SAM knows no places."""
    if box is None:
        return None
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _bounds(mask: BitMask) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
