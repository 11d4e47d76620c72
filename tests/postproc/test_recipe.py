import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import RecipeError
from crdist.frames import Frame
from crdist.grids import CartesianGrid
from crdist_postproc.product_kinds import PRODUCT_KINDS
from crdist_postproc.recipe import Recipe, differences
from crdist_postproc.recipe_products import SHORTHANDS

FULL = """
quantity: n_h
frame: {name: galactocentric, r0: 8.3, z_sun: 0.02, roll: 1.5}
grid: {x: [-10, 10], y: [-10, 10], z: [-2, 2], voxel: [0.1, 0.2, 0.05]}
method: nearest
value_space: log
inner: exclude
quantiles: [0.16, 0.5, 0.84]
products:
  - midplane
  - {name: cut, kind: slice, axis: z, at: 0.5, voxel: 0.05}
  - name: near_z
    kind: projection
    axis: z
    box: {x: [-1.25, 1.25], y: [-1.25, 1.25], z: [-1.25, 1.25], around: sun}
    voxel: 0.02
  - {name: radial, kind: radial, bins: [0, 16, 1], z_cut: 0.3, weight: {store: gas.zarr, quantity: n_h}}
  - {name: vertical, kind: vertical, ring: [8, 9], bins: [-3, 3, 0.1], fit_threshold: 0.1, quantiles: [0.5]}
  - {name: sky, kind: sky, distance: [0, 5]}
  - {name: volume, kind: volume, per_sample: false}
"""


def recipe(*products, **keys):
    return Recipe.from_mapping({**keys, "products": list(products)})


def fault(keys):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping({"products": ["midplane"], **keys}, source="run.yaml")
    text = str(caught.value)
    assert "\n" not in text
    return text


# A grid of whole voxels, whatever is drawn.
steps = st.sampled_from([0.05, 0.1, 0.25, 0.5])


@st.composite
def recipe_data(draw):
    voxel = draw(steps)

    def extent():
        first = draw(st.integers(-50, 50))
        return [first * voxel, (first + draw(st.integers(1, 50))) * voxel]

    products = draw(st.lists(st.sampled_from(sorted(set(SHORTHANDS) - {"local_z"})), min_size=1, unique=True))
    products += [{"name": "cut", "kind": "slice", "axis": draw(st.sampled_from("xyz")), "at": draw(st.floats(-9, 9))}]
    return {
        "frame": {
            "name": draw(st.sampled_from(["galactocentric", "heliocentric"])),
            "roll": draw(st.floats(-9, 9)),
        },
        "grid": {"x": extent(), "y": extent(), "z": extent(), "voxel": voxel},
        "method": draw(st.sampled_from(["linear", "nearest"])),
        "quantiles": sorted(draw(st.sets(st.floats(0.01, 0.99), max_size=3))),
        "products": draw(st.permutations(products)),
    }


