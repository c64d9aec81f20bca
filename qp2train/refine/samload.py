"""load_sam: a folder of transformers, or an original checkpoint, as a prompted model."""

from __future__ import annotations

import json
import logging
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from qp2train.errors import ModelError
from qp2train.infer.predict import choose_device
from qp2train.learn.models import is_plain, not_finite
from qp2train.refine.mobilesam import MOBILE
from qp2train.refine.sam import CONFIG, WEIGHTS, SamPrompts
from qp2train.refine.samkeys import State, built_from
from qp2train.refine.transformersdoor import of_transformers, quiet

log = logging.getLogger(__name__)

# `model_type` of a folder → the classes for its network, its processor, and the image processor of that. What is
# published of SAM 2, EdgeTAM and SAM 3 are models for video; of these the part for pictures is loaded.
KINDS = {
    "sam": ("SamModel", "SamProcessor", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2Processor", "Sam2ImageProcessor"),
    "edgetam": ("EdgeTamModel", "Sam2Processor", "Sam2ImageProcessor"),
    "edgetam_video": ("EdgeTamModel", "Sam2Processor", "Sam2ImageProcessor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor", "Sam3ImageProcessor"),
    "sam3_tracker_video": ("Sam3TrackerModel", "Sam3TrackerProcessor", "Sam3ImageProcessor"),
    "sam3_video": ("Sam3TrackerModel", "Sam3TrackerProcessor", "Sam3ImageProcessor"),
}
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# Under which the weights lie in a checkpoint: micro-sam's and patho-sam's, Lightning's, others'.
WRAPPERS = ("model_state", "state_dict", "model", "sam")
PREFIXES = ("module.", "sam.")
# No file's tensors take more memory than its bytes, but for some that share theirs.
SHARED = 2

_UNUSABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    ImportError,
    struct.error,
)


def load_sam(path: str | Path, *, device: str = "auto") -> SamPrompts:
    """A model of the SAM family, for `Refiner` and `refine_slide`. Nothing is downloaded, and no code of a file is run.

    Args:
        path: A folder as transformers saves SAM, SAM 2, EdgeTAM or SAM 3 (config.json, model.safetensors, the
            processor's settings), or as `SamPrompts.save` does; or an original checkpoint of SAM (ViT-B, L, H;
            micro-sam and patho-sam have the same layout) or MobileSAM: .pth, .pt or .safetensors.
        device: "auto" = the GPU if there is one; "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ModelError: There is no such model, the file is damaged or another model's (its first foreign keys are named),
            a weight is no finite number, transformers is missing or too old, or the device is not there.
    """
    path, chosen = Path(path), choose_device(device)
    of_transformers("SamModel")
    if path.is_dir():
        net, images = _from_folder(path)
    elif path.is_file():
        net, images = _from_checkpoint(path)
    else:
        raise ModelError(f"{path} is not there: a SAM is a folder or a checkpoint file")
    broken = next(not_finite(net), None)
    if broken is not None:
        raise ModelError(f"{path}: {broken} holds values that are no finite numbers")
    return SamPrompts(_name(path), net, images, device=chosen)


def _name(path: Path) -> str:
    whole = path.resolve()
    name = whole.stem if path.is_file() else whole.name
    if whole.parent.name == "snapshots":  # of the Hugging Face cache, where folders are named by their commits
        name = whole.parent.parent.name.split("--")[-1]
    if not is_plain(name):
        raise ModelError(f"{path} cannot name the objects that it makes: give the folder a plain name")
    return name


def _from_folder(folder: Path) -> tuple[Any, Any]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        kind = config["model_type"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder} is no folder of a SAM: its {CONFIG} is missing or damaged ({error})") from error
    if kind == MOBILE:
        return _from_checkpoint(folder / WEIGHTS)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"{folder} holds a model of type {str(kind)[:50]!r}, none of {', '.join([*KINDS, MOBILE])}")
    network, processor, pictures = KINDS[kind]
    unusable: tuple[type[Exception], ...] = (*_UNUSABLE, *_refusals())
    made_of = of_transformers(network)
    try:
        with quiet():
            net, said = made_of.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            if any((folder / name).is_file() for name in PROCESSORS):
                made = of_transformers(processor).from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                images = made.image_processor
            else:
                images = _images(pictures, net)
    except unusable as error:
        raise ModelError(f"{folder} does not hold a usable SAM: {str(error)[:500]}") from error
    lacking = sorted({*said["missing_keys"], *(str(k) for k in said["mismatched_keys"])})
    if lacking:
        raise ModelError(f"{folder} lacks weights of a {kind}: {', '.join(lacking[:3])} ({len(lacking)} in all)")
    if said["unexpected_keys"]:
        log.warning("%s holds weights that are not used, such as %s", folder, min(said["unexpected_keys"]))
    return net, images


def _refusals() -> tuple[type[Exception], ...]:
    """What transformers' configurations raise for a value of a wrong type, which is no ValueError."""
    import huggingface_hub.errors as errors

    refusal = getattr(errors, "StrictDataclassError", None)
    return (refusal,) if isinstance(refusal, type) and issubclass(refusal, Exception) else ()


def _from_checkpoint(file: Path) -> tuple[Any, Any]:
    try:
        net = built_from(_weights(file))
    except ModelError as error:
        raise ModelError(f"{file} is no checkpoint of a SAM that can be used: {error}") from error
    return net, _images("SamImageProcessor", net)


def _weights(file: Path) -> State:
    """The named tensors of a file. Of pickles no more is read than torch's `weights_only` allows: no code is run."""
    try:
        if file.suffix == ".safetensors":
            held: object = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles that torch has not written: the error says enough
                held = torch.load(file, weights_only=True, map_location="cpu")
    except _UNUSABLE as error:
        raise ModelError(f"it cannot be read, or holds more than weights ({str(error)[:300]})") from error
    for key in WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not held:
        raise ModelError("it holds no weights")
    wrong = [k for k, v in held.items() if not (isinstance(k, str) and _plain(v))]
    if wrong:
        raise ModelError(f"{str(wrong[0])[:100]!r} is no named tensor of numbers")
    if sum(v.numel() * v.element_size() for v in held.values()) > SHARED * file.stat().st_size:
        raise ModelError("it claims larger tensors than it has bytes for")
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in held):
            held = {k.removeprefix(prefix): v for k, v in held.items()}
    return dict(held)


def _plain(value: object) -> bool:
    """Whether it is a dense tensor with its numbers: counters, or with a fraction."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return not value.is_quantized and (value.is_floating_point() or value.dtype == torch.int64)


def _images(name: str, net: Any) -> Any:
    """The image processing that belongs to a network: longest side 1024, ImageNet's mean and deviation, padded."""
    side = net.config.prompt_encoder_config.image_size
    grid = 4 * side // net.config.prompt_encoder_config.patch_size
    if name == "SamImageProcessor":
        size = {"size": {"longest_edge": side}, "mask_size": {"longest_edge": grid}}
        square, coarse = {"height": side, "width": side}, {"height": grid, "width": grid}
        return of_transformers(name)(**size, pad_size=square, mask_pad_size=coarse)
    # Before transformers 5 they had "Fast" in their names.
    return of_transformers(name, f"{name}Fast")(
        size={"height": side, "width": side}, mask_size={"height": grid, "width": grid}
    )
