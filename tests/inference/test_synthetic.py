import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from crdist.errors import GridError, StoreExistsError
from crdist.frames import R0_KPC
from crdist.grids import SphericalGrid
from crdist_inference.synthetic import (
    Clouds,
    LogField,
    cosmic_ray_density,
    cosmic_ray_samples,
    hi_density,
    molecular_density,
    write_published_gas,
)


@pytest.fixture(scope="module")
def gas_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gas") / "new" / "gas.fits"
    return write_published_gas(path, nside=4, n_shell=20, n_sample=6, seed=3)


@pytest.fixture
def clouds():
    return Clouds.draw(np.random.default_rng(5))


def test_published_layout(gas_file):
    with fits.open(gas_file) as hdus:
        hdus.verify("exception")
        centres = hdus[1].data["radial pixel centres"]
        edges = hdus[2].data["radial pixel edges"]
        # the published file is read with .data.T of shape (sample, shell, pixel)
        assert hdus[3].data.T.shape == hdus[4].data.T.shape == (6, 20, 192)
        assert (hdus[3].name, hdus[4].name) == ("HI", "H2")
        assert "not data" in str(hdus[0].header["COMMENT"])
    np.testing.assert_allclose(centres, np.sqrt(edges[1:] * edges[:-1]))
    assert (edges[0], edges[-1]) == pytest.approx((0.05, 30.0))


def test_no_partial_file_is_left(gas_file):
    assert [path.name for path in gas_file.parent.iterdir()] == ["gas.fits"]


def test_same_seed_same_file_and_blocks_do_not_matter(gas_file, tmp_path, monkeypatch):
    monkeypatch.setattr("crdist_inference.synthetic.PIXEL_BLOCK_CELLS", 140)
    again = write_published_gas(tmp_path / "again.fits", nside=4, n_shell=20, n_sample=6, seed=3)
    assert again.read_bytes() == gas_file.read_bytes()
    other = write_published_gas(tmp_path / "other.fits", nside=4, n_shell=20, n_sample=6, seed=4)
    assert other.read_bytes() != gas_file.read_bytes()


def test_samples_scatter_more_far_from_the_sun(gas_file):
    with fits.open(gas_file) as hdus:
        atoms = hdus[3].data.astype(np.float64)
    seen = atoms.min(axis=-1) > 1e-20
    scatter = np.where(seen, np.log(np.where(seen[..., None], atoms, 1.0)).std(axis=-1), np.nan)
    near, far = np.nanmedian(scatter[:, :5]), np.nanmedian(scatter[:, -5:])
    assert far > 3 * near > 0


def test_samples_are_mirrored_pairs():
    grid = SphericalGrid.log_spaced(4, 12, 0.1, 10.0)
    pair = cosmic_ray_samples(grid, 4, seed=2).astype(np.float64)
    odd = cosmic_ray_samples(grid, 3, seed=2)
    np.testing.assert_array_equal(odd, pair[..., :3].astype(np.float32))
    seen = pair.min(axis=-1) > 0
    products = (pair[..., 0] * pair[..., 1], pair[..., 2] * pair[..., 3])
    # exp(+w) exp(-w) = 1: the product of a pair does not know the field
    np.testing.assert_allclose(products[0][seen], products[1][seen], rtol=1e-5)
    assert not np.allclose(pair[..., 0], pair[..., 2], atol=0)


def test_expectation_of_samples_is_the_model():
    grid = SphericalGrid.log_spaced(2, 6, 0.5, 5.0)
    samples = cosmic_ray_samples(grid, 4000, seed=1).astype(np.float64)
    import healpy

    vectors = np.array(healpy.pix2vec(2, np.arange(grid.n_pixel), nest=True))
    truth = cosmic_ray_density(*(vectors[:, :, None] * grid.centres)).astype(np.float64)
    # log-normal scatter of at most 0.4 over 2000 independent pairs: 1 %, five times that over 288 cells
    np.testing.assert_allclose(samples.mean(axis=-1), truth, rtol=0.05)


