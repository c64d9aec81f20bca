"""The prompt that is kept with an object has one form, whoever asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from servestubs import StubModel

from qp2train import ArraySlide, Box
from qp2train.refine.refiner import PROMPT_KEY, Refiner

ROOT = Path(__file__).parents[2]


def test_refiner_script_and_documentation_agree() -> None:
    refiner = Refiner(StubModel())
    refiner.set_region(ArraySlide(np.zeros((40, 60, 3), np.uint8)), Box(0, 0, 60, 40))
    (found,) = refiner.predict(points=[(20, 20)])
    keys = set(json.loads(found.metadata[PROMPT_KEY]))
    script = (ROOT / "groovy" / "send_prompts.groovy").read_text(encoding="utf-8")
    kept = script[script.index("def kept = [") : script.index("def post =")]
    added = script[script.index("gson.toJson(kept + [") :].splitlines()[0]
    assert set(re.findall(r"(\w+): ", kept + added)) == keys
    told = (ROOT / "docs" / "refine.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in told for key in keys)
