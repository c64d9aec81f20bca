from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machines of CI are shared. Derandomised: the same run tomorrow.
settings.register_profile(
    "ours", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ours")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides and projects, which are not part of the repository."""
    named = os.environ.get("QP2TRAIN_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: looked in {folder} (set QP2TRAIN_DATA)")
    return folder.resolve()
