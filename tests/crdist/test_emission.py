import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from crdist import constants, emission, kafexhiu
from crdist.emission import Emissivity
from crdist.errors import DependencyError, RecipeError

C_LOCAL = 6.0139e-10  # cm-3, what the reference intensities were computed with; they are as good as its five digits
BAND = (10**0.25, 10**0.5)

alphas = st.floats(2.2, 2.8)
energies = st.floats(0.01, 1e3)


def printed(value, digits):
    """A number to half a unit of the last digit that a table prints."""
    return pytest.approx(value, rel=0, abs=0.501 * 10.0 ** (math.floor(math.log10(abs(value))) + 1 - digits))


@pytest.mark.parametrize(
    ("alpha", "sigma_mb", "delta", "coefficient"),
    [
        (2.50, 37.180689, 0.472316, 9.0889626238e-18),
        (2.60, 35.802158, 0.470351, 6.62872292597e-18),
        (2.65, 35.227469, 0.469440, 5.67998121443e-18),
        (2.70, 34.717767, 0.468572, 4.87688568979e-18),
        (2.75, 34.265701, 0.467746, 4.19518075356e-18),
        (2.80, 33.864755, 0.466957, 3.61500432881e-18),
    ],
)
def test_formula_against_forty_digits(alpha, sigma_mb, delta, coefficient):
    assert emission.sigma_pp_mb(alpha) == pytest.approx(sigma_mb, abs=0.51e-6)
    assert emission.delta_gamma(alpha) == pytest.approx(delta, abs=0.51e-6)
    assert emission.band_coefficient(alpha) == pytest.approx(coefficient, rel=1e-10)


def test_formula_at_the_default_slope():
    assert emission.sigma_pp_mb() == pytest.approx(34.7177667903546, rel=1e-13)
    assert emission.delta_gamma() == pytest.approx(0.468572353394971, rel=1e-13)
    assert emission.band_coefficient() == pytest.approx(4.876885689788e-18, rel=1e-12)
    expected = [2.804959186e-17, 5.311957179e-18, 1.913018244e-18]
    np.testing.assert_allclose(emission.source_function([1.0, 2.0, 3.0]), expected, rtol=1e-9)


def test_rounded_band_edges_lose_a_third_of_a_percent():
    ratio = emission.band_coefficient(2.7, 1.78, 3.16) / emission.band_coefficient()
    assert ratio == pytest.approx(0.99671562, abs=0.51e-8)


@pytest.mark.parametrize("alpha", [2.2, 2.3, 2.4, 2.5, 2.6, 2.65, 2.7, 2.75, 2.8])
@pytest.mark.parametrize("band", [BAND, (1e-3, 0.02), (0.01, 1.0), (0.5623, 316.23), (2.0, 2.01), (100.0, 1e5)])
def test_closed_form_is_the_integral_of_the_source_function(alpha, band):
    # in ln E, and in units of its size: quad's default absolute tolerance is far above 1e-18
    unit = float(emission.source_function(band[0], alpha) * band[0])
    logs = np.linspace(*np.log(band), 9)
    total = sum(
        quad(
            lambda x: float(emission.source_function(math.exp(x), alpha)) * math.exp(x) / unit,
            lower,
            upper,
            epsabs=0.0,
            epsrel=1e-12,
        )[0]
        for lower, upper in pairwise(logs)
    )
    assert emission.band_coefficient(alpha, *band) == pytest.approx(total * unit, rel=1e-10)


@given(energies, alphas)
def test_source_function_in_the_normalisation_of_2004(energy, alpha):
    # f(P) dP = n (P c / GeV)^-alpha c dP / GeV: another unit of momentum, hence another normalisation
    proton, pion = constants.PROTON_GEV, constants.PION_GEV
    delta = 0.14 * alpha**-1.6 + 0.44
    sigma = 32.0 * (0.96 + math.exp(4.4 - 2.4 * alpha)) * 1e-27
    y = 2.0 * energy / pion
    per_n = sigma * 2.99792458e10 * 2 ** (2 - alpha) * 4 / (3 * alpha) * pion**-alpha
    expected = proton ** (alpha - 1) * per_n * (y**delta + y**-delta) ** (-alpha / delta)
    assert emission.source_function(energy, alpha) == pytest.approx(expected, rel=1e-12)


