"""Every error that qp2train raises on purpose.

Each message names the value that was wrong and what to do about it.

    Qp2trainError
    ├── SlideError
    │   ├── SlideNotFoundError        (also a FileNotFoundError)
    │   ├── UnreadableSlideError      the file is there, its pixels are not
    │   └── MissingCalibrationError   no µm per pixel, in the file or in the project
    ├── ProjectError                  a QuPath project that cannot be used
    │   ├── NotAProjectError
    │   └── EntryChangedError         somebody else saved the entry since it was read
    ├── QuPathFormatError             malformed .qpproj, .qpdata or GeoJSON
    ├── LabelError                    classes: unknown, empty, contradictory
    ├── NoAnnotationError             nothing to learn from
    ├── SplitError                    a split that cannot be made
    ├── RecipeError                   a recipe's key or value
    ├── ModelError                    a model folder that cannot be loaded or used
    ├── ResumeError                   a checkpoint that training cannot go on from
    ├── EvaluationError               evaluations that cannot be read, put together or compared
    ├── PromptError                   clicks, boxes or masks that no prompted model can take
    └── ServeError                    a server that cannot be started as asked
"""

from __future__ import annotations


class Qp2trainError(Exception):
    """Base of all errors that a user of qp2train can cause or cure."""


class SlideError(Qp2trainError):
    """A slide that cannot be used."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The slide's file does not exist where it was looked for."""


class UnreadableSlideError(SlideError):
    """The file exists, but no reader can decode it."""


class MissingCalibrationError(SlideError):
    """Neither the file nor the project says how many µm a pixel is wide."""


class ProjectError(Qp2trainError):
    """A QuPath project that cannot be used as asked."""


class NotAProjectError(ProjectError):
    """The path is no QuPath project."""


class EntryChangedError(ProjectError):
    """An entry's data changed on disk since it was read."""


class QuPathFormatError(Qp2trainError, ValueError):
    """A file that is not what QuPath writes: truncated, foreign or damaged."""


class LabelError(Qp2trainError, ValueError):
    """Classes that are unknown, empty or contradict each other."""


class NoAnnotationError(Qp2trainError):
    """There is no annotation to learn from."""


class SplitError(Qp2trainError, ValueError):
    """A train/validation/test split that cannot be made."""


class RecipeError(Qp2trainError, ValueError):
    """A recipe with an unknown key or a value of the wrong type."""


class ModelError(Qp2trainError):
    """A model folder that cannot be loaded, or a model used for what it was not made for."""


class ResumeError(Qp2trainError):
    """A checkpoint that is damaged, or of a training with other patches, network or arguments."""


class EvaluationError(Qp2trainError, ValueError):
    """Evaluations that cannot be read, put together or compared: of other patches, patients or classes."""


class PromptError(Qp2trainError, ValueError):
    """Clicks, boxes or masks that no prompted model can take."""


class ServeError(Qp2trainError, ValueError):
    """A server that cannot be started: a package is missing, the port is taken, or it would be open to everyone."""
