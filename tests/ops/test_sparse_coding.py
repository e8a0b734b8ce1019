"""Sparse coding against scikit-learn's lasso, FISTA's bound, finite differences, enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import sparse_encode

from deepstrata.ops import models, sparse_coding
from deepstrata.ops.kernels import soft_threshold
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.sparse_coding import SparseCodingParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.sparse import SparseCoding

N, PENALTY = 12, 0.8
SIZES = [(10, 16), (40, 30), (64, 12)]  # fewer atoms than features, more, many more


def problem(atoms, features, n=N, dtype=np.float32):
    dictionary = sparse_coding.draw_atoms(atoms, features, Key(1))
    x = normal(Key(2), np.arange(n), features)
    return dictionary.astype(dtype), x.astype(dtype)


def objective(dictionary, x, z, penalty=PENALTY):
    dictionary, x, z = (a.astype(np.float64) for a in (dictionary, x, z))
    return ((x - z @ dictionary) ** 2).sum(axis=1) + penalty * np.abs(z).sum(axis=1)


def lasso(dictionary, x, penalty=PENALTY):
    """scikit-learn halves the squared error."""
    x, dictionary = x.astype(np.float64), dictionary.astype(np.float64)
    return sparse_encode(x, dictionary, algorithm="lasso_cd", alpha=penalty / 2, max_iter=20_000)


def fista(dictionary, x, steps, penalty=PENALTY, **more):
    start = np.zeros((len(x), len(dictionary)), x.dtype)
    return sparse_coding.infer(sparse_coding.dense(dictionary), x, start, penalty, steps, **more)


@pytest.mark.parametrize(("atoms", "features"), SIZES)
@pytest.mark.parametrize("method", [fista, "line_search"])
def test_codes_are_as_good_as_scikit_learns(atoms, features, method):
    dictionary, x = problem(atoms, features)
    if method == "line_search":
        z = sparse_coding.line_search(dictionary, x, PENALTY, 300)
    else:
        z = method(dictionary, x, 300)
    best = objective(dictionary, x, lasso(dictionary, x)).sum()
    assert z.dtype == np.float32
    assert objective(dictionary, x, z).sum() == pytest.approx(best, rel=1e-4)
    assert 0.05 < (z == 0).mean() < 0.95


@pytest.mark.parametrize(("atoms", "features"), SIZES)
def test_fista_keeps_its_bound(atoms, features):
    """``F(z) - F* <= 2 L |z0 - z*|**2 / (k + 1)**2`` (Beck & Teboulle 2009, theorem 4.4)."""
    dictionary, x = problem(atoms, features, dtype=np.float64)
    best = lasso(dictionary, x)
    lipschitz = 2.0 * sparse_coding.MARGIN * np.linalg.norm(dictionary, 2) ** 2
    for steps in (1, 2, 5, 20, 80):
        z = fista(dictionary, x, steps)
        gap = objective(dictionary, x, z) - objective(dictionary, x, best)
        bound = 2 * lipschitz * (best**2).sum(axis=1) / (steps + 1) ** 2
        assert (gap <= bound + 1e-6).all(), steps


@given(
    st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32), st.sampled_from([1e-3, 0.5, 20])
)
@settings(max_examples=40)
def test_line_searches_never_raise_the_objective(atoms, features, seed, penalty):
    dictionary = sparse_coding.draw_atoms(atoms, features, Key(seed)).astype(np.float64)
    x = 3.0 * normal(Key(seed + 1), np.arange(3), features).astype(np.float64)
    before = objective(dictionary, x, np.zeros((3, atoms)), penalty)
    for steps in (1, 2, 3, 8):
        z = sparse_coding.line_search(dictionary, x, penalty, steps)
        after = objective(dictionary, x, z, penalty)
        assert (after <= before * (1 + 1e-12) + 1e-12).all()
        before = after


def test_the_line_search_is_exact():
    z = normal(Key(5), np.arange(50), 6).astype(np.float64)
    way = normal(Key(6), np.arange(50), 6).astype(np.float64)
    z[:, 0], way[:, 1], way[7] = 0.0, 0.0, 0.0
    bend = 2 * uniform(Key(7), np.arange(50), 1).astype(np.float64)
    slope = -3 * uniform(Key(8), np.arange(50), 1).astype(np.float64) * way.any(1, keepdims=True)
    found = sparse_coding._best_on_line(z, way, slope, bend, 0.3)
    assert found[7] == 0

    def value(t):
        return slope * t + 0.5 * bend * t**2 + 0.3 * np.abs(z + t * way).sum(1, keepdims=True)

    assert (found > 0).mean() > 0.5
    for t in np.concatenate([[0.0, 1e-4, 1e4], np.linspace(0, 30, 400)]):
        assert (value(found) <= value(t) + 1e-9).all(), t


@pytest.mark.parametrize(("atoms", "features"), SIZES)
def test_the_largest_eigenvalue_is_met_from_below(atoms, features):
    dictionary, x = problem(atoms, features)
    found = sparse_coding.largest_eigenvalue(sparse_coding.dense(dictionary), (1, atoms), x)
    exact = np.linalg.norm(dictionary, 2) ** 2
    assert 0.95 * exact < found < exact * (1 + 1e-5)


@pytest.mark.parametrize(("atoms", "features"), SIZES)
def test_missing_values_are_left_to_the_code(atoms, features):
    """A sample of which a part is missing has the code of a dictionary without that part."""
    dictionary, x = problem(atoms, features)
    there = uniform(Key(3), np.arange(1), features)[0] < 0.7
    mask = np.broadcast_to(there, x.shape)
    masked = np.where(mask, x, np.float32(0))
    cut, seen = dictionary[:, there], x[:, there]
    best = objective(cut, seen, lasso(cut, seen)).sum()
    for z in (
        fista(dictionary, masked, 300, mask=mask),
        sparse_coding.line_search(dictionary, masked, PENALTY, 300, mask),
    ):
        assert objective(cut, seen, z).sum() == pytest.approx(best, rel=1e-4)


def test_the_gradient_is_that_of_the_least_energy():
    """At the best codes the energy's slope is that with the codes held fixed (Danskin)."""
    model = SparseCoding(atoms=14, penalty=PENALTY, steps=3000)
    dictionary, x = problem(14, 9, dtype=np.float64)
    batch, way = Batch(np.arange(N), x), normal(Key(4), np.arange(14), 9)
    params = SparseCodingParams(dictionary)
    partial, _ = models.gradient(model, params, batch, Key(0))
    ends = [
        models.evaluate(model, SparseCodingParams(dictionary + s * way), batch)["energy"]
        for s in (1e-5, -1e-5)
    ]
    along = (partial.total.dictionary * way).sum()
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    found = objective(dictionary, x, models.encode(model, params, x)).sum()
    assert partial.stats["energy"] == pytest.approx(found, rel=1e-9)


def test_atoms_are_held_in_the_ball_and_on_the_sphere():
    atoms = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], np.float32)
    ball, sphere = atoms.copy(), atoms.copy()
    sparse_coding.hold_in_ball(ball)
    sparse_coding.hold_on_sphere(sphere)
    np.testing.assert_allclose(ball, [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(sphere, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_soft_threshold():
    x = np.array([-2.0, -0.5, 0.0, 0.5, 2.0], np.float32)
    np.testing.assert_array_equal(soft_threshold(x, 0.5), [-1.5, 0, 0, 0, 1.5])


def test_there_is_one_layer_to_encode_with():
    model = SparseCoding(atoms=4)
    params = models.init(model, 3, Key(0))
    with pytest.raises(
        DeclarationError, match="sparse_coding model has one layer, 0; found layer 1"
    ):
        models.encode(model, params, np.zeros((1, 3), np.float32), 1)