@given(energies, alphas)
def test_spectrum_is_symmetric_about_half_the_mass_of_the_pion(energy, alpha):
    mirrored = (constants.PION_GEV / 2) ** 2 / energy
    assert emission.source_function(energy, alpha) == pytest.approx(
        emission.source_function(mirrored, alpha), rel=1e-11
    )


def test_far_above_the_pion_each_proton_makes_two_pions_of_a_quarter_of_its_energy():
    energy, alpha = 1e8, np.array([2.0, 2.7])
    spectrum = constants.PROTON_GEV ** (alpha - 1) * energy**-alpha * constants.LIGHT_CM_S
    moment = emission.source_function(energy, alpha) / (spectrum * emission.sigma_pp_mb(alpha) * constants.MB_CM2)
    np.testing.assert_allclose(moment, 16 / (3 * alpha) * 4**-alpha, rtol=1e-3)
    assert moment[0] == pytest.approx(1 / 6, rel=1e-3)
    assert moment[1] * emission.sigma_pp_mb(2.7) == printed(1.62, 3)


@given(
    alphas,
    st.floats(0.01, 10.0),
    st.lists(st.floats(1.01, 4.0), min_size=2, max_size=5),
    st.sampled_from(["dp04", "kafexhiu"]),
)
def test_bands_add_up(alpha, lowest, ratios, model):
    edges = lowest * np.cumprod([1.0, *ratios])
    parts = [Emissivity(alpha, a, b, model=model).band_coefficient for a, b in pairwise(edges)]
    whole = Emissivity(alpha, edges[0], edges[-1], model=model).band_coefficient
    # kafexhiu: the accuracy of its sums
    assert sum(parts) == pytest.approx(whole, rel=1e-12 if model == "dp04" else 3e-8)


def test_arguments_broadcast():
    alpha, lower = np.array([2.4, 2.7])[:, None], np.array([1.0, 2.0, 5.0])
    for function in (emission.band_coefficient, emission.kafexhiu_band_coefficient):
        table = function(alpha, lower, 2 * lower)
        assert table.shape == (2, 3)
        assert table.dtype == np.float64
        assert table[1, 2] == function(2.7, 5.0, 10.0)
    assert emission.source_function(np.float32([1, 2]), 2.7).dtype == np.float64
    assert emission.density_at_energy(np.ones((4, 1)), [10.0, 30.0]).shape == (4, 2)
    assert isinstance(emission.band_coefficient(), float)


@pytest.mark.parametrize(
    ("alpha", "expected", "digits"),
    [
        (2.6, 1.205468e-4, 7),
        (2.65, 1.012179e-4, 7),
        (2.7, 8.49882545e-05, 9),
        (2.75, 7.136094e-5, 7),
        (2.8, 5.991867e-5, 7),
    ],
)
def test_density_at_30_gev(alpha, expected, digits):
    assert emission.density_at_energy(1.0, 30.0, alpha) == printed(expected, digits)
    assert emission.normalisation_from_density(1.0, 30.0, alpha) == pytest.approx(1 / expected, rel=1e-6)


def test_density_takes_the_kinetic_energy_and_the_exact_momentum():
    m = constants.PROTON_GEV
    ratio = 30.0 / m
    exact = emission.density_at_energy(1.0)
    assert math.sqrt(ratio**2 + 2 * ratio) == printed(32.9585006, 9)
    assert ratio**-2.7 / m == printed(9.2200e-5, 5)  # were momentum and kinetic energy the same
    assert ratio**-2.7 / m / exact == pytest.approx(1.085, abs=0.51e-3)
    assert emission.density_at_energy(1.0, 30.0 - m) == printed(9.2367e-5, 5)  # 30 GeV of total energy
    assert emission.normalisation_from_density(1.0) == printed(1.176633e4, 7)