@given(recipe_data())
def test_canonical_data_make_the_same_recipe(data):
    one = Recipe.from_mapping(data)
    again = Recipe.from_mapping(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.to_dict() == one.to_dict()
    assert again.digest == one.digest
    assert differences(one.to_dict(), again.to_dict()) == []


@given(recipe_data(), recipe_data())
def test_digests_differ_where_recipes_do(first, second):
    one, other = Recipe.from_mapping(first), Recipe.from_mapping(second)
    assert (one.digest == other.digest) == (differences(one.to_dict(), other.to_dict()) == [])


@given(recipe_data(), st.randoms(use_true_random=False))
def test_the_order_of_products_changes_nothing(data, random):
    shuffled = list(data["products"])
    random.shuffle(shuffled)
    one, other = Recipe.from_mapping(data), Recipe.from_mapping({**data, "products": shuffled})
    assert one.digest == other.digest
    assert differences(one.to_dict(), other.to_dict()) == []


def test_digest_is_of_the_canonical_json():
    data = recipe("midplane").to_dict()
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert recipe("midplane").digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_full_file_is_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FULL)
    read = Recipe.from_yaml(path)
    assert (read.quantity, read.method, read.value_space, read.inner) == ("n_h", "nearest", "log", "exclude")
    assert read.frame_record == Frame("galactocentric", 8.3, 0.02, 1.5)
    assert read.grid_record.shape == (200, 100, 80)
    assert read.quantiles == (0.16, 0.5, 0.84)
    products = {product.name: product for product in read.products}
    assert [product.kind for product in read.products] == [
        *("slice", "slice", "projection", "radial", "vertical", "sky", "volume")
    ]
    assert products["radial"].weight.store == "gas.zarr"
    assert products["radial"].weight.quantity == "n_h"
    assert products["sky"].distance == (0.0, 5.0)
    assert products["vertical"].quantile_levels(read) == (0.5,)
    assert products["radial"].quantile_levels(read) == (0.16, 0.5, 0.84)
    assert products["cut"].voxel_kpc(read) == (0.05, 0.05, 0.05)
    assert products["sky"].voxel_kpc(read) == (0.1, 0.2, 0.05)
    np.testing.assert_allclose(products["radial"].edges_kpc, np.arange(17), atol=1e-12)
    np.testing.assert_allclose(products["vertical"].edges_kpc, np.linspace(-3, 3, 61), atol=1e-12)


def test_the_default_recipe_has_the_usual_products_and_every_default():
    default = Recipe.default()
    assert [product.name for product in default.products] == list(SHORTHANDS)
    # the file writes every default out, so a recipe that leaves all out is the same
    assert Recipe.from_mapping({"products": list(SHORTHANDS)}) == default
    given_in_file = yaml.safe_load((Path(recipe_folder()) / "default.yaml").read_text())
    assert set(given_in_file) == set(default.to_dict())
    assert set(given_in_file["grid"]) == set(default.to_dict()["grid"])
    assert set(given_in_file["frame"]) == set(default.to_dict()["frame"])


def recipe_folder():
    import crdist_postproc

    return Path(crdist_postproc.__file__).parent / "recipes"


def test_the_default_file_says_what_each_key_is():
    for line in (recipe_folder() / "default.yaml").read_text().splitlines():
        if line.strip() and not line.strip().startswith(("#", "products:")):
            assert " # " in line, line


@pytest.mark.parametrize("model", [Recipe, *(kind.settings for kind in PRODUCT_KINDS.values())])
def test_every_field_is_described(model):
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name}"


def test_recipes_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        recipe("midplane").method = "nearest"


def test_shorthands_are_whole_products():
    read = recipe(*SHORTHANDS)
    midplane, *projections = (read.products[i] for i in range(4))
    assert (midplane.kind, midplane.axis, midplane.at) == ("slice", "z", 0.0)
    assert [(p.kind, p.axis) for p in projections] == [("projection", axis) for axis in "xyz"]
    assert [p.per_sample for p in read.products] == [True] * 8 + [False]


def test_a_shorthand_with_a_key_differs_in_that_key_alone():
    changed = recipe({"name": "radial", "z_cut": 0.5}).to_dict()
    assert differences(recipe("radial").to_dict(), changed) == ["products.radial.z_cut: 0.3 -> 0.5"]
    local = recipe({"name": "local_z", "voxel": 0.05}).products[0]
    assert (local.axis, local.box.around, local.voxel) == ("z", "sun", (0.05, 0.05, 0.05))


def test_a_product_without_a_name_is_called_after_its_kind():
    names = [p.name for p in recipe({"kind": "slice", "axis": "y"}, {"kind": "sky"}).products]
    assert names == ["slice_y", "sky"]


def test_text_that_is_a_number_counts_as_one():
    # YAML takes 1e-1 for text
    assert recipe("midplane", grid=yaml.safe_load("{voxel: 1e-1}")) == recipe("midplane")


