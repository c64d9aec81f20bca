"""The objects of a table as what a SAM learns from."""

from __future__ import annotations

import numpy as np
import pytest

from qp2train import ObjectExamples
from qp2train.errors import PromptError


def test_every_object_is_shown_with_its_mask_and_where_that_is_known(red_squares) -> None:
    examples = ObjectExamples(red_squares, view_px=84)
    assert len(examples) == 16
    for image, mask, known in examples:
        assert image.shape == (84, 84, 3)
        assert known is not None
        red = image[..., 0].astype(int) > image[..., 2]
        assert (red == mask)[known].mean() > 0.97
        rows = np.flatnonzero(mask.any(axis=1))
        assert 84 / (rows[-1] - rows[0] + 1) == pytest.approx(1.4 * 1.5, rel=0.06)
    assert len(examples[2:5]) == 3


def test_a_sam_learns_from_a_table(red_squares) -> None:
    pytest.importorskip("transformers", reason="models of the SAM family need the transformers package (extra `sam`)")
    import tinysam

    from qp2train import tune_sam
    from qp2train.refine.sam import SamPrompts

    sam = SamPrompts("tiny", tinysam.sam(), tinysam.processor("sam").image_processor)
    tuned = tune_sam(sam, ObjectExamples(red_squares, view_px=64), steps=2, batch=1)
    assert tuned.id != sam.id


def test_views_of_no_size_are_refused(red_squares) -> None:
    with pytest.raises(PromptError, match="view_px must be"):
        ObjectExamples(red_squares, view_px=0)
