"""The errors that crdist raises: what was asked, what was got, and the way out.

Every class is also the built-in error that a caller would expect, so that code which does not know
crdist catches it. The command line prints the message of a `CrdistError` as one line; the traceback
goes to the log.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CrdistError",
    "DependencyError",
    "GridError",
    "InferenceError",
    "InputFileError",
    "PlanTooLargeError",
    "RecipeError",
    "RunError",
    "SchemaError",
    "StoreExistsError",
]


class CrdistError(Exception):
    """Base of every error that a user can mend."""


class GridError(CrdistError, ValueError):
    """A grid, an axis or a frame that cannot be."""


class SchemaError(CrdistError, ValueError):
    """A store that is not what the schema says."""


class InputFileError(CrdistError, ValueError):
    """A published file that is damaged or not in a known layout."""


class RecipeError(CrdistError, ValueError):
    """A recipe or an option that cannot be followed."""


class PlanTooLargeError(CrdistError, ValueError):
    """A run that does not fit in the memory it was given."""


class StoreExistsError(CrdistError, FileExistsError):
    """A target that exists and holds something else."""


class RunError(CrdistError, RuntimeError):
    """A run that stopped before it was complete; what is finished is kept."""


class InferenceError(CrdistError, RuntimeError):
    """An inference that cannot go on: a number that is none, or a full device; its last checkpoint is kept."""


class CheckpointError(CrdistError, ValueError):
    """A checkpoint that cannot be continued from: damaged, or of another model, data or settings."""


class DependencyError(CrdistError, ImportError):
    """An optional package that a command needs is not installed."""
