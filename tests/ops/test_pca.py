"""Principal components against scikit-learn's, and against least squares sample by sample."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from deepstrata.ops import gaps, pca
from deepstrata.ops.gaps import Gaps
from deepstrata.ops.partials import Batch
from deepstrata.ops.pca import Basis
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key


def samples(n, seed, features=6):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(features, features)) * np.linspace(1, 3, features)
    return (random.normal(size=(n, features)) @ mixed + 5).astype(np.float32)


def batch_of(x, mask=None):
    return Batch(np.arange(len(x)), x, mask=mask)


def pieces(x, mask=None, cuts=(30, 31)):
    masks = [None] * 9 if mask is None else np.split(mask, cuts)
    return [batch_of(*pair) for pair in zip(np.split(x, cuts), masks, strict=False)]


def mean_of(x, mask=None):
    there = np.ones(x.shape, bool) if mask is None else mask
    sums = np.where(there, x.astype(np.float64), 0).sum(axis=0)
    return sums / np.maximum(there.sum(axis=0), 1)


def from_features(x, components, mask=None):
    mean = mean_of(x, mask)
    found = pca.merge(*(pca.scatter(piece, mean) for piece in pieces(x, mask)))
    return Basis(mean, pca.of_features(found, components))


def from_snapshots(x, components, mask=None, cuts=(3, 10)):
    mean = mean_of(x, mask)
    runs = [pca.deviations(piece, mean) for piece in pieces(x, mask, cuts)]
    sizes = tuple(map(len, runs))
    blocks = [a @ b.T for i, a in enumerate(runs) for b in runs[i:]]
    shares = np.split(pca.snapshots(pca.assemble(sizes, *blocks), components), np.cumsum(sizes))
    parts = [run.T @ share for run, share in zip(runs, shares, strict=False)]
    return Basis(mean, pca.of_samples(pca.merge(*parts)))


def same_plane(found, wanted, rtol=1e-8):
    overlaps = np.linalg.svd(found.T @ wanted, compute_uv=False)
    np.testing.assert_allclose(overlaps, 1, rtol=rtol)


@pytest.mark.parametrize("components", [1, 3, 6])
def test_the_error_is_that_of_scikit_learns_projections(components):
    seen, other = samples(200, 0), samples(50, 1)
    found = from_features(seen, components)
    theirs = PCA(components).fit(seen.astype(np.float64))
    for x in (seen, other):
        projected = theirs.inverse_transform(theirs.transform(x.astype(np.float64)))
        measured = pca.evaluate(found, batch_of(x), None)
        wanted = ((x - projected) ** 2).sum()
        assert measured["squared_error"] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        assert measured["n"] == len(x)
    overlaps = np.abs((found.components * theirs.components_.T).sum(0))
    np.testing.assert_allclose(overlaps, 1, rtol=1e-6)


@pytest.mark.parametrize("components", [1, 4, 19])
def test_snapshots_give_what_the_features_products_give(components):
    x = samples(20, 2, features=50)
    found = from_snapshots(x, components)
    theirs = PCA(components).fit(x.astype(np.float64))
    same_plane(found.components, theirs.components_.T)
    unit = found.components.T @ found.components
    np.testing.assert_allclose(unit, np.eye(components), atol=1e-14)
    overlaps = np.abs((found.components[:, 0] * theirs.components_[0]).sum())
    assert overlaps == pytest.approx(1, rel=1e-10)  # the greatest variance comes first


def test_samples_that_repeat_give_no_infinities():
    x = np.repeat(samples(3, 3, features=12), 4, axis=0)
    found = from_snapshots(x, 5)  # of which only two have any variance
    assert np.isfinite(found.components).all()
    assert pca.evaluate(found, batch_of(x), None)["squared_error"] < 1e-6


def test_both_ways_agree_where_values_are_absent():
    x = samples(40, 4, features=12)
    mask = np.random.default_rng(5).random(x.shape) < 0.8
    dirty = np.where(mask, x, np.float32(np.nan))
    found = from_features(dirty, 3, mask), from_snapshots(dirty, 3, mask)
    same_plane(found[0].components, found[1].components)
    for basis in found:
        assert np.isfinite(pca.project(basis, batch_of(dirty, mask))).all()


def test_features_that_are_never_present_change_nothing():
    sea = samples(25, 6, features=30)
    land = np.arange(40) % 4 == 1
    x = np.full((25, 40), np.nan, np.float32)
    x[:, ~land] = sea
    mask = np.broadcast_to(~land, x.shape)
    found, wanted = from_snapshots(x, 4, mask), from_snapshots(sea, 4)
    assert np.abs(found.components[land]).max() < 1e-15
    same_plane(found.components[~land], wanted.components)
    made = pca.project(found, batch_of(x, mask))
    np.testing.assert_allclose(made[:, ~land], pca.project(wanted, batch_of(sea)), atol=1e-5)
    masked = pca.evaluate(found, batch_of(x, mask), None)
    alone = pca.evaluate(wanted, batch_of(sea), None)
    assert masked["squared_error"] == pytest.approx(alone["squared_error"], rel=1e-5)


def test_a_code_is_the_least_squares_fit_to_what_is_present():
    basis = from_features(samples(200, 0), 3)
    x = samples(9, 7)
    mask = np.random.default_rng(8).random(x.shape) < 0.7
    made = pca.project(basis, batch_of(x, mask))
    for row, there, found in zip(x, mask, made, strict=True):
        code, *_ = np.linalg.lstsq(
            basis.components[there], (row - basis.mean)[there], rcond=None
        )  # the shortest where values are fewer than components
        np.testing.assert_allclose(found, basis.mean + basis.components @ code, rtol=1e-5)


def test_gaps_are_filled_from_the_components_and_from_the_mean():
    random = np.random.default_rng(9)
    driven = 5 + 3 * random.normal(size=(700, 1)) @ random.normal(size=(1, 6))
    noisy = driven + 0.3 * random.normal(size=(700, 6))
    seen, x = np.split(noisy.astype(np.float32), [300])
    basis = from_features(seen, 1)
    drawn = Gaps(0.15, Key(1))
    found = pca.evaluate(basis, batch_of(x), drawn)
    left, hidden = gaps.hide(batch_of(x), drawn)
    made = pca.project(basis, left)
    assert found["gaps"] == hidden.sum()
    assert found["gap_squared_error"] == pytest.approx(((x - made)[hidden] ** 2).sum(), rel=1e-6)
    alone = (x - basis.mean)[hidden]
    assert found["gap_variance"] == pytest.approx((alone**2).sum(), rel=1e-5)
    assert found["gap_squared_error"] < 0.1 * found["gap_variance"]
    whole = pca.evaluate(basis, batch_of(x), None)
    assert found["squared_error"] == whole["squared_error"]  # gaps leave it alone


@pytest.mark.parametrize(("samples_", "features", "most"), [(200, 6, 6), (5, 9, 4)])
def test_more_components_than_there_are_are_refused(samples_, features, most):
    pca.check("evaluate", most, samples_, features)
    message = f"stage 'evaluate': pca={most + 1}: expected at most {most} components"
    with pytest.raises(DeclarationError, match=message):
        pca.check("evaluate", most + 1, samples_, features)
