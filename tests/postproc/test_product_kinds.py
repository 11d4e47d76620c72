"""Kinds of products: built-in ones and those of installed packages go the same way."""

import json
import pickle

import numpy as np
import pytest

import crdist
import plugged
from crdist.check import check_store
from crdist.errors import DependencyError, RecipeError, StoreExistsError
from crdist.grids import SphericalGrid
from crdist_postproc.product_kinds import PRODUCT_KINDS
from crdist_postproc.recipe import Recipe
from crdist_postproc.recipe_products import SkyProduct
from galaxies import small_posterior, smooth_samples, write_posterior

BUILTIN = ["slice", "projection", "sky", "radial", "vertical", "volume"]
SPHERE = {"kind": "sphere", "centre": [0.5, 0.25, 0.0], "radii": [0.4, 0.8]}
SETTINGS = {"frame": {"name": "heliocentric"}, "grid": {"x": [-1, 1], "y": [-1, 1], "z": [-1, 1], "voxel": 0.2}}

OTHER_KIND = """
from typing import Literal
from pydantic import Field
from crdist_postproc.products import Job, ProductKind, ProductSettings

class Settings(ProductSettings):
    "A test."
    kind: Literal["green"] = Field(default="green", description="kind of product")
    {field}

def job(settings, request):
    {job}

KIND = ProductKind({name!r}, Settings, job)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    with plugged.site(tmp_path / "site", monkeypatch) as site:
        yield site


@pytest.fixture
def example(site):
    plugged.install_example(site.folder)
    return site


@pytest.fixture
def green(site):
    """A function that installs a package whose kind of product is called green."""

    def install(job="return None", name="green", field="pass"):
        source = OTHER_KIND.format(job=job, name=name, field=field)
        site.add("paint", "0.3", {"crdist.products": {"green": "paint:KIND"}}, source)

    return install


def recipe_of(*products, **keys):
    return {**SETTINGS, **keys, "products": list(products)}


def fault(*products):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(recipe_of(*products))
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix("recipe: ")


def sphere_sum(grid, samples, centre, radius):
    """Integral over a sphere from the source's own cells, each cut in many parts, kpc3 times the samples' unit."""
    import healpy

    fine = 32
    children = np.arange(12 * fine**2)
    directions = np.stack(healpy.pix2vec(fine, children, nest=True), axis=-1)
    edges = np.linspace(0, grid.edges[-1], 401)
    middles = 0.5 * (edges[1:] + edges[:-1])
    volumes = 4 / 3 * np.pi * np.diff(edges**3) / children.size
    total = np.zeros(samples.shape[-1])
    for middle, volume in zip(middles, volumes, strict=True):
        inside = np.linalg.norm(middle * directions - centre, axis=1) <= radius
        shell = np.clip(np.searchsorted(grid.edges, middle) - 1, 0, grid.n_shell - 1)
        pixels = children[inside] // (fine // grid.nside) ** 2
        total += volume * samples[pixels, shell].sum(axis=0, dtype=np.float64)
    return total


@pytest.mark.usefixtures("example")
def test_a_package_adds_a_product(tmp_path):
    grid = SphericalGrid.log_spaced(8, 24, 0.05, 3.0)
    samples = smooth_samples(grid, 4)
    write_posterior(tmp_path / "p.zarr", grid, samples, units="kpc-3")
    # 5 kpc: beyond the data
    far = {**SPHERE, "name": "far", "centre": [4.0, 0.0, 0.0], "radii": [0.5, 5.0], "quantiles": [0.5], "voxel": 0.4}
    recipe = recipe_of("midplane", SPHERE, far, grid={**SETTINGS["grid"], "voxel": 0.05}, method="nearest")
    crdist.run_products(tmp_path / "p.zarr", tmp_path / "out.zarr", recipe)
    tree = crdist.open_products(tmp_path / "out.zarr")
    near = tree["sphere"].load()
    assert near.attrs["kind"] == "sphere"
    assert near["mean"].attrs["units"] == ""
    for k, radius in enumerate(SPHERE["radii"]):
        expected = sphere_sum(grid, samples, np.array(SPHERE["centre"]), radius)
        # both cut the sphere's surface into steps
        np.testing.assert_allclose(near["per_sample"][k], expected, rtol=3e-3)
    # statistics come last
    np.testing.assert_allclose(near["std"], near["per_sample"].std("sample", ddof=1), rtol=1e-12)
    np.testing.assert_array_equal(near["coverage"], 1.0)
    beyond = tree["far"].load()
    assert np.isnan(beyond["mean"][0])
    assert beyond["coverage"][0] == 0
    assert 0 < beyond["coverage"][1] < 0.3
    np.testing.assert_allclose(beyond["quantiles"][1, 0], beyond["per_sample"][1].median(), rtol=1e-12)
    assert check_store(tmp_path / "out.zarr") == []


@pytest.mark.usefixtures("example")
def test_the_provenance_says_which_package(tmp_path):
    source = small_posterior(tmp_path / "p.zarr").path
    crdist.run_products(source, tmp_path / "out.zarr", recipe_of("sky", SPHERE))
    provenance = crdist.open_products(tmp_path / "out.zarr").attrs["provenance"]
    assert provenance["plugins"] == {
        "sphere": {"distribution": "crdist-example", "version": "1.0", "entry_point": "sphere = crdist_sphere:KIND"}
    }
    crdist.run_products(source, tmp_path / "plain.zarr", recipe_of("sky"))
    assert "plugins" not in crdist.open_products(tmp_path / "plain.zarr").attrs["provenance"]


def test_a_store_is_sound_where_the_package_is_missing(tmp_path, monkeypatch):
    source = small_posterior(tmp_path / "p.zarr").path
    with monkeypatch.context() as patch, plugged.site(tmp_path / "site", patch) as site:
        plugged.install_example(site.folder)
        crdist.run_products(source, tmp_path / "out.zarr", recipe_of(SPHERE))
    assert "sphere" not in PRODUCT_KINDS
    assert check_store(tmp_path / "out.zarr") == []
    # another kind in its place is told of
    attributes = tmp_path / "out.zarr" / "sphere" / "zarr.json"
    for path in (attributes, tmp_path / "out.zarr" / "zarr.json"):
        path.write_text(path.read_text().replace('"kind": "sphere"', '"kind": "cube"'))
    (problem,) = check_store(tmp_path / "out.zarr")
    assert "attribute kind = 'cube', expected one of slice, " in problem.what
    assert problem.what.endswith("volume, sphere")


class Stopped(Exception):
    pass


def stop_after(n):
    def progress(step):
        if step.blocks_done == n:
            raise Stopped

    return progress


def test_another_version_does_not_finish_a_run(example, tmp_path):
    source, recipe = small_posterior(tmp_path / "p.zarr").path, recipe_of("midplane", SPHERE)
    crdist.run_products(source, tmp_path / "whole.zarr", recipe)
    with pytest.raises(Stopped):
        crdist.run_products(source, tmp_path / "out.zarr", recipe, progress=stop_after(3))
    (key,) = [path.name for path in (tmp_path / "out.zarr.run" / "done").iterdir()]
    info = example.folder / "crdist_example-1.0.dist-info" / "METADATA"
    before = info.read_text()
    info.write_text(before.replace("1.0", "1.1"))
    with pytest.raises(StoreExistsError) as caught:
        crdist.run_products(source, tmp_path / "out.zarr", recipe)
    entry = "(sphere = crdist_sphere:KIND)"
    assert str(caught.value) == (
        f"{tmp_path / 'out.zarr'}: its products of kind 'sphere' are of crdist-example 1.0 {entry}, now they would "
        f"be of crdist-example 1.1 {entry}; install the former, choose another name, or remove it to start anew"
    )
    crdist.run_products(source, tmp_path / "new.zarr", recipe)
    assert key not in [path.name for path in (tmp_path / "new.zarr.run" / "done").iterdir()]
    info.write_text(before)
    report = crdist.run_products(source, tmp_path / "out.zarr", recipe)
    assert report.blocks_found == 3
    whole, out = (crdist.open_products(tmp_path / name)["sphere"].load() for name in ("whole.zarr", "out.zarr"))
    assert whole.to_dataset().identical(out.to_dataset())


@pytest.mark.usefixtures("example")
def test_mistakes_are_told_as_those_in_built_in_kinds():
    known = f"known: {', '.join(BUILTIN)}, sphere"
    assert fault({**SPHERE, "kind": "sphare"}) == (
        f"products.0.kind: unknown kind \"sphare\"; did you mean 'sphere'? {known}"
    )
    assert fault("sphare").startswith("products.0: unknown product 'sphare'; did you mean 'sphere'? known: midplane, ")
    assert fault({"kind": "sphere", "name": "s", "radius": 1}) == (
        "products.s.radius: unknown key 'radius'; did you mean 'radii'? known: name, kind, voxel, quantiles, "
        "per_sample, centre, radii (and 2 more faults)"
    )
    assert fault({**SPHERE, "radii": [2, 1]}) == (
        "products.sphere.radii: must be positive and increase, got [2.0, 1.0] kpc (radii of the spheres, "
        "increasing, kpc)"
    )
    assert fault({**SPHERE, "centre": [0, "x", 0]}).startswith('products.sphere.centre.1: must be a number, got "x"')
    assert fault(SPHERE, SPHERE) == ("products.1.name: product 0 is called 'sphere' too; give one another name")
    # built-in kinds beside it are told of as ever
    assert fault(SPHERE, {"kind": "sky", "distanze": [0, 1]}).startswith(
        "products.sky.distanze: unknown key 'distanze'; did you mean 'distance'?"
    )


@pytest.mark.usefixtures("example")
def test_a_recipe_with_a_product_of_a_package_is_plain_data():
    recipe = Recipe.from_mapping(recipe_of({**SPHERE, "name": "cloud", "voxel": 0.1}, "sky"))
    data = json.loads(json.dumps(recipe.to_dict()))
    assert data["products"][0] == {
        **SPHERE,
        "name": "cloud",
        "voxel": 0.1,
        "quantiles": None,
        "per_sample": True,
    }
    again = Recipe.from_mapping(data)
    assert again == recipe
    assert again.digest == recipe.digest
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert Recipe(**{**dict(recipe), "products": recipe.products}) == recipe
    changed = recipe.with_overrides(["products.cloud.radii=[3]", "products.cloud.voxel=null"])
    assert changed.products[0].radii == (3.0,)
    assert changed.digest != recipe.digest
    named = Recipe.from_mapping(recipe_of({"name": "sphere", "centre": [0, 0, 0], "radii": [1]}))
    assert named.products[0].kind == "sphere"


def test_the_schema_knows_every_built_in_kind():
    schema = json.dumps(Recipe.model_json_schema())
    for kind in BUILTIN:
        assert f'"const": "{kind}"' in schema
    assert list(PRODUCT_KINDS.builtin) == BUILTIN
    for name, kind in PRODUCT_KINDS.builtin.items():
        assert (kind.name, kind.settings.model_fields["kind"].default) == (name, name)


def test_built_in_kinds_cannot_be_taken_over(site):
    site.add("thief", "6.6", {"crdist.products": {"sky": "thief:X"}}, "raise SystemExit('taken over')\n")
    (product,) = Recipe.from_mapping(recipe_of("sky")).products
    assert isinstance(product, SkyProduct)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"name": "red"}, "TypeError: Settings.kind must be of type Literal['red'] with that as its default"),
        ({"field": "1 / 0"}, "ZeroDivisionError: division by zero"),
    ],
)
def test_kinds_that_cannot_be_loaded(made, words, green):
    green(**made)
    with pytest.raises(DependencyError) as caught:
        Recipe.from_mapping(recipe_of("sky", {"kind": "green"}))
    assert str(caught.value) == (
        f"'green' of paint 0.3 (crdist.products: paint:KIND): cannot be loaded ({words}); update or remove that package"
    )
    # and harm nobody else
    assert Recipe.from_mapping(recipe_of("sky")).products[0].kind == "sky"


SKY = "from crdist_postproc.products.sky import SkyMap; sky = request.common(settings) | {'native': request.native}; "


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("return 1 / 0", "gives no job for product 'g' (ZeroDivisionError: division by zero)"),
        ("return None", "gives no job for product 'g' (AttributeError: 'NoneType' object has no attribute 'product')"),
        (
            f"{SKY} return Job(SkyMap(**sky, extend=True), request.source)",
            "product 'g' calls itself 'g' of kind 'sky'",
        ),
        (
            f"{SKY} Bare = type('Bare', (SkyMap,), {{'kind': 'green', 'arrays': lambda self: ()}}); "
            "return Job(Bare(**sky, extend=True), request.source)",
            "product 'g' has no array mean and no std",
        ),
        (
            f"{SKY} Bare = type('Bare', (SkyMap,), {{'kind': 'green', 'arrays': lambda self: SkyMap(**sky, "
            "extend=True).arrays(), 'blocks': lambda self: ()}); return Job(Bare(**sky, extend=True), request.source)",
            "product 'g' has no blocks",
        ),
    ],
)
def test_jobs_that_cannot_be_run(job, message, green, tmp_path):
    green(job)
    source = small_posterior(tmp_path / "p.zarr").path
    with pytest.raises(DependencyError) as caught:
        crdist.run_products(source, tmp_path / "out.zarr", recipe_of({"kind": "green", "name": "g"}))
    assert str(caught.value) == (
        f"'green' of paint 0.3 (crdist.products: paint:KIND): {message}; update or remove that package"
    )
    assert not (tmp_path / "out.zarr").exists()


def test_what_a_package_refuses_is_its_own_word(green, tmp_path):
    green("from crdist.errors import RecipeError; raise RecipeError('products.g: not on this grid; use another')")
    source = small_posterior(tmp_path / "p.zarr").path
    with pytest.raises(RecipeError, match=r"^products\.g: not on this grid; use another$"):
        crdist.run_products(source, tmp_path / "out.zarr", recipe_of({"kind": "green", "name": "g"}))
