"""PNG pairs that came back are trained on like any table."""

from __future__ import annotations

import pytest

from qp2train import evaluate, export_patches, fit, import_png


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_model_is_fitted_to_imported_pairs_and_scored_on_them(train_val, spec, tmp_path):
    train, val = train_val
    folders = [export_patches(table, tmp_path / name) for name, table in (("train", train), ("val", val))]
    there, held_out = map(import_png, folders)
    model = fit(spec, there, held_out, epochs=2, batch_size=8, augment="none", progress=False)
    scores = evaluate(model, held_out)
    assert len(there) == len(train)
    assert scores.table().shape[0] > 0