@given(st.sampled_from("xyz"), st.floats(-15, 15), steps)
def test_a_slice_is_one_voxel_about_its_place(axis, at, voxel):
    read = recipe({"name": "cut", "kind": "slice", "axis": axis, "at": at, "voxel": voxel})
    grid = read.products[0].grid(read)
    across = grid.axis(axis)
    assert across.n == 1
    assert across.centres[0] == pytest.approx(at, abs=1e-12)
    assert across.step == pytest.approx(voxel)
    for other in set("xyz") - {axis}:
        assert grid.axis(other) == CartesianGrid.from_extent(read.grid.x, read.grid.y, read.grid.z, voxel=voxel).axis(
            other
        )
    assert grid.frame == read.frame_record


def test_a_slice_takes_the_voxel_along_its_axis():
    read = recipe({"kind": "slice", "axis": "z", "voxel": [0.1, 0.2, 0.4]})
    grid = read.products[0].grid(read)
    assert grid.shape == (400, 200, 1)
    assert grid.z.edges.tolist() == [-0.2, 0.2]


@pytest.mark.parametrize("name", ["galactocentric", "heliocentric"])
@pytest.mark.parametrize("around", ["origin", "sun", "centre"])
def test_a_box_lies_about_its_point(name, around):
    read = recipe(
        {
            "kind": "projection",
            "axis": "z",
            "voxel": 0.5,
            "box": {"x": [-1, 2], "z": [-1, 1], "around": around},
        },
        frame={"name": name, "r0": 8.0, "z_sun": 0.1},
    )
    grid = read.products[0].grid(read)
    # the Sun and the centre by hand, not by the code that is tested
    x_sun = -math.sqrt(8.0**2 - 0.1**2)
    place = {
        "galactocentric": {"origin": (0, 0), "sun": (x_sun, 0.1), "centre": (0, 0)},
        "heliocentric": {"origin": (0, 0), "sun": (0, 0), "centre": (8.0, 0)},
    }[name][around]
    assert (grid.x.lower_kpc, grid.x.upper_kpc) == pytest.approx((place[0] - 1, place[0] + 2))
    assert (grid.z.lower_kpc, grid.z.upper_kpc) == pytest.approx((place[1] - 1, place[1] + 1))
    # what the box does not limit is the recipe's grid
    assert (grid.y.lower_kpc, grid.y.upper_kpc) == (-20, 20)
    assert grid.shape == (6, 80, 4)


def test_local_box_is_a_cube_about_the_sun():
    read = recipe("local_z")
    grid = read.products[0].grid(read)
    assert grid.shape == (125, 125, 125)
    middle = [(axis.lower_kpc + axis.upper_kpc) / 2 for axis in grid.axes]
    np.testing.assert_allclose(middle, read.frame_record.sun_kpc, atol=1e-12)


def test_a_volume_is_the_grid_or_a_box_of_it():
    read = recipe("volume", {"name": "near", "kind": "volume", "box": {"x": [-1, 1], "y": [0, 1]}})
    assert read.products[0].grid(read) == read.grid_record
    assert read.products[1].grid(read).shape == (20, 10, 60)


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["grid.voxel=0.05"], ["grid.voxel: 0.1 -> 0.05"]),
        (["grid.voxel=[0.1, 0.1, 0.05]"], ["grid.voxel: 0.1 -> [0.1, 0.1, 0.05]"]),
        (
            ["products.radial.z_cut=0.5", "method=nearest"],
            ["method: linear -> nearest", "products.radial.z_cut: 0.3 -> 0.5"],
        ),
        (["products.8.voxel=0.2"], ["products.volume.voxel: null -> 0.2"]),
        (
            ["products.volume.box.x=[-1, 1]"],
            ['products.volume.box: null -> {"x": [-1.0, 1.0], "y": null, "z": null, "around": "origin"}'],
        ),
        (
            ["products.radial.weight={store: gas.zarr, quantity: n_h}"],
            ['products.radial.weight: volume -> {"store": "gas.zarr", "quantity": "n_h"}'],
        ),
        (["quantiles=[0.5]", "quantiles.0=0.4"], ["quantiles: [] -> [0.4]"]),
        (["products.sky={distance: [0, 5]}"], ["products.sky.distance: null -> [0.0, 5.0]"]),
        (["frame.name=heliocentric"], ["frame.name: galactocentric -> heliocentric"]),
    ],
)
def test_overrides_change_what_they_name(overrides, changed):
    default = Recipe.default()
    other = default.with_overrides(overrides)
    assert differences(default.to_dict(), other.to_dict()) == changed
    assert default == Recipe.default()