@given(st.floats(0.01, 1e4), alphas)
def test_density_is_the_derivative_of_the_integral_spectrum(kinetic, alpha):
    # n(> T) = C p^(1 - alpha) / (alpha - 1)
    def above(energy):
        t = energy / constants.PROTON_GEV
        return (t * (t + 2)) ** ((1 - alpha) / 2) / (alpha - 1)

    step = 1e-4 * kinetic
    slope = (above(kinetic - step) - above(kinetic + step)) / (2 * step)
    assert emission.density_at_energy(1.0, kinetic, alpha) == pytest.approx(slope, rel=1e-6)


@given(st.floats(1e-12, 1e-6), st.floats(0.1, 1e5), alphas)
def test_normalisation_is_the_inverse_of_the_density(c, kinetic, alpha):
    density = emission.density_at_energy(c, kinetic, alpha)
    assert emission.normalisation_from_density(density, kinetic, alpha) == pytest.approx(c, rel=1e-13)


@pytest.mark.parametrize(
    ("flux", "density", "c"),
    [(1.2188, 5.111e-14, emission.C_LOCAL_TOA_CM3), (1.3515, 5.668e-14, emission.C_LOCAL_DEMODULATED_CM3)],
)
def test_local_normalisation_follows_from_the_flux_at_earth(flux, density, c):
    t = 30.0 / constants.PROTON_GEV
    speed = constants.LIGHT_CM_S * math.sqrt(t * (t + 2)) / (1 + t)
    from_flux = 4 * math.pi * flux * 1e-4 / speed
    assert from_flux == printed(density, 4)
    # the flux was rounded to five digits, the normalisation to four
    assert emission.normalisation_from_density(from_flux) == pytest.approx(c, rel=1.5e-4)
    assert emission.density_at_energy(c) == pytest.approx(density, rel=2e-4)


def test_local_normalisation_in_logarithms():
    assert math.log(emission.C_LOCAL_TOA_CM3) == printed(-21.232, 5)
    assert math.log10(emission.C_LOCAL_TOA_CM3) == printed(-9.221, 4)
    assert emission.C_LOCAL_DEMODULATED_CM3 / emission.C_LOCAL_TOA_CM3 == pytest.approx(1.109, abs=0.51e-3)


@pytest.mark.parametrize(
    ("enhancement", "nucleons", "expected"),
    [(1.0, 1.0, 2.33393e-02), (1.8, 1.0, 4.20108e-02), (1.0, 1.4, 3.26751e-02), (1.8, 1.4, 5.88151e-02)],
)
def test_reference_intensities(enhancement, nucleons, expected):
    emissivity = Emissivity(nuclear_enhancement=enhancement, nucleon_scale=nucleons)
    assert emission.intensity(C_LOCAL, 1e22, emissivity) == pytest.approx(expected, rel=1e-5)
    assert emission.intensity(C_LOCAL, 1e22, emissivity, area="cm2") == pytest.approx(expected * 1e-4, rel=1e-5)


def test_coefficient_of_the_line_of_sight_sum():
    bare = Emissivity(nuclear_enhancement=1.0, nucleon_scale=1.0)
    assert emission.intensity_coefficient(bare) == printed(1.19752133e7, 9)
    assert emission.intensity_coefficient(Emissivity.preset("consistent")) == printed(2.15553839e7, 9)
    assert emission.intensity_coefficient(Emissivity.preset("paper")) == printed(3.01775375e7, 9)
    assert emission.intensity_coefficient() == emission.intensity_coefficient(Emissivity.preset("paper"))
    assert 1e22 / constants.KPC_CM == printed(3.24078, 6)
    assert bare.intensity_coefficient * C_LOCAL * 3.24078 == printed(2.3339e-2, 5)


def test_emissivity_per_hydrogen_atom():
    bare = Emissivity(nuclear_enhancement=1.0, nucleon_scale=1.0)
    assert bare.band_coefficient * C_LOCAL / (4 * math.pi) == printed(2.334e-28, 4)
    energy = np.array([1.0, 2.0, 10.0])
    mev = 1e3 * energy**2 * emission.source_function(energy) * C_LOCAL / (4 * math.pi)
    assert mev.tolist() == [printed(value, 3) for value in (1.34e-24, 1.02e-24, 3.96e-25)]


