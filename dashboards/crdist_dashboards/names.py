"""Names of stores: as short as tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

__all__ = ["names_of"]


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each store: the file's, with as many of its folders as it takes where several have the same.

    Parameters
    ----------
    paths : sequence of Path
        One that is given twice has a prime the second time.

    Examples
    --------
    >>> names_of([Path("/a/run/density.zarr"), Path("/b/run/density.zarr"), Path("/b/run/gas.zarr")])
    ('a/run/density', 'b/run/density', 'gas')
    """
    whole = [path.absolute() for path in paths]
    depths = [1] * len(whole)
    while True:
        names = ["/".join(path.parts[-depth:]).removesuffix(".zarr") for path, depth in zip(whole, depths, strict=True)]
        several = Counter(names)
        deeper = [
            depth + (several[name] > 1 and depth < len(path.parts))
            for name, path, depth in zip(names, whole, depths, strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper
    seen: set[str] = set()
    for i, name in enumerate(names):
        while name in seen:
            name += "'"
        seen.add(name)
        names[i] = name
    return tuple(names)
