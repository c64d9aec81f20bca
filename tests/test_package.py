import inspect
import os
import subprocess
import sys
import time

import pytest

import qp2train
from qp2train import errors


def test_public_names_are_sorted_documented_and_can_be_had():
    assert sorted(qp2train.__all__) == qp2train.__all__
    for name in qp2train.__all__:
        assert inspect.getdoc(getattr(qp2train, name)), name
    assert set(qp2train.__all__) <= set(dir(qp2train))
    assert qp2train.__version__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="'magic'"):
        _ = qp2train.magic


def test_every_error_is_one_of_ours_and_in_the_tree_of_the_docstring():
    for name, error in vars(errors).items():
        if inspect.isclass(error):
            assert issubclass(error, errors.Qp2trainError), name
            assert error.__doc__, name
            assert name in errors.__doc__


def test_importing_loads_no_torch_and_starts_no_java():
    heavy = ["torch", "lightning", "jpype", "paquo", "albumentations", "openslide", "skimage", "pandas"]
    code = f"import sys, qp2train; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_names_of_the_lower_rooms_load_no_torch():
    code = (
        "import sys, qp2train as q; q.LabelMap, q.open_slide, q.sample_patches, q.paint; print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_importing_takes_less_than_a_third_of_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "import qp2train"], check=True, env={**os.environ, "PYTHONNOUSERSITE": "1"}
        )
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_the_package_runs_as_the_command_does():
    said = subprocess.check_output([sys.executable, "-m", "qp2train", "--help"], text=True)
    assert "refine" in said
