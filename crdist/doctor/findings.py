"""What a check found, and whether all is well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "State", "is_sound"]

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Examples
    --------
    >>> print(Finding("scratch", "broken", "/data: is read-only", "give another folder with --scratch"))
    broken  scratch    /data: is read-only; give another folder with --scratch
    """

    topic: str
    """What was looked at, one word."""
    state: State
    """``ok``; ``note``: works, with a limit worth knowing; ``broken``: something installed does not work."""
    text: str
    """What was found, on one line."""
    advice: str = ""
    """What to do, where there is something."""

    def to_dict(self) -> dict[str, str]:
        """The finding as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.text}; {self.advice}" if self.advice else self.text
        return f"{self.state:<6}  {self.topic:<9}  {text}"


def is_sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing is broken.

    Examples
    --------
    >>> is_sound([Finding("jax", "note", "not installed")])
    True
    """
    return all(finding.state != "broken" for finding in findings)