def test_cosmic_rays_follow_their_closed_form():
    z = np.array([-3.0, -1.0, 0.0, 2.0, 4.0, 7.0])
    expected = 6.0e-10 * np.clip(1 - np.abs(z) / 4.0, 0, None)
    np.testing.assert_allclose(cosmic_ray_density(0.0, 0.0, z), expected, rtol=1e-5)
    radius = np.linspace(0.0, 16.0, 161)
    profile = cosmic_ray_density(R0_KPC - radius, 0.0, 0.0)
    assert 3.5 < radius[profile.argmax()] < 5.5


def test_gas_has_a_disc_a_hole_and_arms():
    azimuth = np.linspace(0, 2 * np.pi, 720, endpoint=False)

    def circle(radius):
        return hi_density(R0_KPC - radius * np.cos(azimuth), radius * np.sin(azimuth), 0.0)

    assert circle(1.0).mean() < 0.1 * circle(7.0).mean()
    assert circle(20.0).mean() < 0.2 * circle(8.0).mean()
    around = circle(7.0)
    peaks = (around > np.roll(around, 1)) & (around >= np.roll(around, -1)) & (around > around.mean())
    assert peaks.sum() == 4
    assert hi_density(0.0, 0.0, 3.0) < 1e-6 * hi_density(0.0, 0.0, 0.0)


def test_molecules_ring_and_the_cloud_near_the_sun(clouds):
    empty = Clouds(clouds.places_kpc[:0], clouds.widths_kpc[:0], clouds.peaks[:0])
    azimuth = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    ring = [
        molecular_density(R0_KPC - r * np.cos(azimuth), r * np.sin(azimuth), 0.0, empty).mean() for r in (2.5, 4.6, 9)
    ]
    assert ring[1] > max(ring[0], ring[2])
    at_cloud = molecular_density(*clouds.places_kpc[0], clouds)
    assert at_cloud == pytest.approx(clouds.peaks[0], rel=0.1)
    assert np.linalg.norm(clouds.places_kpc[0]) < 0.5


@settings(max_examples=15, deadline=None)
@given(blur=st.floats(0.01, 0.3), radius=st.floats(4.0, 12.0), azimuth=st.floats(0.0, 6.28))
def test_blur_keeps_the_column(blur, radius, azimuth):
    z = np.linspace(-6.0, 6.0, 6001)
    x, y = R0_KPC - radius * np.cos(azimuth), radius * np.sin(azimuth)
    sharp, blurred = hi_density(x, y, z), hi_density(x, y, z, blur_kpc=blur)
    assert blurred.astype(np.float64).sum() == pytest.approx(sharp.astype(np.float64).sum(), rel=1e-4)
    assert blurred.max() < sharp.max()


def test_blur_keeps_the_mass_of_a_cloud():
    cloud = Clouds(np.array([[0.0, 0.0, 0.0]]), np.array([0.1]), np.array([5e3]))
    empty = Clouds(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    axis = np.linspace(-1.2, 1.2, 61)
    x, y, z = axis[:, None, None], axis[:, None], axis

    def mass(blur):
        alone = molecular_density(x, y, z, cloud, blur_kpc=blur) - molecular_density(x, y, z, empty, blur_kpc=blur)
        return alone.astype(np.float64).sum()

    assert mass(0.15) == pytest.approx(mass(0.0), rel=1e-3)


def test_log_field_has_unit_variance():
    rng = np.random.default_rng(1)
    places = rng.uniform(-100, 100, (3, 40_000)).astype(np.float32)
    values = LogField.draw(rng)(*places)
    assert values.mean() == pytest.approx(0.0, abs=0.05)
    assert values.std() == pytest.approx(1.0, abs=0.05)


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(GridError, match="at least 1 sample, got 0"):
        write_published_gas(tmp_path / "gas.fits", n_sample=0)
    with pytest.raises(GridError, match="power of two"):
        write_published_gas(tmp_path / "gas.fits", nside=3)
    (tmp_path / "there.fits").write_bytes(b"mine")
    with pytest.raises(StoreExistsError, match="exists already"):
        write_published_gas(tmp_path / "there.fits")
    assert (tmp_path / "there.fits").read_bytes() == b"mine"
