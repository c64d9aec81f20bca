"""Pretrained encoders: which network a name means, and its weights from files, timm's cache or the hub.

A foundation encoder never starts at random unless that is asked for (encoder_weights=None): without its file there is
an error that says which file is wanted.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from qp2train.errors import ModelError
from qp2train.learn.foundation import FOUNDATION, MEAN, STD, Architecture, foundation_of

__all__ = [
    "MEAN",
    "STD",
    "architecture_of",
    "load_encoder",
    "load_named",
    "pretrained_encoder",
    "read_weights",
    "weights_file",
]

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

PUBLISHED = "imagenet"
_HUB = re.compile(r"hf[-_]hub:(?P<repository>[^@]+)")
# What weights are called in a folder or repository, the best first: a .bin is read without unpickling objects.
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    struct.error,
)
# How the transformers library names what timm names otherwise (ViTModel and Dinov2Model).
_TRANSFORMERS = (
    (r"^(vit|dinov2|model)\.(?=embeddings|encoder|layernorm)", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


def architecture_of(encoder: str, weights: str | None) -> Architecture:
    """Which timm network an encoder's name means.

    Args:
        encoder: A foundation encoder ("uni2-h"), any timm model ("resnet18", "vit_small_patch16_224.dino"), or
            "hf-hub:owner/name", whose `config.json` is read from the folder `weights`, else from the hub or its cache.
        weights: As for `pretrained_encoder`.

    Raises:
        ModelError: Nobody knows the name, or the hub's description of it cannot be had.
    """
    known = foundation_of(encoder)
    if known is not None:
        return known.architecture
    hub = _HUB.fullmatch(encoder)
    if hub is not None:
        return _described(encoder, hub["repository"], weights)
    if not timm.is_model(encoder):
        names = [*FOUNDATION, *timm.list_models()]
        near = difflib.get_close_matches(encoder, names, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ModelError(
            f"there is no encoder {encoder!r}{hint}. Known are timm's models, hf-hub:owner/name, and "
            f"{', '.join(FOUNDATION)}"
        )
    try:
        config = timm.get_pretrained_cfg(encoder)
    except RuntimeError as error:
        raise ModelError(f"timm has no weights named {encoder!r}: {error}") from error
    return Architecture(encoder, {}, tuple(config.mean), tuple(config.std)) if config else Architecture(encoder)


def pretrained_encoder(encoder: str, weights: str | None, architecture: Architecture) -> nn.Module:
    """The encoder with its weights.

    Args:
        encoder: As for `architecture_of`.
        weights: "imagenet" = those that were published for the name: ImageNet's from timm's cache or the hub (without
            both this is said, and training starts from scratch), a foundation encoder's own from the hub's cache or
            the hub (without both: an error). A file (.safetensors, or tensors-only .pth, .pt, .bin), or a folder with
            one. None = random.
        architecture: What `architecture_of` found.

    Raises:
        ModelError: No file where it is looked for; a file that is damaged, or whose keys or shapes are not the
            encoder's (the first ones that differ are named); weights of a foundation encoder that cannot be had.
    """
    if weights is None:
        return architecture.create()
    if weights != PUBLISHED or foundation_of(encoder) is not None or _HUB.fullmatch(encoder) is not None:
        file = weights_file(encoder, weights)  # before the network is made, which may take 4.5 GB
        net = architecture.create()
        load_named(net, encoder, file)
        return net
    try:
        return architecture.create(pretrained=True)
    except (OSError, EntryNotFoundError) as error:
        log.warning(
            "no pretrained weights for %s: not in the cache, and the hub cannot be reached (%s). Training starts from "
            "scratch. To use them, run once with network, or give encoder_weights=<file>; encoder_weights=None stops "
            "asking.",
            encoder,
            type(error).__name__,
        )
        return architecture.create()


def weights_file(encoder: str, weights: str) -> Path:
    """Where the weights of a foundation encoder or hub model are, or those that were named for any encoder.

    Args:
        encoder: Its name.
        weights: "imagenet" = those published for it, from the hub's cache or the hub; a file; a folder with one.

    Raises:
        ModelError: They are not there; it says which file is wanted, where it can be had and where to put it.
    """
    return _from_hub(encoder) if weights == PUBLISHED else _named_file(encoder, Path(weights))


def load_named(net: nn.Module, encoder: str, file: Path) -> None:
    """Load an encoder's weights as its publishers named them: see `load_encoder`."""
    known = foundation_of(encoder)
    load_encoder(net, file, prefix=known.prefix if known is not None else "")
    log.info("the encoder %s starts from %s", encoder, file)


