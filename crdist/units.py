"""Units of densities and of their integrals, as strings that astropy reads."""

from __future__ import annotations

import functools
from typing import Any

from astropy import units as u

from crdist.errors import SchemaError

__all__ = ["integral_unit", "parse_unit", "unit_text"]

# The extinction unit of Zhang, Green & Rix 2023 (MNRAS 524, 1855), in which the Edenhofer+2024 map is given.
EXTINCTION_ZGR23 = u.def_unit("E", doc="extinction of Zhang, Green & Rix 2023")


def parse_unit(units: str) -> Any:
    """The astropy unit of a ``units`` attribute; ``"E"`` is the extinction unit of Zhang, Green & Rix (2023).

    Raises
    ------
    SchemaError
        If astropy does not know the unit.
    """
    try:
        with u.add_enabled_units([EXTINCTION_ZGR23]):
            return u.Unit(units.strip())
    except ValueError as error:
        raise SchemaError(
            f"units {units!r} cannot be read; give them as astropy writes them, such as 'cm-3'"
        ) from error


@functools.lru_cache(maxsize=64)
def integral_unit(units: str, power: int = 1) -> tuple[str, float]:
    """Unit of a density integrated over kpc^power, and the factor from (density unit) kpc^power to it.

    The result is in the density's own unit of length: cm-3 gives cm-2, pc-1 gives a dimensionless number.

    Parameters
    ----------
    units : str
        Unit of the density.
    power : int
        1 for an integral along a line, 3 for one over a volume.

    Examples
    --------
    >>> integral_unit("cm-3")  # doctest: +ELLIPSIS
    ('cm-2', 3.085677581491367...e+21)
    >>> integral_unit("GeV-1 cm-3")[0]
    'GeV-1 cm-2'
    >>> integral_unit("E/pc")
    ('E', 1000.0)
    >>> integral_unit("cm-3", power=3)[0]
    ''
    >>> integral_unit("")
    ('kpc', 1.0)
    """
    density = parse_unit(units)
    total = density * u.kpc**power
    lengths = [base for base in density.bases if base.physical_type == "length"]
    if lengths:
        total = total.decompose(bases=[*(base for base in density.bases if base not in lengths), lengths[0]])
    return unit_text(total)


def unit_text(unit: Any) -> tuple[str, float]:
    """A unit as it is written in attributes, and the factor that it has besides.

    Examples
    --------
    >>> unit_text(u.cm**-3)
    ('cm-3', 1.0)
    >>> unit_text(1000 * u.pc)
    ('pc', 1000.0)
    """
    unit = u.Unit(unit)
    # written as products, GeV-1 cm-2, the way the FITS and CF standards do
    name = " ".join(
        f"{base.name}{'' if exponent == 1 else f'{float(exponent):g}'}"
        for base, exponent in zip(unit.bases, unit.powers, strict=True)
    )
    return name, float(unit.scale)
