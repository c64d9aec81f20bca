"""From a QuPath project to a trained model, and its predictions back into the project.

The names below are loaded when first used: `import qp2train` imports no torch and starts no JVM.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOME = {
    "Annotation": "qp2train.core.annotation",
    "ArraySlide": "qp2train.slides",
    "Box": "qp2train.core.geometry",
    "Classification": "qp2train.learn.classification",
    "Confusion": "qp2train.core.confusion",
    "Evaluation": "qp2train.infer.evaluation",
    "LabelMap": "qp2train.core.labels",
    "Model": "qp2train.learn.models",
    "ObjectExamples": "qp2train.refine.examples",
    "PatchTable": "qp2train.core.patches",
    "Project": "qp2train.qupath.project",
    "PromptEvaluation": "qp2train.refine.evaluation",
    "Prompted": "qp2train.learn.prompted",
    "Qp2trainError": "qp2train.errors",
    "Refiner": "qp2train.refine.refiner",
    "ScoreMap": "qp2train.core.scores",
    "Segmentation": "qp2train.learn.segmentation",
    "SlideFolder": "qp2train.qupath.folder",
    "as_segmentation": "qp2train.infer.gradcam",
    "check_leakage": "qp2train.sampling.leakage",
    "compare": "qp2train.infer.evaluate",
    "compare_evaluations": "qp2train.infer.crossval",
    "evaluate": "qp2train.infer.evaluate",
    "evaluate_prompts": "qp2train.refine.evaluation",
    "export_patches": "qp2train.sampling.export",
    "find_lr": "qp2train.learn.lrfinder",
    "fit": "qp2train.learn.fit",
    "fit_temperature": "qp2train.infer.evaluate",
    "gradcam": "qp2train.infer.gradcam",
    "import_png": "qp2train.sampling.export",
    "iter_geojson": "qp2train.qupath.geojson",
    "load_model": "qp2train.learn.models",
    "load_prompt_model": "qp2train.refine.load",
    "load_sam": "qp2train.refine.samload",
    "open_channels": "qp2train.slides",
    "open_slide": "qp2train.slides",
    "paint": "qp2train.sampling.mask",
    "pool_folds": "qp2train.infer.crossval",
    "predict": "qp2train.infer.predict",
    "read_geojson": "qp2train.qupath.geojson",
    "refine_slide": "qp2train.refine.onslide",
    "sample_patches": "qp2train.sampling.plan",
    "tiles": "qp2train.infer.tiles",
    "tissue_regions": "qp2train.slides.tissue",
    "tune_sam": "qp2train.refine.samtune",
    "vectorise": "qp2train.infer.vectorise",
    "write_geojson": "qp2train.qupath.geojson",
}
__all__ = sorted(_HOME)
__version__ = version("qp2train")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qp2train' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
