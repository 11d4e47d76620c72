"""The published masks against the fractions of sky that they must hide, and tables of a user's own."""

import csv
from dataclasses import asdict

import healpy
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import CrdistError, GridError, InputFileError, RecipeError
from crdist_inference.masks import CentreRectangle, Circle, MaskTable, composite, magellanic_only

NSIDE = 32


def refused(match, error=InputFileError):
    return pytest.raises(error, match=match)


def one_line(caught):
    assert isinstance(caught.value, CrdistError)
    assert "\n" not in str(caught.value)


def hidden(table, nside=NSIDE, rule="centre"):
    return np.count_nonzero(~table.used(nside, rule))


def by_definition(table, nside):
    """Every pixel's centre against every region, without healpy's searches."""
    vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True), axis=-1)
    longitude, latitude = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True, lonlat=True)
    masked = np.zeros(len(vectors), dtype=bool)
    for circle in table.circles:
        longitude_c, latitude_c = np.radians([circle.l_deg, circle.b_deg])
        flat = np.array([np.cos(longitude_c), np.sin(longitude_c)])
        centre = np.array([*(np.cos(latitude_c) * flat), np.sin(latitude_c)])
        masked |= np.degrees(2 * np.arcsin(np.linalg.norm(vectors - centre, axis=-1) / 2)) <= circle.radius_deg
    if table.centre is not None:
        away = np.minimum(longitude, 360 - longitude)
        masked |= (away <= table.centre.l_half_width_deg) & (np.abs(latitude) <= table.centre.b_half_width_deg)
    return masked


@pytest.mark.parametrize(
    ("table", "pixels"),
    [
        (composite(), 238),
        (magellanic_only(), 46),
        (composite().only("pulsar"), 77),
        (composite().only("dust_peak"), 70),
        (MaskTable((), CentreRectangle(10, 5)), 68),
        (composite().with_radii(pulsar=3, dust_peak=3), 344),
        (composite().with_radii(pulsar=5, dust_peak=3), 572),
        (composite().with_centre(CentreRectangle(20, 10)), 404),
        (composite().with_centre(CentreRectangle(30, 5)), 352),
    ],
)
def test_hidden_pixels_of_the_paper_and_its_variants(table, pixels):
    assert hidden(table) == pixels
    np.testing.assert_array_equal(~table.used(NSIDE), by_definition(table, NSIDE))


def test_hidden_fractions_in_percent():
    table = composite()
    fractions = {group: 100 * hidden(table.only(group)) / 12288 for group in table.groups}
    assert fractions == pytest.approx({"magellanic": 0.374, "pulsar": 0.627, "dust_peak": 0.570}, abs=5e-4)
    assert 100 * hidden(table) / 12288 == pytest.approx(1.937, abs=5e-4)


def test_every_entry_of_the_published_table_is_there():
    table = composite()
    groups = [circle.group for circle in table.circles]
    assert [groups.count(group) for group in ("magellanic", "dust_peak", "pulsar")] == [2, 14, 23]
    # the text of the table has lost the negative latitudes and no others
    for circle in table.circles:
        assert circle.provenance == ("printed" if circle.b_deg > 0 else "inferred")
        assert circle.name in ("LMC", "SMC") or circle.name.startswith("G")
        assert circle.note
    assert table.centre.provenance == "default"


def test_names_are_the_coordinates():
    for circle in composite().circles[2:]:
        sign = max(circle.name.find("+"), circle.name.find("-"))
        assert (float(circle.name[1:sign]), float(circle.name[sign:])) == (circle.l_deg, circle.b_deg)


def test_dust_peaks_are_pixel_centres():
    """What the lost latitudes were concluded from."""
    for circle in composite().only("dust_peak").circles:
        pixel = healpy.ang2pix(NSIDE, circle.l_deg, circle.b_deg, lonlat=True)
        assert healpy.pix2ang(NSIDE, pixel, lonlat=True) == pytest.approx((circle.l_deg, circle.b_deg), abs=0.0051)


@given(
    circles=st.lists(
        st.tuples(st.floats(-360, 360), st.floats(-90, 90), st.floats(0.01, 60.0)), min_size=0, max_size=4
    ),
    widths=st.none() | st.tuples(st.floats(0, 180), st.floats(0, 60)),
    nside=st.sampled_from([1, 4, 16]),
)
def test_inclusive_hides_more_and_all_of_what_centre_hides(circles, widths, nside):
    table = MaskTable(
        tuple(Circle(f"c{i}", *where, group="mine") for i, where in enumerate(circles)),
        None if widths is None else CentreRectangle(*widths),
    )
    try:
        inclusive = table.used(nside, "inclusive")
    except RecipeError:
        return
    used = table.used(nside)
    assert not (inclusive & ~used).any()
    for circle in table.circles:
        assert not inclusive[healpy.ang2pix(nside, circle.l_deg, circle.b_deg, nest=True, lonlat=True)]


