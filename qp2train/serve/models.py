"""Models: what answers, by the names under which QuPath lists it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from qp2train.errors import PromptError
from qp2train.refine.fallback import ColourModel
from qp2train.refine.load import load_prompt_model
from qp2train.refine.prompts import Candidate, EncodedView, Pixels, Prompt, PromptModel
from qp2train.serve.encodings import Encodings, Looked

# What QuPath's SAM extension can choose from; each of our models is listed under each of them.
SamType = Literal["vit_h", "vit_l", "vit_b", "vit_t", "sam2_l", "sam2_bp", "sam2_s", "sam2_t", "sam3"]
SAM_TYPES: tuple[SamType, ...] = get_args(SamType)
FALLBACK = "colours"


class Served:
    """A model under its name. One thread at a time uses it: models do not promise more.

    Args:
        name: Shown to people.
        make: The model; called when it is first needed.
        id: The model's own, kept with the objects that it makes.
        fallback: Whether it is the training-free one.
    """

    def __init__(self, name: str, make: Callable[[], PromptModel], *, id: str, fallback: bool = False) -> None:
        self.name, self.id, self.fallback = name, id, fallback
        self._make, self._model = make, None if fallback else make()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What QuPath hands back as `checkpoint_url`."""
        return f"run:{self.name}"

    @property
    def source(self) -> str:
        """Which objects of a project are this model's answers to clicks; refining in batch does not replace them."""
        return f"{self.id}-clicks"

    def encode(self, image: Pixels) -> EncodedView:
        """As PromptModel."""
        with self._lock:
            if self._model is None:
                self._model = self._make()
            return _OneAtATime(self._model.encode(image), self._lock)


class _OneAtATime:
    def __init__(self, view: EncodedView, lock: threading.Lock) -> None:
        self._view, self._lock = view, lock

    def predict(self, prompt: Prompt) -> list[Candidate]:
        with self._lock:
            return self._view.predict(prompt)


class Remembering:
    """A model that looks at equal images once.

    Args:
        served: The model.
        encodings: Where views are kept.
    """

    def __init__(self, served: Served, encodings: Encodings) -> None:
        self._served, self._encodings = served, encodings

    @property
    def id(self) -> str:
        return self._served.id

    def encode(self, image: Pixels) -> EncodedView:
        """As PromptModel."""
        height, width = image.shape[:2]
        key = self._served.url, height, width, hashlib.sha256(image.tobytes()).digest()
        looked = lambda: Looked.of(self._served.encode(image), height=height, width=width)  # noqa: E731
        return self._encodings.get(key, looked).view


class Models:
    """The models that a server offers, those that were given first, the fallback last.

    Args:
        given: Name and model; a name that is there already gets a number.
    """

    def __init__(self, given: Iterable[tuple[str, PromptModel]] = ()) -> None:
        self._served: dict[str, Served] = {}
        for name, model in given:
            number, free = 1, name
            while free in self._served or free == FALLBACK:
                number += 1
                free = f"{name}-{number}"
            self._served[free] = Served(free, lambda model=model: model, id=model.id)  # type: ignore[misc]
        # Made when it is first asked: it says that there is no trained model.
        self._served[FALLBACK] = Served(FALLBACK, ColourModel, id=ColourModel.id, fallback=True)

    @classmethod
    def load(cls, paths: Iterable[str | PathLike[str]]) -> Models:
        """The models of run folders, model folders and checkpoints.

        Raises:
            PromptError: One of them holds no model that answers prompts.
        """
        return cls([(_name(Path(path)), load_prompt_model(path)) for path in paths])

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def find(self, asked: str | None) -> Served:
        """The model of a url or name; None or "" = the first.

        Raises:
            PromptError: There is none.
        """
        if not asked:
            return next(iter(self))
        found = self._served.get(asked.removeprefix("run:"))
        if found is None:
            known = ", ".join(served.url for served in self)
            raise PromptError(f"there is no model {asked[:100]!r} here; known: {known}")
        return found


def _name(path: Path) -> str:
    path = path.absolute()
    return path.parent.name if path.name == "model" else path.stem if path.is_file() else path.name
