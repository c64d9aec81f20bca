"""load_prompt_model: whatever can answer prompts, from a file or folder."""

from __future__ import annotations

import json
import logging
from os import PathLike
from pathlib import Path

from qp2train.errors import PromptError
from qp2train.learn.modelfiles import CARD
from qp2train.refine.prompts import PromptModel

# Files of a SAM: checkpoints in the original layout, and a folder's settings in transformers' one.
CHECKPOINTS, SETTINGS = (".pth", ".pt", ".safetensors"), "config.json"


log = logging.getLogger(__name__)

# On objects held out from training, an IoU after three clicks below this is said whenever the model is loaded.
POOR = 0.75


def load_prompt_model(path: str | PathLike[str], *, device: str = "auto") -> PromptModel:
    """A model that answers prompts. Nothing is ever downloaded.

    Args:
        path: A run or model folder (or its .zip) of the task "prompted", a folder of a SAM in transformers' layout, or
            a SAM's original checkpoint, see `load_sam`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        PromptError: There is nothing at the path, nothing that answers prompts, or a model of another task.
        ModelError: The model is damaged, transformers is missing, or the device is not there.
    """
    given = Path(path)
    if not given.exists():
        raise PromptError(f"there is no model at {given}")
    if given.suffix == ".zip" or any((given / part / CARD).is_file() for part in (".", "model")):
        from qp2train.learn.models import Model  # imported where they are used: they take seconds
        from qp2train.refine.clicknet import ClickModel

        model = ClickModel(Model.load(given), device=device)
        _warn_of_poor(given)
        return model
    if given.suffix in CHECKPOINTS or (given / SETTINGS).is_file():
        from qp2train.refine.samload import load_sam

        return load_sam(given, device=device)
    raise PromptError(
        f"{given} holds nothing that answers prompts: give the run of a recipe with 'task: prompted', a SAM's folder "
        f"with {SETTINGS}, or its checkpoint ({', '.join(CHECKPOINTS)})"
    )


def _warn_of_poor(run: Path) -> None:
    """Say what a run's own evaluation found, if that was poor: a loaded model does not look it."""
    for part in ("test", "val"):
        file = run / "evaluation" / part / "metrics.json"
        try:
            found = json.loads(file.read_bytes())["pooled"]["nothing"]
            after, never = float(found["iou@3"]), float(found["never"])
        except (OSError, ValueError, LookupError, TypeError):  # no run, not evaluated, or not by clicks
            continue
        if not after >= POOR:
            log.warning(
                "%s: its outlines of held-out objects were poor: after three clicks an IoU of %.2f, and %.0f %% never "
                "came to 0.85 (%s). Train it longer or on more objects, or use a SAM",
                run,
                after,
                100 * never,
                file,
            )
        return