def test_overrides_may_replace_the_products_and_then_change_them():
    read = Recipe.default().with_overrides(["products=[sky, radial]", "products.radial.z_cut=0.1"])
    assert [product.name for product in read.products] == ["sky", "radial"]
    assert read.products[1].z_cut == 0.1


def test_overrides_hold_together_not_one_by_one():
    # neither of the two alone gives whole voxels
    changes = ["grid.voxel=0.7", *(f"grid.{axis}=[-7, 7]" for axis in "xyz")]
    assert recipe("midplane").with_overrides(changes).grid_record.shape == (20, 20, 20)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.voxel", "override 'grid.voxel': must read key=value, such as grid.voxel=0.05"),
        ("=1", "override '=1': must read key=value, such as grid.voxel=0.05"),
        (
            "grid.voxl=1",
            "override 'grid.voxl=1': no key 'voxl' in grid; did you mean 'voxel'? known: x, y, z, voxel",
        ),
        (
            "prodcts.0=sky",
            "override 'prodcts.0=sky': no key 'prodcts'; did you mean 'products'? "
            "known: quantity, frame, grid, method, value_space, inner, quantiles, products",
        ),
        (
            "products.radail.z_cut=1",
            "override 'products.radail.z_cut=1': no key 'radail' in products; did you mean 'radial'? "
            "known: sky, radial",
        ),
        ("products.2.voxel=1", "override 'products.2.voxel=1': no key '2' in products; known: sky, radial"),
        (
            "products.radial.weight.store=a",
            "override 'products.radial.weight.store=a': products.radial.weight is \"volume\", "
            "no keys inside; set products.radial.weight as a whole",
        ),
        ("grid.voxel=[1", "override 'grid.voxel=[1': line 1: not valid YAML, expected ',' or ']', but got"),
        ("grid.voxel=7", "overrides: grid: x: [-20, 20] kpc is not a whole number of 7 kpc voxels"),
        ("method=fast", "overrides: method: must be 'linear' or 'nearest', got \"fast\""),
    ],
)
def test_impossible_overrides_say_why(override, message):
    with pytest.raises(RecipeError) as caught:
        recipe("sky", "radial").with_overrides([override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"grid": {"voxle": 1}},
            "run.yaml: grid.voxle: unknown key 'voxle'; did you mean 'voxel'? known: x, y, z, voxel",
        ),
        (
            {"gird": {}},
            "run.yaml: gird: unknown key 'gird'; did you mean 'grid'? "
            "known: quantity, frame, grid, method, value_space, inner, quantiles, products",
        ),
        (
            {"grid": {"voxel": -1}},
            "run.yaml: grid.voxel: must be one positive number or three [dx, dy, dz], got -1 "
            "(voxel size, one number or [dx, dy, dz], kpc)",
        ),
        ({"grid": {"voxel": True}}, "run.yaml: grid.voxel: must be a number, got true "),
        ({"grid": {"voxel": ".nan"}}, 'run.yaml: grid.voxel: must be a number, got ".nan"'),
        ({"grid": {"voxel": "nan"}}, 'run.yaml: grid.voxel: must be a finite number, got "nan"'),
        (
            {"grid": {"voxel": 0.3}},
            "run.yaml: grid: x: [-20, 20] kpc is not a whole number of 0.3 kpc voxels (133.333); "
            "change the extent or the voxel",
        ),
        (
            {"grid": {"z": [3, -3]}},
            "run.yaml: grid.z: must be [lower, upper] with lower < upper, got [3, -3] ",
        ),
        ({"grid": 3}, "run.yaml: grid: must be a mapping with the keys x, y, z, voxel, got 3"),
        ({"frame": {"r0": -8}}, "run.yaml: frame: frame r0_kpc must be positive, got -8 kpc"),
        ({"frame": {"z_sun": 9}}, "run.yaml: frame: frame z_sun_kpc must be smaller than r0_kpc = 8.178 kpc"),
        (
            {"frame": {"name": "galactocentre"}},
            "run.yaml: frame.name: must be 'galactocentric' or 'heliocentric'",
        ),
        (
            {"method": "liner"},
            "run.yaml: method: must be 'linear' or 'nearest', got \"liner\"; did you mean 'linear'?",
        ),
        (
            {"quantiles": [0.5, 0.2]},
            "run.yaml: quantiles: must be a list of increasing levels, each between 0 and 1",
        ),
        (
            {"quantiles": [1]},
            "run.yaml: quantiles: must be a list of increasing levels, each between 0 and 1",
        ),
        (
            {"quantiles": 0.5},
            "run.yaml: quantiles: must be a list of increasing levels, each between 0 and 1",
        ),
        ({"quantity": ""}, 'run.yaml: quantity: must have at least 1 character, got ""'),
        ({"products": []}, "run.yaml: products: is empty; name at least one product"),
        ({"products": "midplane"}, 'run.yaml: products: must be a list, got "midplane"'),
        (
            {"products": [3]},
            "run.yaml: products.0: must be a name such as 'midplane' or a mapping with a kind, got 3",
        ),
        (
            {"products": ["sky", "midplain"]},
            "run.yaml: products.1: unknown product 'midplain'; did you mean 'midplane'? known: midplane, ",
        ),
        (
            {"products": ["sky", "radial", {"name": "sky", "distance": [0, 1]}]},
            "run.yaml: products.2.name: product 0 is called 'sky' too; give one another name",
        ),
        ({1: 2}, "run.yaml: 1: a key is a word, got 1"),
    ],
)
def test_a_fault_is_one_line_with_key_and_way_out(keys, message):
    text = fault(keys)
    assert text.startswith(message)
    assert " more fault" not in text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"kind": "slcie"},
            "products.0.kind: unknown kind \"slcie\"; did you mean 'slice'? known: slice, projection, ",
        ),
        ({"name": "mine"}, "products.mine.kind: is missing; give one of slice, projection, sky, "),
        (
            {"name": "cut", "kind": "slice"},
            "products.cut.axis: is missing; give it (axis that the plane lies across: x, y or z)",
        ),
        (
            {"name": "cut", "kind": "slice", "axis": "r"},
            "products.cut.axis: must be 'x', 'y' or 'z', got \"r\"",
        ),
        (
            {"name": "cut", "kind": "slice", "axis": "z", "box": {"z": [0, 1]}},
            "products.cut: a slice across z has no extent along it: drop box.z, use 'at'",
        ),
        (
            {"name": "cut", "kind": "slice", "axis": "z", "voxel": 0.3},
            "products.cut: x: [-20, 20] kpc is not a whole number of 0.3 kpc voxels",
        ),
        (
            {"name": "near", "kind": "projection", "axis": "z", "box": {"x": [0, 1], "arround": "sun"}},
            "products.near.box.arround: unknown key 'arround'; did you mean 'around'? known: x, y, z, around",
        ),
        (
            {"name": "a b", "kind": "sky"},
            'products.a b.name: must be letters, digits and _, a letter first, got "a b"',
        ),
        ({"name": 3, "kind": "sky"}, "products.0.name: must be a valid string, got 3"),
        ({"name": "radial", "z_cut": -1}, "products.radial.z_cut: must be greater than 0, got -1"),
        (
            {"name": "radial", "zcut": 1},
            "products.radial.zcut: unknown key 'zcut'; did you mean 'z_cut'? known: name",
        ),
        (
            {"name": "radial", "bins": [0, 1, 0.3]},
            "products.radial.bins: must be [start, stop, step] with a whole number of steps from "
            "start to stop, got [0, 1, 0.3]",
        ),
        ({"name": "radial", "bins": [0, 1, 0]}, "products.radial.bins: must be [start, stop, step]"),
        (
            {"name": "radial", "bins": [-2, 2, 1]},
            "products.radial: bins are radii and start at 0 kpc or beyond, got -2",
        ),
        (
            {"name": "radial", "weight": "gas"},
            "products.radial.weight: must be 'volume', got \"gas\" "
            "(weight of the mean: volume, or {store: PATH, quantity: NAME})",
        ),
        (
            {"name": "radial", "weight": {"quantity": "n_h"}},
            "products.radial.weight.store: is missing; give it (path of",
        ),
        (
            {"name": "radial", "weight": {"store": "a", "quantitty": "n_h"}},
            "products.radial.weight.quantitty: unknown key 'quantitty'; did you mean 'quantity'? known: ",
        ),
        (
            {"name": "vertical", "fit_threshold": 1},
            "products.vertical.fit_threshold: must be less than 1, got 1",
        ),
        (
            {"name": "vertical", "ring": [9, 8]},
            "products.vertical.ring: must be [lower, upper] with lower < upper",
        ),
        (
            {"name": "sky", "distance": [-1, 8]},
            "products.sky.distance: must be [lower, upper] with 0 <= lower < upper",
        ),
        (
            {"name": "sky", "per_sample": "maybe"},
            "products.sky.per_sample: must be a valid boolean, unable to",
        ),
    ],
)
def test_a_fault_of_a_product_names_it(keys, message):
    text = fault({"products": [keys]})
    assert text.startswith(f"run.yaml: {message}")
    assert " more fault" not in text


