from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import BLUE, RED
from pixelnets import ByColour, model_of

from qp2train import Model

torch.set_num_threads(1)


@pytest.fixture
def by_colour() -> Model:
    return model_of(ByColour())


@pytest.fixture(scope="session")
def blots() -> np.ndarray:
    """100×70 of red and blue, no pixel like its neighbour's."""
    rng = np.random.default_rng(0)
    return np.where(rng.random((70, 100, 1)) < 0.5, RED, BLUE).astype(np.uint8)
