import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import SchemaError
from crdist.units import integral_unit, parse_unit

# what densities of the field are given in
DENSITIES = [
    "cm-3",
    "GeV-1 cm-3",
    "m-3",
    "pc-3",
    "1 / pc3",
    "mag / pc",
    "E/pc",
    "E / kpc",
    "solMass pc-3",
    "erg cm-3",
]


@given(st.sampled_from(DENSITIES), st.sampled_from([1, 2, 3]))
def test_integral_is_density_times_length(units, power):
    name, factor = integral_unit(units, power)
    density = parse_unit(units)
    assert (density * u.kpc**power).to(parse_unit(name)) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("units", "power", "name", "factor"),
    [
        ("cm-3", 1, "cm-2", 3.0856775814913673e21),
        ("cm-3", 3, "", 3.0856775814913673e21**3),
        ("GeV-1 cm-3", 1, "GeV-1 cm-2", 3.0856775814913673e21),
        ("E/pc", 1, "E", 1000.0),
        ("mag / pc", 1, "mag", 1000.0),
        ("solMass pc-3", 3, "solMass", 1e9),
        ("", 1, "kpc", 1.0),
        ("K", 1, "K kpc", 1.0),
    ],
)
def test_integral_is_in_the_length_of_the_density(units, power, name, factor):
    found, number = integral_unit(units, power)
    assert set(found.split()) == set(name.split())
    assert number == pytest.approx(factor, rel=1e-12)


def test_the_name_of_an_integral_can_be_integrated_again():
    once, first = integral_unit("cm-3")
    twice, second = integral_unit(once)
    assert (twice, pytest.approx(first * second)) == integral_unit("cm-3", 2)


def test_white_space_does_not_count():
    assert parse_unit(" cm-3 ") == parse_unit("cm-3")


def test_extinction_unit_stays_out_of_the_registry_of_astropy():
    assert str(parse_unit("E")) == "E"
    with pytest.raises(ValueError, match="did not parse as unit"):
        u.Unit("E")


@pytest.mark.parametrize("units", ["furlongs", "cm-", "cm^^2", "3 bananas"])
def test_unknown_units_say_how_to_write_them(units):
    with pytest.raises(SchemaError) as caught:
        parse_unit(units)
    assert str(caught.value) == f"units {units!r} cannot be read; give them as astropy writes them, such as 'cm-3'"
