"""What can be said of a training's arguments before there is any patch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qp2train.errors import Qp2trainError
from qp2train.learn.classification import Classification
from qp2train.learn.classweights import named_weights
from qp2train.learn.losses import CE_AND_DICE, parse
from qp2train.learn.prompted import Prompted
from qp2train.learn.schedule import Optimisation
from qp2train.learn.segmentation import Segmentation

_COUNTS = ("epochs", "batch_size", "accumulate", "devices", "num_nodes")
_NOT_NEGATIVE = ("gradient_clip", "patience", "seed", "workers", "cache_gb")
_SHARES = ("label_smoothing", "ema")
_OPTIMISATION = ("lr", "weight_decay", "schedule", "warmup", "layer_decay")


def check_arguments(spec: Segmentation | Classification | Prompted, arguments: Mapping[str, Any]) -> Optimisation:
    """Refuse what no training can be made with; what optimises the network.

    Args:
        spec: The network.
        arguments: Of `fit`, all or some of them, of the types that it wants.

    Raises:
        Qp2trainError: A number out of its range, a loss that cannot be read, or what is not for this kind of network.
        LabelError: A class weight of an unknown class, or none above 0.
    """
    for key in _COUNTS:
        if arguments.get(key, 1) < 1:
            raise Qp2trainError(f"{key} must be at least 1, not {arguments[key]}")
    for key in _NOT_NEGATIVE:
        if not 0 <= arguments.get(key, 0) < math.inf:
            raise Qp2trainError(f"{key} must not be negative, nor infinite, not {arguments[key]}")
    for key in _SHARES:
        if not 0 <= arguments.get(key, 0) < 1:
            raise Qp2trainError(f"{key} must be from 0 to below 1, not {arguments[key]}")
    optimisation = Optimisation(**{key: arguments[key] for key in _OPTIMISATION if key in arguments})
    loss = arguments.get("loss", CE_AND_DICE)
    if isinstance(spec, Segmentation):
        parse(loss)
        if optimisation.layer_decay != 1:
            raise Qp2trainError("layer_decay is for classifiers; a segmentation network has one learning rate")
    elif isinstance(spec, Prompted):
        _check_prompted(arguments)
    elif loss != CE_AND_DICE:
        raise Qp2trainError(f"loss={loss!r} is for segmentation; a classifier is trained by cross-entropy")
    given = arguments.get("class_weights")
    if given is not None and given != "auto":
        named_weights(given, spec.labels.names)
    return optimisation


def _check_prompted(arguments: Mapping[str, Any]) -> None:
    """Refuse what says nothing to a network for prompts."""
    for key, default in (("loss", CE_AND_DICE), ("class_weights", None), ("label_smoothing", 0), ("layer_decay", 1)):
        if arguments.get(key, default) != default:
            raise Qp2trainError(f"{key} is not for prompts, which know no classes and have a loss of their own")
    if arguments.get("cache") is not None:
        raise Qp2trainError("cache is not for prompts: their views differ from epoch to epoch, and are kept in memory")
