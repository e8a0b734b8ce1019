"""Marginalised denoising autoencoders against corruptions that are drawn, and by enumeration."""

from itertools import product

import numpy as np
import pytest

from deepstrata.ops import marginalised, models
from deepstrata.ops.marginalised import Subset
from deepstrata.ops.partials import merge
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.models import MSDA

RANDOM = np.random.default_rng(0)
X = (RANDOM.random((40, 5)) < 0.4).astype(np.float32) * RANDOM.random((40, 5), np.float32)
WHOLE = Subset(None, 5, None)


def least_squares(x, targets, noise, ridge):
    """Fit all corruptions of all samples, each weighted by its probability."""
    inputs, wanted, weights = [], [], []
    for kept in product((0, 1), repeat=x.shape[1]):
        chance = np.prod([1 - noise if k else noise for k in kept])
        inputs.append(np.c_[x * np.array(kept), np.ones(len(x))])
        wanted.append(targets)
        weights += [chance] * len(x)
    a, b, w = np.concatenate(inputs), np.concatenate(wanted), np.array(weights)[:, None]
    penalty = np.diag([ridge] * x.shape[1] + [0])
    return np.linalg.solve(a.T @ (w * a) + penalty, a.T @ (w * b))


@pytest.mark.parametrize("noise", [0.2, 0.7])
def test_a_layer_is_the_least_squares_fit_of_every_corruption(noise: float) -> None:
    model = MSDA(noise=noise, ridge=0.01)
    found = marginalised.solve(model, WHOLE, marginalised.second_moments(X, WHOLE))
    wanted = least_squares(X.astype(np.float64), X, noise, 0.01)
    np.testing.assert_allclose(found.weights, wanted[:-1], atol=1e-5)
    np.testing.assert_allclose(found.bias, wanted[-1], atol=1e-5)


def test_the_targets_are_reconstructed_from_each_subset_and_averaged() -> None:
    model = MSDA(noise=0.3, ridge=0.01, targets=2)
    counts, order = np.array([3, 9, 1, 9, 2]), np.array([4, 1, 0, 2, 3])
    pieces = marginalised.subsets(model, counts, order)
    assert [piece.size for piece in pieces] == [2, 2, 1]
    solved, wanted = [], np.zeros((6, 2))
    for piece in pieces:
        solved.append(marginalised.solve(model, piece, marginalised.second_moments(X, piece)))
        own = piece.columns[: piece.size]
        fit = least_squares(X[:, own].astype(np.float64), X[:, [1, 3]], 0.3, 0.01)
        wanted[own] = fit[:-1] / 3
        wanted[-1] += fit[-1] / 3
    found = marginalised.assemble(5, pieces, solved)
    np.testing.assert_allclose(found.weights, wanted[:-1], atol=1e-5)
    np.testing.assert_allclose(found.bias, wanted[-1], atol=1e-5)


def test_sums_of_parts_are_those_of_the_whole_and_go_into_their_own_buffer() -> None:
    first, second = marginalised.second_moments(X[:25], WHOLE), X[25:]
    before = first.total.products.copy()
    apart = merge(first, marginalised.second_moments(second, WHOLE))
    np.testing.assert_array_equal(before, first.total.products)
    added = marginalised.second_moments(second, WHOLE, first)
    assert added.total.products is first.total.products
    for sums in (apart, added):
        assert sums.n == 40
        np.testing.assert_allclose(sums.total.products, X.T @ X, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums.total.totals, X.sum(axis=0), rtol=1e-6)


def test_a_feature_that_never_occurs_says_nothing() -> None:
    x = X.copy()
    x[:, 2] = 0
    found = marginalised.solve(MSDA(), WHOLE, marginalised.second_moments(x, WHOLE))
    assert not found.weights[2].any()
    np.testing.assert_allclose(found.weights[:, 2], 0, atol=1e-7)


def test_the_code_is_the_input_and_every_layer() -> None:
    model = MSDA(depth=2, targets=3)
    assert models.code_width(model, 5) == 5 + 3 + 3
    assert models.code_width(model, 5, layer=0) == 3
    params = tuple(
        type(spec)(*(RANDOM.standard_normal(leaf.shape).astype(np.float32) for leaf in spec))
        for spec in models.shapes(model, 5)
    )
    first = np.tanh(X @ params[0].weights + params[0].bias)
    second = np.tanh(first @ params[1].weights + params[1].bias)
    code = models.encode(model, params, X)
    np.testing.assert_allclose(code, np.c_[X, first, second], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(models.encode(model, params, X, 1), code[:, 8:])
    with pytest.raises(DeclarationError, match="layers 0 to 1; found layer 2"):
        models.encode(model, params, X, 2)