def load_encoder(encoder: nn.Module, file: Path, *, prefix: str = "", part: bool = False) -> None:
    """Load an encoder's weights, from .safetensors or a tensors-only .pth, .pt or .bin.

    Taken as they are: files of timm, torch and smp; of the transformers library (ViT and DINOv2), whose names are
    translated; a classifier's weights, which are left out. Position embeddings of another size are interpolated.

    Args:
        encoder: The network.
        file: The weights.
        prefix: Only keys that begin with it are the encoder's, if any does.
        part: The encoder is that part of the file's network that gives maps; what else the file holds is left out.

    Raises:
        ModelError: The file is damaged, or its keys are not the encoder's; the first that differ are named.
    """
    state = _fitted(read_weights(file), encoder, prefix)
    wanted = encoder.state_dict()
    if part:
        state = _as_part(state, wanted)
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in wanted]
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or foreign or shapes:
        parts = [
            f"{what}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            for what, keys in (
                ("not in the file", missing),
                ("only in the file", foreign),
                ("of another shape", [f"{k} {tuple(state[k].shape)} for {tuple(wanted[k].shape)}" for k in shapes]),
            )
            if keys
        ]
        raise ModelError(f"{file} does not hold weights of this encoder. {'; '.join(parts)}")
    encoder.load_state_dict(state, strict=False)  # what a file may lack are counters of batches


def read_weights(file: Path) -> State:
    """Named tensors of a file; nothing is unpickled but tensors.

    Raises:
        ModelError: The file is damaged or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            held: object = load_file(file)
        else:
            held = torch.load(file, weights_only=True, map_location="cpu")
        for key in ("state_dict", "model", "teacher"):
            if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
                held = held[key]
        if not isinstance(held, Mapping) or not held:
            raise TypeError(f"it holds {'nothing' if isinstance(held, Mapping) else f'a {type(held).__name__}'}")
        wrong = [k for k, v in held.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
        if wrong:
            raise TypeError(f"{wrong[0]!r} is no named tensor")
        return {k.removeprefix("module."): v for k, v in held.items()}
    except _UNREADABLE as error:
        raise ModelError(f"{file} does not hold weights of this encoder: {str(error)[:300]}") from error


def _fitted(state: State, encoder: nn.Module, prefix: str) -> State:
    """The file's tensors under the encoder's names."""
    if prefix and any(k.startswith(prefix) for k in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if any(".attention.attention." in k for k in state):
        state = _of_transformers(state)
    wanted = encoder.state_dict()
    heads = tuple({"head.", "fc.", "classifier.", "head.fc.", "pooler.", *_classifier(encoder)})
    state = {k: v for k, v in state.items() if k in wanted or not (k.startswith(heads) or k.endswith("mask_token"))}
    pos, own = state.get("pos_embed"), wanted.get("pos_embed")
    if pos is not None and own is not None and pos.ndim == own.ndim == 3 and pos.shape[1] != own.shape[1]:
        state["pos_embed"] = _resampled(pos, encoder)
    return state


def _as_part(state: State, wanted: State) -> State:
    """What a part of timm's network has of the whole; there "layers.0.x" may be "layers_0.x" or "model.layers.0.x"."""
    there = {_flat(k): v for k, v in state.items()}
    return {k: state[k] if k in state else there[_flat(k)] for k in wanted if k in state or _flat(k) in there}


