"""What an exporter is, and what a user may ask of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

__all__ = ["ExportOptions", "Exporter", "Tell"]

Tell = Callable[[int, int], None]
"""Called with the number of pieces written and their total."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the user chooses; None, or nothing, where the exporter's own choice stands."""

    quantity: str | None = None
    """A variable or derived quantity of a posterior; by default its main one."""
    products: tuple[str, ...] = ()
    """Names of products; by default all that the kind can hold."""
    values: Literal["statistics", "samples"] | None = None
    """Mean and standard deviation over the samples, or each sample."""
    shell: int | None = None
    """One shell, counted from 0 at the Sun."""
    distance_kpc: tuple[float, float] | None = None
    """Integral along the line of sight between two distances."""
    inner: Literal["extend", "exclude"] | None = None
    """Whether the first shell's values reach to the Sun in integrals; by default they do."""
    suffix: str = ""
    """What the name of the target ends in, one of the exporter's suffixes; `export_store` fills it in."""

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that the user chose."""
        chosen = (field.name for field in fields(self) if field.name != "suffix")
        return frozenset(name for name in chosen if getattr(self, name) not in (None, ()))


@dataclass(frozen=True, slots=True)
class Exporter:
    """A form in which other tools read what a store holds."""

    name: str
    """The name by which `export_store` is asked for it."""
    reads: tuple[Literal["posterior", "products"], ...]
    """The kinds of store that it reads; of the first, a target's ending alone may ask for it."""
    suffixes: tuple[str, ...]
    """What the name of the target may end in; an empty one stands for a folder."""
    options: frozenset[str]
    """Names of the `ExportOptions` that it heeds."""
    summary: str
    """What it writes and what opens that, in one line."""
    write: Callable[[Path, Path, ExportOptions, Tell], str]
    """``write(store, target, options, tell)``: write the target, a new file or folder, and say in some words what was
    written. Everything that can be wrong with store and options is found before the target is begun."""
