"""A recipe: YAML → checked arguments of the public functions.

Each section's keys are the keyword arguments of one function, so there is no second list of settings:

    task: segmentation                   # or classification: of whole patches; or prompted: clicks become outlines
    project: liver/project.qpproj        # or a folder of slides with GeoJSON files
    image_roots: [/mnt/slides]           # where moved slides are looked for
    out: runs/tumor
    labels:    {classes: [Stroma, Tumor]}           → LabelMap
    sample:    {size: 256, mpp: 1.0}                → sample_patches
    split:     {by: patient}                        → PatchTable.split
    model:     {arch: unet, encoder: resnet34}      → Segmentation, Classification or Prompted
    fit:       {epochs: 30}                         → fit
    predict:   {tta: none}                          → predict
    vectorise: {min_area_um2: 500}                  → vectorise

Relative paths start at the recipe's folder, that of `encoder_weights` if something is there.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model

from qp2train.core.labels import LabelMap
from qp2train.core.patches import PatchTable
from qp2train.errors import LabelError, Qp2trainError, RecipeError
from qp2train.infer.predict import predict
from qp2train.infer.vectorise import vectorise
from qp2train.learn.arguments import check_arguments
from qp2train.learn.classification import Classification
from qp2train.learn.encoders import PUBLISHED
from qp2train.learn.fit import fit
from qp2train.learn.prompted import Prompted
from qp2train.learn.segmentation import Segmentation
from qp2train.sampling.plan import sample_patches

# Section → function, and the arguments that the program supplies itself.
SECTIONS: Mapping[str, tuple[Callable[..., Any], frozenset[str]]] = {
    "labels": (LabelMap, frozenset()),
    "sample": (sample_patches, frozenset({"entries", "labels", "scores", "progress"})),
    "split": (PatchTable.split, frozenset({"self"})),
    "model": (Segmentation, frozenset({"labels"})),
    "fit": (fit, frozenset({"spec", "train", "val", "out", "progress"})),
    "predict": (predict, frozenset({"model", "slide", "progress"})),
    "vectorise": (vectorise, frozenset({"scores", "band"})),
}
PLAIN = ("task", "project", "image_roots", "out")
Task = Literal["segmentation", "classification", "prompted"]
NETWORKS: Mapping[str, type[Segmentation | Classification | Prompted]] = {
    "segmentation": Segmentation,
    "classification": Classification,
    "prompted": Prompted,
}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Args:
        project: The project, absolute.
        image_roots: Where moved slides are looked for, absolute.
        out: The run's folder, absolute.
        labels: The classes.
        sections: Section → checked keyword arguments (without `labels`).
        text: The recipe as YAML, overrides included.
        task: What is learnt.
    """

    project: Path
    image_roots: tuple[Path, ...]
    out: Path
    labels: LabelMap
    sections: Mapping[str, Mapping[str, Any]]
    text: str
    task: Task = "segmentation"

    def __getitem__(self, section: str) -> dict[str, Any]:
        return dict(self.sections.get(section, {}))


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The YAML file.
        overrides: Texts "section.key=value" (YAML values) that replace or add a setting.

    Raises:
        RecipeError: No such file, no YAML, an unknown section or key (the known ones are named), or a value of
            the wrong type, or one that no network can be built or trained with.
    """
    path = Path(path)
    data = read_yaml(path)
    for text in overrides:
        override(data, text)
    return _checked(data, base=path.absolute().parent)


def read_yaml(path: Path) -> dict[str, Any]:
    """The recipe's plain data, unchecked.

    Raises:
        RecipeError: No such file, no YAML, or no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a list of 'key: value' lines, see the example in the README")
    return data


def checked_arguments(section: str, given: Mapping[str, Any] | None, *, task: Task = "segmentation") -> dict[str, Any]:
    """The keyword arguments of one section, converted to the types of its function.

    Raises:
        RecipeError: An unknown key, a wrong type, or a missing value.
    """
    function, supplied = SECTIONS[section]
    if section == "model":
        function = NETWORKS[task]
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise RecipeError(f"{section}: must hold 'key: value' lines, not {given!r}")
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    fields = {
        name: (hints.get(name, Any), Field(... if p.default is p.empty else p.default))
        for name, p in inspect.signature(function).parameters.items()
        if name not in supplied
    }
    for key in given:
        if key not in fields:
            raise RecipeError(_unknown(f"{section}.{key}", str(key), fields))
    config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    model = create_model(section, __config__=config, **fields)  # type: ignore[call-overload]
    try:
        return {k: v for k, v in dict(model(**given)).items() if k in given}
    except ValidationError as error:
        said = dict.fromkeys(f"{'.'.join((section, *_key(e['loc'])))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{'; '.join(said)} (given: {dict(given)!r})") from error