def test_inclusive_is_what_finer_pixels_say():
    table = MaskTable((Circle("c", 40.0, 12.0, 3.0, "mine"),), CentreRectangle(10, 5))
    touched = by_definition(table, 8) | by_definition(table, 8 * 16).reshape(-1, 16**2).any(axis=1)
    np.testing.assert_array_equal(~table.used(8, "inclusive"), touched)
    assert hidden(table, 8, "inclusive") > hidden(table, 8)


def test_a_circle_smaller_than_a_pixel():
    tiny = MaskTable((Circle("c", 40.0, 12.0, 1e-3, "mine"),))
    assert hidden(tiny, 8) == 0
    assert hidden(tiny, 8, "inclusive") == 1


def test_tables_survive_yaml_and_csv(tmp_path):
    table = composite()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table.to_dict()))
    assert MaskTable.load(tmp_path / "mine.yaml") == table
    assert MaskTable.from_dict(table.to_dict()) == table
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(table.circles[0])))
        writer.writeheader()
        writer.writerows(asdict(circle) for circle in table.circles)
    assert MaskTable.load(tmp_path / "mine.csv") == table.with_centre(None)


def test_a_users_table_may_be_short(tmp_path):
    (tmp_path / "mine.csv").write_text("name,l_deg,b_deg,radius_deg,group\nCygnus X, 80.0, 0.5, 3, source\n")
    (circle,) = MaskTable.load(tmp_path / "mine.csv").circles
    assert circle == Circle("Cygnus X", 80.0, 0.5, 3.0, "source", "user", "")
    (tmp_path / "mine.yml").write_text("centre: {l_half_width_deg: 4, b_half_width_deg: 2}\n")
    assert MaskTable.load(tmp_path / "mine.yml") == MaskTable((), CentreRectangle(4.0, 2.0))


LINE = "name,l_deg,b_deg,radius_deg,group\n"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("m.txt", "", "is a .csv or .yaml file, got '.txt'"),
        ("m.csv", "", "holds no mask"),
        ("m.csv", LINE, "holds no mask"),
        ("m.csv", LINE + "a,1,2,,g\n", r"circle 1 \(a\): radius_deg missing"),
        ("m.csv", LINE + "a,1,2,3,g\na,1,2,3,g\n", "'a' is there more than once"),
        ("m.csv", LINE + "a,1,95,3,g\n", "'a': b_deg must be between -90 and 90, got '95'"),
        ("m.csv", LINE + "a,1,-,3,g\n", "'a': b_deg must be a number, got '-'"),
        ("m.csv", LINE + "a,1,nan,3,g\n", "b_deg must be between -90 and 90"),
        ("m.csv", LINE + "a,1,2,0,g\n", "'a': radius_deg must be positive"),
        ("m.csv", LINE + "a,1,2,3,g,h\n", "unknown key 'more values than columns'"),
        ("m.csv", "name,lon,b_deg\na,1,2\n", "circle 1: unknown key 'lon'; there are name, l_deg"),
        ("m.yaml", "circles: [", "not valid YAML at line"),
        ("m.yaml", "- 1", "a table of masks has a list 'circles'"),
        ("m.yaml", "circles: 3", "a table of masks has a list 'circles'"),
        ("m.yaml", "circles: [3]", "circle 1 must have name, l_deg"),
        ("m.yaml", "discs: []", "a table of masks has .* got discs"),
        ("m.yaml", "centre: {l_half_width_deg: 4}", r"centre \(unnamed\): b_half_width_deg missing"),
        ("m.yaml", "centre: {l_half_width_deg: 200, b_half_width_deg: 1}", "l_half_width_deg must be between 0 and"),
        (
            "m.yaml",
            "circles: [{name: a, l_deg: 1, b_deg: 2, radius_deg: 3, group: g, provenance: rumour}]",
            "'a': provenance must be one of printed, inferred, default, user, got 'rumour'",
        ),
        (
            "m.yaml",
            "circles: [{name: '', l_deg: 1, b_deg: 2, radius_deg: 3, group: g}]",
            "name must be a word",
        ),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with refused(match) as caught:
        MaskTable.load(tmp_path / name)
    one_line(caught)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with refused("no-such.csv: cannot be read") as caught:
        MaskTable.load(tmp_path / "no-such.csv")
    one_line(caught)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with refused("not UTF-8 text"):
        MaskTable.load(tmp_path / "b.csv")


def test_bad_requests():
    table = composite()
    with refused("nside must be a power of two", GridError):
        table.used(12)
    with refused("centre or inclusive, got 'any'", RecipeError):
        table.used(8, "any")
    with refused("no group of masks 'blazar'; the table has magellanic, dust_peak, pulsar", RecipeError):
        table.only("blazar")
    with refused("no group of masks 'blazar'", RecipeError):
        table.with_radii(blazar=1)
    with refused("leave no pixel of the sky at nside 2", RecipeError):
        MaskTable((), CentreRectangle(180, 90)).used(2)