@given(st.floats(0.0, 1e-6), st.floats(0.0, 1e24), st.floats(0.0, 1e3), st.floats(0.1, 10.0))
def test_intensity_is_linear(c, column, factor, rescale):
    paper, rescaled = Emissivity(), Emissivity(emissivity_rescale=rescale)
    once = emission.intensity(c, column)
    assert emission.intensity(factor * c, column) == pytest.approx(factor * once, rel=1e-12)
    assert emission.intensity(c, factor * column) == pytest.approx(factor * once, rel=1e-12)
    assert emission.intensity(c, column, rescaled) == pytest.approx(rescale * once, rel=1e-12)
    assert rescaled.intensity_coefficient == pytest.approx(rescale * paper.intensity_coefficient, rel=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1e-8), st.floats(0, 1e3), st.floats(1e-3, 1.0)), min_size=1, max_size=8))
def test_intensity_of_shells_is_their_source_seen_from_afar(shells):
    c, hydrogen, width_kpc = np.array(shells).T
    emissivity = Emissivity(nuclear_enhancement=1.6, nucleon_scale=1.3, alpha=2.6)
    summed = emission.intensity_coefficient(emissivity) * np.sum(c * hydrogen * width_kpc)
    source = emission.source_density(c, hydrogen, emissivity)
    seen = 1.6 / (4 * math.pi) * np.sum(source * width_kpc) * constants.KPC_CM * 1e4
    columns = emission.intensity(c, hydrogen * width_kpc * constants.KPC_CM, emissivity)
    assert summed == pytest.approx(seen, rel=1e-12)
    assert summed == pytest.approx(np.sum(columns), rel=1e-12)


def test_source_density_leaves_the_enhancement_out():
    assert emission.source_density(2.0, 3.0) == pytest.approx(6.0 * 1.4 * emission.band_coefficient(), rel=1e-14)
    dim = Emissivity(nuclear_enhancement=1.0)
    assert emission.source_density(2.0, 3.0, dim) == emission.source_density(2.0, 3.0)


def test_hydrogen_is_atoms_and_two_for_each_molecule():
    hi, h2 = np.array([0.5, 0.0, np.nan]), np.array([0.1, 2.0, 1.0])
    np.testing.assert_allclose(emission.hydrogen_density(hi, h2), [0.7, 4.0, np.nan], rtol=1e-15)
    np.testing.assert_allclose(emission.hydrogen_density(hi, h2, 1.15), [0.73, 4.6, np.nan], rtol=1e-15)
    # 1 K km/s per kpc at the X_CO of the published maps
    assert 2e20 / constants.KPC_CM == printed(6.481559e-2, 7)


def test_unknown_values_stay_unknown():
    assert np.isnan(emission.density_at_energy(np.nan))
    assert np.isnan(emission.intensity([np.nan, 1e-9], 1e22)).tolist() == [True, False]
    assert np.isnan(emission.source_density(1e-9, np.nan))


# The cross-section of naima 0.10.4 (PionDecay._diffsigma, Pythia 8, no nuclear enhancement) times v dn/dT, integrated
# by scipy's quad between its discontinuities and by 24 Gauss-Legendre nodes in ln E; 64 for the lowest band.
NAIMA = [
    (2.2, *BAND, 1.2993758135e-17),
    (2.5, *BAND, 4.6689649357e-18),
    (2.6, *BAND, 3.4024373475e-18),
    (2.65, *BAND, 2.9159011534e-18),
    (2.7, *BAND, 2.5050251119e-18),
    (2.75, *BAND, 2.1570333338e-18),
    (2.8, *BAND, 1.8614859320e-18),
    (2.7, 0.1, 0.5, 9.8364855078e-17),
    (2.7, 10**-0.25, 1.0, 1.4163250568e-17),
    (2.7, 1.0, 10**0.25, 6.4710893403e-18),
    (2.7, 10**0.5, 10**0.75, 9.7083231240e-19),
    (2.7, 10**0.75, 10.0, 3.9488610664e-19),
    (2.7, 10.0, 10**1.25, 1.6718188775e-19),
    (2.7, 10**1.25, 10**1.5, 7.0085640180e-20),
    (2.7, 10**1.5, 10**1.75, 2.8160926563e-20),
    (2.7, 10**1.75, 100.0, 1.1069866659e-20),
    (2.7, 100.0, 10**2.25, 4.3310128819e-21),
    (2.7, 10**2.25, 10**2.5, 1.6907901897e-21),
]


