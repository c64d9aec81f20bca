from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from discs import LABELS, disc_table
from torch import nn

from qp2train import fit
from qp2train.errors import ModelError
from qp2train.infer.classify import classify_table
from qp2train.learn.classification import Classification
from qp2train.learn.lora import LoraLinear, add_lora, merged_state
from qp2train.learn.models import load_model

torch.set_num_threads(1)

SPEC = Classification(LABELS, encoder="test_vit", encoder_weights=None, tune="lora", lora_rank=2)


def test_the_addition_is_up_times_down():
    # W = 0, bias 1: what is left of (1, 2) is up·(down·x) = (3, 4)ᵀ · (1·1 + 1·2) = (9, 12), and the bias.
    base = nn.Linear(2, 2)
    nn.init.zeros_(base.weight)
    nn.init.ones_(base.bias)
    lora = LoraLinear(base, 1)
    lora.down.data, lora.up.data = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0], [4.0]])
    assert lora(torch.tensor([[1.0, 2.0]])).tolist() == [[10.0, 13.0]]
    assert lora.weight.tolist() == [[3.0, 3.0], [4.0, 4.0]]


def test_it_begins_as_the_layer_was():
    base = nn.Linear(5, 3)
    x = torch.randn(4, 5)
    assert torch.equal(LoraLinear(base, 2)(x), base(x))


def test_only_the_additions_and_the_head_are_trained():
    net = SPEC.build()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert all(".up" in name or ".down" in name or name.startswith("head.") for name in trained)
    blocks = len(net.encoder.blocks)
    assert sum(name.endswith(".up") for name in trained) == 2 * blocks  # qkv and proj
    groups = net.parameter_groups(lr=1, weight_decay=0, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(trained)


def test_an_encoder_without_attention_is_refused():
    with pytest.raises(ModelError, match="tunes attention, and ResNet has none"):
        Classification(LABELS, encoder="resnet18", encoder_weights=None, tune="lora").build()
    with pytest.raises(ModelError, match="at least 1, not 0"):
        add_lora(nn.Linear(1, 1), 0)


def test_the_merged_network_is_an_ordinary_one_and_says_the_same():
    net = SPEC.build().eval()
    for module in net.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.up, std=0.1)
    plain = replace(SPEC, tune="full").build().eval()
    assert merged_state(net).keys() == plain.state_dict().keys()
    plain.load_state_dict(merged_state(net))
    pixels = torch.randint(0, 256, (2, 3, 48, 48))
    torch.testing.assert_close(plain(pixels), net(pixels), rtol=1e-4, atol=1e-5)


def test_a_trained_one_comes_back_from_its_folder_without_additions(tmp_path):
    table = disc_table(tmp_path, ["Stroma", "Tumor"] * 10)
    made = {"epochs": 2, "batch_size": 10, "lr": 1e-2, "augment": "none", "progress": False, "track": "csv"}
    model = fit(SPEC, table, out=tmp_path / "run", **made)
    back = load_model(tmp_path / "run")
    assert back.id == model.id
    assert not any(isinstance(m, LoraLinear) for m in back.net.modules())
    a, b = (classify_table(m, table).probabilities for m in (model, back))
    torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b), rtol=1e-4, atol=1e-5)