def _flat(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")


def _classifier(encoder: nn.Module) -> set[str]:
    name = getattr(encoder, "pretrained_cfg", {}).get("classifier")
    return {f"{n}." for n in ([name] if isinstance(name, str) else name or ())}


def _resampled(pos: torch.Tensor, encoder: nn.Module) -> torch.Tensor:
    prefix = 0 if getattr(encoder, "no_embed_class", False) else int(getattr(encoder, "num_prefix_tokens", 1))
    grid = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    side = round(max(pos.shape[1] - prefix, 0) ** 0.5)
    if grid is None or side * side != pos.shape[1] - prefix:
        return pos
    made: torch.Tensor = resample_abs_pos_embed(pos, new_size=list(grid), num_prefix_tokens=prefix)
    return made


def _of_transformers(state: State) -> State:
    """Query, key and value in one matrix, and timm's names."""
    out: State = {}
    for key, value in state.items():
        for pattern, name in _TRANSFORMERS:
            key = re.sub(pattern, name, key)
        out[key] = value
    for key in [k for k in out if ".attention.attention.query." in k]:
        parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in out for part in parts):
            out[key.replace(".attention.attention.query.", ".attn.qkv.")] = torch.cat([out.pop(p) for p in parts])
    return out


def _named_file(encoder: str, given: Path) -> Path:
    if given.is_file():
        return given
    if not given.is_dir():
        raise ModelError(f"there is no file or folder of encoder weights at {given}. {_wanted(encoder)}")
    named = [given / name for name in _FILES if (given / name).is_file()]
    others = sorted(p for p in given.iterdir() if p.suffix in _SUFFIXES)
    if named or len(others) == 1:
        return (named or others)[0]
    there = f"; it has {', '.join(p.name for p in others[:5])}: name one of them" if others else ""
    raise ModelError(f"{given} holds no {' or '.join(_FILES)}{there}. {_wanted(encoder)}")


def _from_hub(encoder: str) -> Path:
    """The published weights of a foundation encoder or hub model, from the hub's cache or the hub."""
    hub, known = _HUB.fullmatch(encoder), foundation_of(encoder)
    repository = known.repository if known is not None else hub["repository"] if hub is not None else encoder
    failed: Exception | None = None
    for name in _FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except (OSError, EntryNotFoundError, HFValidationError) as error:
            failed = error
    reason = str(failed).splitlines()[0][:200]
    raise ModelError(
        f"the weights of the encoder {encoder!r} are not in the cache, and the hub did not give them ({reason}). "
        f"{_wanted(encoder)}"
    ) from failed


def _wanted(encoder: str) -> str:
    """Which file is wanted, where it can be had and where to put it."""
    hub, known = _HUB.fullmatch(encoder), foundation_of(encoder)
    if known is None and hub is None:
        return "Give a file with the encoder's weights, a folder with one, or encoder_weights=None to start at random"
    url = known.url if known is not None else f"https://huggingface.co/{hub['repository'] if hub else ''}"
    licence = f" (licence: {known.licence}; you may have to accept its terms there first)" if known else ""
    config = "" if known is not None else " with config.json beside it"
    return (
        f"Wanted is {_FILES[0]} or {_FILES[-1]}{config} from {url}{licence}. Put it into a folder of yours and give "
        f"encoder_weights=<that folder or file>, or run once with network and `hf auth login`"
    )


def _described(encoder: str, repository: str, weights: str | None) -> Architecture:
    """What the config.json of a timm model on the hub says."""
    folder = Path(weights) if weights not in (None, PUBLISHED) else None
    if folder is not None and not os.path.isdir(folder):
        folder = folder.parent
    try:
        if folder is not None and (folder / "config.json").is_file():
            file = folder / "config.json"
        else:
            file = Path(hf_hub_download(repository, "config.json"))
        config = json.loads(file.read_text(encoding="utf-8"))
        about = config.get("pretrained_cfg", config)
        plain = {**config.get("model_args", {})}
        plain.pop("num_classes", None)
        data = {"name": config["architecture"], "options": plain, "pool": "own"}
        return Architecture.from_dict({**data, "mean": about.get("mean", MEAN), "std": about.get("std", STD)})
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"config.json of {encoder!r} cannot be had ({reason}). {_wanted(encoder)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"config.json of {encoder!r} does not describe a timm model: {error}") from error
