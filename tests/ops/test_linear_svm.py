"""Linear support vector machines against scikit-learn's on the plain features."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from deepstrata.ops import linear_svm
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key

RANDOM = np.random.default_rng(0)


def samples(n: int, features: int, classes: int):
    labels = np.arange(n) % classes
    x = RANDOM.standard_normal((n, features)) + RANDOM.standard_normal((classes, features))[labels]
    x[1] = x[classes + 1]  # a direction less than there are samples
    return x.astype(np.float32), labels


@pytest.mark.parametrize("features", [8, 200])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_machine_of_the_plain_features(features: int, classes: int) -> None:
    x, labels = samples(60, features, classes)
    found = linear_svm.train(x, labels, (0.01,), 3, Key(0))
    wanted = LinearSVC(C=0.01, dual=False, tol=1e-8).fit(x.astype(np.float64), labels)
    np.testing.assert_allclose(found.weights, wanted.coef_, atol=1e-3)
    np.testing.assert_allclose(found.bias, wanted.intercept_, atol=1e-3)
    np.testing.assert_array_equal(linear_svm.classify(found, x), wanted.predict(x))


def test_square_roots_keep_signs() -> None:
    x = np.array([[4.0, -9.0, 0.0]], np.float32)
    found = linear_svm.square_roots(x)
    np.testing.assert_array_equal(found, [[2.0, -3.0, 0.0]])
    assert found.dtype == np.float32


def test_the_cost_that_errs_least_is_chosen() -> None:
    x, labels = samples(90, 30, 2)
    noisy = np.where(RANDOM.random(90) < 0.2, 1 - labels, labels)
    costs = (1e-4, 1e-2, 1.0)
    found = linear_svm.train(x, noisy, costs, 3, Key(1))
    alone = {c: linear_svm.train(x, noisy, (c,), 3, Key(1)).error for c in costs}
    assert alone[float(found.cost)] == min(alone.values()) == found.error
    assert len(set(alone.values())) > 1


def test_short_samples_have_the_same_products() -> None:
    x, _ = samples(20, 50, 2)
    short, back = linear_svm.in_span(x)
    assert short.shape == (20, 19)
    wanted = x.astype(np.float64)
    np.testing.assert_allclose(short @ short.T, wanted @ wanted.T, atol=1e-8)
    np.testing.assert_allclose(wanted @ (wanted.T @ back), short, atol=1e-8)


def test_classes_with_too_few_samples_are_named() -> None:
    x, _ = samples(10, 3, 2)
    with pytest.raises(DataError, match="with 3 samples each, found 8 of class 0, 2 of class 4"):
        linear_svm.train(x, np.array([0] * 8 + [4] * 2), (1.0,), 3, Key(0))
    with pytest.raises(DataError, match="two classes or more"):
        linear_svm.train(x, np.zeros(10, np.int64), (1.0,), 3, Key(0))