def test_several_faults_are_counted():
    assert fault({"method": "x", "inner": "y"}).endswith("(and 1 more fault)")
    text = fault({"products": ["midplain", {"name": "radial", "z_cut": -1}], "method": "x"})
    assert text.startswith("run.yaml: products.0: unknown product 'midplain'")
    assert text.endswith("(and 2 more faults)")
    assert " more fault" not in fault({"products": ["midplain"]})


@pytest.mark.parametrize(("data", "got"), [(None, "nothing"), ([1], "[1]"), ("midplane", '"midplane"')])
def test_a_recipe_is_a_mapping(data, got):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(data, source="run.yaml")
    assert str(caught.value) == f"run.yaml: must be a mapping of keys such as 'grid' and 'products', got {got}"


def test_a_recipe_without_products_says_so():
    with pytest.raises(RecipeError, match=r"recipe: products: is missing; give it \(what to compute"):
        Recipe.from_mapping({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"grid: {x: [0, 1\nproducts: [sky]", "line 2: not valid YAML, "),
        (b"products: [sky]\n\tgrid: 1\n", "line 2: not valid YAML, "),
        (
            b"products: [sky]\nmethod: linear\nmethod: nearest\n",
            "line 3: not valid YAML, key 'method' stands twice",
        ),
        (b"products: [\xff]", "not UTF-8 text (byte 11)"),
        (b"products: [\x00]", "not valid YAML, unacceptable character"),
        (b"", "must be a mapping of keys such as 'grid' and 'products', got nothing"),
        (b"products: [skyy]", "products.0: unknown product 'skyy'; did you mean 'sky'?"),
        (
            b"products: [!!python/object:os.system {}]",
            "line 1: not valid YAML, could not determine a constructor",
        ),
    ],
)
def test_a_bad_file_is_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(tmp_path / "none.yaml")
    expected = f"{tmp_path / 'none.yaml'}: cannot be read (No such file or directory); check the path of the recipe"
    assert str(caught.value) == expected
    with pytest.raises(RecipeError, match="Is a directory"):
        Recipe.from_yaml(tmp_path)


def test_differences_name_added_and_removed_products():
    one, other = recipe("sky", "midplane").to_dict(), recipe("midplane", "radial").to_dict()
    assert differences(one, other) == [
        "products.sky: a sky product -> (none)",
        "products.radial: (none) -> a radial product",
    ]