@pytest.mark.parametrize(("alpha", "e_min", "e_max", "expected"), NAIMA)
def test_kafexhiu_against_naima(alpha, e_min, e_max, expected):
    # naima's pion is lighter by 1.5e-6
    assert emission.kafexhiu_band_coefficient(alpha, e_min, e_max) == pytest.approx(expected, rel=5e-6)
    assert Emissivity(alpha, e_min, e_max, model="kafexhiu").band_coefficient == pytest.approx(expected, rel=5e-6)


def test_formula_is_nearly_twice_as_bright_as_kafexhiu():
    # The public spectrum of naima with protons at the speed of light gives 1.94, with their own speed 1.947.
    assert emission.band_coefficient() / emission.kafexhiu_band_coefficient() == pytest.approx(1.94, abs=0.01)
    assert emission.kafexhiu_band_coefficient() * C_LOCAL / (4 * math.pi) == pytest.approx(1.201e-28, rel=3e-3)


@given(st.floats(0.07, 5.0), alphas)
def test_spectrum_of_kafexhiu_has_the_symmetry_of_a_pion_decay(energy, alpha):
    mirrored, wider = (constants.PION_GEV / 2) ** 2 / energy, 1 + 1e-5
    above = emission.kafexhiu_band_coefficient(alpha, energy, energy * wider) / (energy * wider - energy)
    below = emission.kafexhiu_band_coefficient(alpha, mirrored / wider, mirrored) / (mirrored - mirrored / wider)
    assert above == pytest.approx(below, rel=1e-8)


@given(st.floats(1e-4, 14.0).map(lambda x: kafexhiu.THRESHOLD_GEV * (1 + 1e-6) * math.exp(x)))
def test_a_proton_at_its_least_energy_makes_that_pion(kinetic):
    pion = kafexhiu._greatest_pion_energy(np.array([kinetic]))
    assert kafexhiu._least_kinetic_energy(pion) == pytest.approx(kinetic, rel=1e-9)


@pytest.mark.parametrize("name", ["paper", "consistent"])
def test_dictionary_round_trip(name):
    emissivity = Emissivity.preset(name, alpha=2.65, e_min_gev=1, emissivity_rescale=0.5, model="kafexhiu")
    again = Emissivity.from_dict(json.loads(json.dumps(emissivity.to_dict())))
    assert again == emissivity
    assert hash(again) == hash(emissivity)
    assert again.band_coefficient == pickle.loads(pickle.dumps(emissivity)).band_coefficient
    assert set(emissivity.to_dict()) == {
        *("alpha", "e_min_gev", "e_max_gev", "nuclear_enhancement", "nucleon_scale", "model", "emissivity_rescale")
    }


def test_presets():
    assert Emissivity() == Emissivity.preset("paper")
    factors = [
        (preset.nuclear_enhancement, preset.nucleon_scale) for preset in map(Emissivity.preset, ("paper", "consistent"))
    ]
    assert factors == [(1.8, 1.4), (1.8, 1.0)]