def _checked(data: Mapping[str, Any], *, base: Path) -> Recipe:
    for key in data:
        if key not in SECTIONS and key not in PLAIN:
            raise RecipeError(_unknown(str(key), str(key), [*PLAIN, *SECTIONS]))
    if "project" not in data:
        raise RecipeError("the recipe does not say which project: add 'project: <folder or project.qpproj>'")
    task = data.get("task", "segmentation")
    if task not in get_args(Task):
        raise RecipeError(f"task must be one of {', '.join(get_args(Task))}, not {task!r}")
    sections = {s: checked_arguments(s, data.get(s), task=task) for s in SECTIONS if s in data}
    given = {section: dict(data[section] or {}) for section in SECTIONS if section in data}
    if sections.get("fit", {}).get("cache"):
        sections["fit"]["cache"] = _path(base, str(sections["fit"]["cache"]), "fit.cache")
        given["fit"]["cache"] = str(sections["fit"]["cache"])
    weights = sections.get("model", {}).get("encoder_weights")
    if weights not in (None, PUBLISHED) and _path(base, weights, "model.encoder_weights").exists():
        given["model"]["encoder_weights"] = str(_path(base, weights, "model.encoder_weights"))
        sections["model"]["encoder_weights"] = given["model"]["encoder_weights"]
    if "classes" not in sections.get("labels", {}):
        raise RecipeError("the recipe does not say which classes to learn: add 'labels: {classes: [Tumor, Stroma]}'")
    try:
        labels = LabelMap(**sections.pop("labels"))
    except LabelError as error:
        raise RecipeError(f"labels: {error}") from error
    _check_training(labels, sections, task)
    roots = data.get("image_roots") or []
    if not isinstance(roots, str | list):
        raise RecipeError(f"image_roots must be a list of folders, not {roots!r}")
    project = _path(base, data["project"], "project")
    out = _path(base, data.get("out", "runs/model"), "out")
    found = tuple(_path(base, r, "image_roots") for r in ([roots] if isinstance(roots, str) else roots))
    absolute = {**data, **given, "project": str(project), "out": str(out), "image_roots": [str(r) for r in found]}
    text = yaml.safe_dump(absolute, sort_keys=False, allow_unicode=True)
    return Recipe(project, found, out, labels, sections, text, task)


def _check_training(labels: LabelMap, sections: Mapping[str, Mapping[str, Any]], task: Task) -> None:
    """Refuse now what `fit` would refuse only after sampling, which may take hours."""
    if task == "prompted" and isinstance(sections.get("sample", {}).get("mpp"), Sequence):
        raise RecipeError("sample: views of objects have one scale: give one mpp, not a list")
    try:
        spec = NETWORKS[task](labels, **sections.get("model", {}))
    except Qp2trainError as error:
        raise RecipeError(f"model: {error}") from error
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items() if p.default is not p.empty}
    try:
        check_arguments(spec, {**defaults, **sections.get("fit", {})})
    except Qp2trainError as error:
        raise RecipeError(f"fit: {error}") from error


def _key(loc: tuple[str | int, ...]) -> list[str]:
    """Where in a section a wrong value stands, without pydantic's names of the types it tried ("dict[str,…]")."""
    return [str(part) for part in loc if "[" not in str(part)]


def _path(base: Path, value: Any, key: str) -> Path:
    if not isinstance(value, str):
        raise RecipeError(f"{key} must be a path, not {value!r}")
    return (base / Path(value).expanduser()).resolve()


def override(data: dict[str, Any], text: str) -> None:
    """Set what a text "section.key=value" says in nested plain data.

    Raises:
        RecipeError: The text has another form, or a value stands where a section should.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r}: write section.key=value, for example --set fit.epochs=5")
    *path, last = key.strip().split(".")
    for part in path:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {text!r}: {part!r} is a value, not a section")
        data = inner
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text!r}: {value!r} is no YAML value") from error


def _unknown(shown: str, key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {shown!r}.{hint} Known: {', '.join(names)}"
