"""A small run as a report reads it, with awkward names."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
from PIL import Image

from qp2train.report.html import Facts, Picture

EVIL = '<script>alert("x")</script>/a~b & "c"'
CLASSES = ["Background", "Tumor", EVIL]


def scores(background: float, tumor: float, evil: float | None) -> dict[str, float | None]:
    return {"Background": background, "Tumor": tumor, EVIL: evil, "mean": tumor}


DICE = scores(0.91, 0.8125, None)
METRICS: dict[str, Any] = {
    "format": 1,
    "task": "segmentation",
    "model": "tumor-1a2b3c4d",
    "split": "test",
    "mpp": 0.5,
    "classes": CLASSES,
    "pooled": {"dice": DICE, "recall": scores(0.9, 0.8, 0.25), "kappa": {"all": 0.7071}},
    "intervals": {
        "dice": {name: {"value": v, "low": 0.5, "high": 0.95 if v else None} for name, v in DICE.items()},
        "patients": 3,
        "resamples": 2000,
        "method": "percentile bootstrap over patients",
    },
    "patients": {"P1": {"dice": scores(0.9, 0.85, None)}, "P2": {"dice": scores(0.9, 0.6, 0.1)}, "P3": {"dice": DICE}},
    "slides": {"p1 <b>.svs": {"dice": DICE}, "p2.svs": {"dice": DICE}},
    "patches": [
        {"row": 0, "entry": "1", "slide": "p1 <b>.svs", "patient": "P1", "x": 10.0, "y": 2048.0,
         "dice": 0.25, "uncertainty": 0.5},
        {"row": 1, "entry": "2", "slide": "p2.svs", "patient": "P2", "x": 0.0, "y": 0.0,
         "dice": None, "uncertainty": None},
    ],
    # Of 1000 px of tumour 200 are called background: 20 %, the most frequent mistake.
    "confusion": {
        "pixels": [[8500, 500, 0], [200, 800, 0], [0, 0, 0]],
        "mm2": [[0.002125, 0.000125, 0], [5e-05, 0.0002, 0], [0, 0, 0]],
    },
    "roc": {"Tumor": {"fpr": [0.0, 0.125, 1.0], "tpr": [0.0, 0.75, 1.0], "auc": 0.8125}, EVIL: None},
    "pr": {"Tumor": {"recall": [0.0, 0.5, 1.0], "precision": [1.0, None, 0.25], "ap": 0.66}},
    "calibration": {
        "bins": [
            {"confidence": None, "accuracy": None, "share": 0.0},
            {"confidence": 0.75, "accuracy": 0.5, "share": 1.0},
        ],
        "ece": 0.25,
        "temperature": 1.5,
    },
    "boundary": {"Tumor": {"hd95_um": 31.25, "assd_um": None}},
    "objects": {"Tumor": {"dice": 0.5, "f1": 0.6, "pq": 0.4, "hausdorff_um": 1234.5}},
}  # fmt: skip
DATA: dict[str, Any] = {
    "format": 1,
    "size_px": 256,
    "mpp": 0.5,
    "grouped_by": ["patient"],
    "patients_known": True,
    "parts": {
        "train": {"patients": 12, "slides": 20, "patches": 1250},
        "test": {"patients": 3, "slides": 4, "patches": 2},
    },
    "classes": {
        name: {"train": {"mm2": 12.345, "patches": 1000}, "test": {"mm2": 0.0, "patches": 7}} for name in CLASSES
    },
    "area_mpp": 4.0,
    "rejected": {"blur": 31},
    "history": [
        {"epoch": 1, "train/loss": 1.5, "val/loss": 1.25, "val/dice": 0.5, "val/dice/Tumor": 0.5},
        {"epoch": 2, "train/loss": 0.5, "val/dice": 0.75, "val/dice/Tumor": 0.75},
    ],
}
MODEL: dict[str, Any] = {
    "format": 1,
    "task": "segmentation",
    "id": "tumor-1a2b3c4d",
    "labels": {"classes": {"Tumor": ["Tumor"], EVIL: [EVIL]}, "colors": {"Tumor": [200, 0, 0]}},
    "network": {"arch": "unet", "encoder": "resnet18", "options": {}},
    "size_px": 256,
    "mpp": 0.5,
    "about": {"arguments": {"epochs": 2}, "versions": {"qp2train": "0.1.0"}, "encoder_weights": None},
}


def picture(kind: str = "worst", patch: int | None = 0, slide: str = "p1 <b>.svs") -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 40, 3), 200, np.uint8)).save(buffer, "PNG")
    return Picture(kind, buffer.getvalue(), 40, 16, f"what <is> seen: {kind}", patch, slide)


def facts(**metrics: Any) -> Facts:
    """All that a report can have; keyword arguments replace parts of metrics.json."""
    recipe = "out: runs/tumor\nname: '" + "x" * 300 + "'\n"
    return Facts(copy.deepcopy(METRICS) | metrics, copy.deepcopy(DATA), copy.deepcopy(MODEL), recipe, "2026-11-21")


PICTURES = [picture("worst", 0), picture("uncertain", 1), picture("slide", None, "p2.svs")]