def test_a_registered_model_is_used(monkeypatch):
    monkeypatch.setattr(emission.MODELS, "builtin", dict(emission.MODELS.builtin))

    def flat(alpha, e_min_gev, e_max_gev):
        return 1e-18 * (e_max_gev - e_min_gev) / alpha

    emission.register_model("flat", flat)
    emission.register_model("flat", flat)  # the same again is no conflict
    emissivity = Emissivity(2.5, 1.0, 6.0, model="flat", emissivity_rescale=2.0)
    assert emissivity.band_coefficient == pytest.approx(4e-18, rel=1e-14)
    with pytest.raises(RecipeError) as caught:
        emission.register_model("flat", emission.band_coefficient)
    assert str(caught.value) == "emissivity model 'flat' exists already; choose another name"


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("dp04", abs, "emissivity model 'dp04' exists already; choose another name"),
        ("", abs, "an emissivity model needs a name, got ''"),
        ("constant", 1e-18, "emissivity model 'constant' must be a function, got 1e-18"),
    ],
)
def test_impossible_registrations_say_why(name, function, message):
    with pytest.raises(RecipeError) as caught:
        emission.register_model(name, function)
    assert str(caught.value) == message
    assert list(emission.MODELS) == ["dp04", "kafexhiu"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that offers models."""
    (tmp_path / "bright_gas.py").write_text(
        "def twice(alpha, e_min_gev, e_max_gev):\n"
        "    from crdist.emission import band_coefficient\n"
        "    return 2 * band_coefficient(alpha, e_min_gev, e_max_gev)\n"
        "def dark(*band):\n    return 0.0\n"
        "def broken(*band):\n    raise KeyError('no table for this band')\n"
    )
    info = tmp_path / "bright_gas-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bright-gas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[crdist.emissivity]\ntwice = bright_gas:twice\ndark = bright_gas:dark\nbroken = bright_gas:broken\n"
        "absent = bright_gas:nowhere\nkafexhiu = bright_gas:dark\nconstant = bright_gas:__name__\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_models_of_installed_packages():
    assert Emissivity(model="twice").band_coefficient == pytest.approx(2 * emission.band_coefficient(), rel=1e-14)
    # the built-in names cannot be taken over
    assert Emissivity(model="kafexhiu").band_coefficient > 0


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bright", "no emissivity model 'bright'; there are dp04, kafexhiu, absent, broken, constant, dark, twice"),
        (
            "dark",
            "emissivity model 'dark' of bright-gas 1.0 gives K = 0 cm3 s-1 for alpha = 2.7 and 1.77828 to 3.16228 GeV; "
            "K must be positive",
        ),
        ("broken", "emissivity model 'broken' of bright-gas 1.0 failed: 'no table for this band'"),
    ],
)
def test_unusable_models_say_why(model, message):
    with pytest.raises(RecipeError) as caught:
        Emissivity(model=model)
    assert str(caught.value) == message


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "absent",
            "'absent' of bright-gas 1.0 (crdist.emissivity: bright_gas:nowhere): cannot be loaded (AttributeError: "
            "module 'bright_gas' has no attribute 'nowhere'); update or remove that package",
        ),
        (
            "constant",
            "'constant' of bright-gas 1.0 (crdist.emissivity: bright_gas:__name__): is a str, expected a function "
            "(alpha, e_min_gev, e_max_gev); update or remove that package",
        ),
    ],
)
def test_packages_that_are_broken_are_named(model, message):
    with pytest.raises(DependencyError) as caught:
        Emissivity(model=model)
    assert str(caught.value) == message


@pytest.mark.usefixtures("plugin")
def test_a_name_of_a_package_cannot_be_registered():
    with pytest.raises(
        RecipeError, match=r"^emissivity model 'twice' is that of bright-gas 1\.0 already; choose another"
    ):
        emission.register_model("twice", emission.band_coefficient)
    assert "twice" not in emission.MODELS.builtin


@pytest.mark.usefixtures("plugin")
def test_a_record_says_which_package_its_model_is_of(tmp_path):
    record = Emissivity(model="twice").to_dict()
    assert record["plugin"] == {
        "distribution": "bright-gas",
        "version": "1.0",
        "entry_point": "twice = bright_gas:twice",
    }
    assert Emissivity.from_dict(json.loads(json.dumps(record))) == Emissivity(model="twice")
    assert "plugin" not in Emissivity(model="kafexhiu").to_dict()
    # numbers of another version are not called the same
    metadata = tmp_path / "bright_gas-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    with pytest.raises(RecipeError) as caught:
        Emissivity.from_dict(record)
    assert str(caught.value) == (
        "emissivity model 'twice' was that of bright-gas 1.0, now it is that of bright-gas 1.1; install the former to "
        "get the same numbers"
    )
    assert Emissivity(model="twice").to_dict()["plugin"]["version"] == "1.1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1.0}, "alpha must be a number above 1, got 1"),
        ({"alpha": math.nan}, "alpha must be a number above 1, got nan"),
        ({"alpha": "2.7"}, "emissivity alpha must be a number, got '2.7'"),
        ({"alpha": 1.9, "model": "kafexhiu"}, "alpha must be at least 2 for model 'kafexhiu', got 1.9"),
        (
            {"e_max_gev": 2e4, "model": "kafexhiu"},
            "e_max_gev must be at most 10000 GeV for model 'kafexhiu', got 20000 GeV",
        ),
        ({"e_min_gev": 4.0}, "a band runs from a lower to a higher energy, got 4 to 3.16228 GeV"),
        ({"e_min_gev": 0.0}, "e_min_gev must be positive and finite, got 0 GeV"),
        ({"e_max_gev": math.inf}, "e_max_gev must be positive and finite, got inf GeV"),
        ({"nuclear_enhancement": -1.8}, "emissivity nuclear_enhancement must be positive and finite, got -1.8"),
        ({"nucleon_scale": 0}, "emissivity nucleon_scale must be positive and finite, got 0"),
        ({"emissivity_rescale": True}, "emissivity emissivity_rescale must be a number, got True"),
        ({"epsilon": 1.8, "f_n": 1}, None),
    ],
)
def test_impossible_emissivities_say_why(values, message):
    if message is None:
        message = (
            "an emissivity has alpha, e_min_gev, e_max_gev, nuclear_enhancement, nucleon_scale, model, "
            "emissivity_rescale; got epsilon, f_n"
        )
    with pytest.raises(RecipeError) as caught:
        Emissivity.from_dict(values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: emission.sigma_pp_mb([2.7, 1.0, 0.5]), "alpha must be a number above 1, got 1 (2 of 3 values)"),
        (lambda: emission.delta_gamma(-2.0), "alpha must be a number above 1, got -2"),
        (lambda: emission.source_function(0.0), "energy_gev must be positive and finite, got 0 GeV"),
        (lambda: emission.source_function(1.0, 1.0), "alpha must be a number above 1, got 1"),
        (
            lambda: emission.band_coefficient(2.7, 3.0, 2.0),
            "a band runs from a lower to a higher energy, got 3 to 2 GeV",
        ),
        (
            lambda: emission.kafexhiu_band_coefficient(2.7, [1.0, 2.0], 2.0),
            "a band runs from a lower to a higher energy, got 2 to 2 GeV",
        ),
        (
            lambda: emission.source_function([1.0, 2.0], [2.5, 2.6, 2.7]),
            "shapes that do not broadcast: energy_gev (2,), alpha (3,)",
        ),
        (lambda: emission.source_function("bright"), "energy_gev must be numbers, got 'bright'"),
        (lambda: emission.density_at_energy(-1e-9), "c must not be negative or infinite, got -1e-09 cm-3"),
        (lambda: emission.density_at_energy(1e-9, 0.0), "kinetic_energy_gev must be positive and finite, got 0 GeV"),
        (
            lambda: emission.normalisation_from_density([1.0, -1.0]),
            "density must not be negative or infinite, got -1 GeV-1 cm-3 (1 of 2 values)",
        ),
        (lambda: emission.intensity(-1.0, 1e22), "c must not be negative or infinite, got -1 cm-3"),
        (lambda: emission.intensity(1e-9, math.inf), "column must not be negative or infinite, got inf cm-2"),
        (lambda: emission.intensity(1e-9, 1e22, area="km2"), "area must be 'm2' or 'cm2', got 'km2'"),
        (lambda: emission.source_density(1e-9, -0.1), "hydrogen must not be negative or infinite, got -0.1 cm-3"),
        (lambda: emission.hydrogen_density(1.0, -1.0), "h2 must not be negative or infinite, got -1 cm-3"),
        (lambda: emission.hydrogen_density(-1.0, 1.0), "hi must not be negative or infinite, got -1 cm-3"),
        (lambda: emission.hydrogen_density(1.0, 1.0, 0.0), "xco_rescale must be positive and finite, got 0"),
        (lambda: Emissivity.preset("modern"), "no emissivity preset 'modern'; there are paper, consistent"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(RecipeError) as caught:
        call()
    assert str(caught.value) == message
