"""How the pixels were scaled that an encoder of a segmentation network was trained with."""

from __future__ import annotations

import segmentation_models_pytorch as smp
import timm

from qp2train.learn.foundation import MEAN, STD

Triple = tuple[float, float, float]


def normalisation(encoder: str, weights: str | None) -> tuple[Triple, Triple]:
    """Mean and standard deviation of RGB pixels in 0–1.

    Of a "tu-" encoder timm's own. Of smp's own encoders what was published with the weights, if it is of RGB in 0–1;
    with weights of another kind (BGR, 0–255), with a file and from scratch ImageNet's, which most were trained with.

    Args:
        encoder: Its name in smp, not that of a foundation encoder.
        weights: The name of the published weights that it has; None = a file's, or none. With a name smp has put what
            was published into the cache, where it is read from.
    """
    if encoder.startswith("tu-"):
        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"), allow_unregistered=True)
        return (_triple(config.mean), _triple(config.std)) if config is not None else (MEAN, STD)
    if weights is None:
        return MEAN, STD
    try:
        said = smp.encoders.get_preprocessing_params(encoder, weights)
    except (KeyError, ValueError, OSError):  # of some weights nothing was published
        return MEAN, STD
    if said["input_space"] != "RGB" or said["input_range"] != [0, 1]:
        return MEAN, STD
    return _triple(said["mean"]), _triple(said["std"])


def checked(mean: object, std: object) -> tuple[Triple, Triple]:
    """A normalisation that was read from a file.

    Raises:
        TypeError, ValueError: It is none.
    """
    if not (isinstance(mean, list) and isinstance(std, list)):
        raise TypeError(f"normalisation {mean!r}, {std!r} is none")
    found = _triple(mean), _triple(std)
    if not (all(-10 < v < 10 for v in found[0]) and all(1e-3 < v < 10 for v in found[1])):
        raise ValueError(f"normalisation {mean!r}, {std!r} is none")
    return found


def _triple(values: list[float] | tuple[float, ...]) -> Triple:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
