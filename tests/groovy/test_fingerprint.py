"""What a script takes for corrected by hand is what the package takes for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import shapely

from qp2train.core.annotation import Annotation, Plane
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import fingerprint

HERE = Path(__file__).parent
Run = Callable[..., subprocess.CompletedProcess[str]]
PLANE = Plane(c=-1, z=1, t=2)


def expected(annotation: Annotation) -> str:
    roi, description = Builder().roi(annotation), annotation.metadata.get("ANNOTATION_DESCRIPTION", "")
    return fingerprint(annotation.class_name, annotation.name, annotation.locked, roi, description=description)


@pytest.mark.parametrize("script", ["export_annotations", "import_predictions"])
def test_a_script_computes_the_fingerprint_that_qp2train_writes(groovy: Run, script: str) -> None:
    triangle = Annotation(shapely.Polygon([(1.1, 2), (5, 2), (5, 9.7)]), None, plane=PLANE)
    points = Annotation(shapely.MultiPoint([(1.1, 2), (3, 4)]), "Stroma", name="n", plane=PLANE)
    ellipse = Annotation(shapely.box(1, 2, 5.1, 9), None, name="n", plane=PLANE, ellipse=True)

    done = groovy(HERE / "fingerprint.groovy", HERE.parents[1] / "groovy" / f"{script}.groovy")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [
        expected(triangle),
        expected(triangle),  # newer versions of QuPath repeat the first vertex at the end
        expected(replace(triangle, name="näme", class_name="Tumor: Positive", locked=True)),
        expected(points),
        expected(ellipse),
        expected(replace(triangle, metadata={"ANNOTATION_DESCRIPTION": "seen"})),
    ]
