from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qp2train import LabelMap
from qp2train.errors import NoAnnotationError, Qp2trainError
from qp2train.learn.lrfinder import find_lr

QUICK = {"batch_size": 4, "augment": "none", "steps": 40}


@pytest.fixture(scope="module")
def found(spec, train_val):
    before = torch.get_rng_state()
    rates = find_lr(spec, train_val[0], **QUICK, highest=10.0)
    assert torch.equal(before, torch.get_rng_state())
    return rates


def test_the_rates_rise_evenly_on_a_logarithmic_scale(found):
    assert np.diff(np.log(found.rates))[1:] == pytest.approx(np.log(1e7) / 40, rel=0.05)
    assert len(found.rates) == len(found.losses)


def test_it_proposes_a_rate_at_which_the_network_learns_and_does_not_burst(found):
    """At the lowest rates nothing happens, at the highest the loss rises; in between lies what is proposed."""
    assert 1e-5 < found.proposed < 1
    assert found.proposed in found.rates
    assert found.losses[found.rates.index(found.proposed)] < found.losses[0]


def test_the_same_seed_proposes_the_same(found, spec, train_val):
    assert find_lr(spec, train_val[0], **QUICK, highest=10.0) == found


@pytest.mark.parametrize("wrong", [{"steps": 5}, {"lowest": 0}, {"lowest": 2.0}])
def test_refused(wrong, spec, train_val):
    with pytest.raises(Qp2trainError, match="steps must be at least"):
        find_lr(spec, train_val[0], **QUICK | wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"gradient_clip": -1.0}, "gradient_clip must not be negative"),
        ({"loss": "l2"}, "loss must be a sum"),
        ({"steps": "20"}, "steps must be a whole number, not '20'"),
    ],
)
def test_what_fit_would_refuse(wrong, said, spec, train_val):
    with pytest.raises(Qp2trainError, match=said):
        find_lr(spec, train_val[0], **QUICK | wrong)


def test_a_table_of_other_classes(spec, train_val):
    with pytest.raises(Qp2trainError, match=r"the network's classes .*Tumor.* are not the table's .*Stroma"):
        find_lr(spec, replace(train_val[0], labels=LabelMap(["Stroma"])), **QUICK)


def test_nothing_to_learn_from(spec, train_val):
    with pytest.raises(NoAnnotationError):
        find_lr(spec, train_val[0].take([]))
