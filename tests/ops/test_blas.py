"""Accumulating products: BLAS against NumPy, and what happens where BLAS is not found."""

import numpy as np
import pytest

from deepstrata.ops import blas
from deepstrata.ops.backend import add_product
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key


def matrices(n: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        normal(Key(1), np.arange(n), rows),
        normal(Key(2), np.arange(n), columns),
        normal(Key(3), np.arange(rows), columns),
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (200, 784, 100), (7, 65, 130), (0, 3, 4)])
@pytest.mark.parametrize(("scale", "keep"), [(1.0, 0.0), (0.01, 0.9), (-2.0, 1.0), (0.5, 0.0)])
def test_adds_the_product_to_what_is_kept(shape, scale, keep) -> None:
    a, b, out = matrices(*shape)
    expected = keep * out.astype(np.float64) + scale * (a.T.astype(np.float64) @ b)
    assert add_product(a, b, out, scale, keep) is out
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def test_without_blas_it_is_still_right(monkeypatch) -> None:
    monkeypatch.setattr(blas, "find", lambda: None)
    a, b, out = matrices(20, 30, 40)
    expected = 0.5 * out + 0.1 * (a.T @ b)
    np.testing.assert_allclose(add_product(a, b, out, 0.1, 0.5), expected, rtol=1e-6, atol=1e-6)


def test_doubles_and_strided_arrays_are_left_to_numpy() -> None:
    a, b, out = (m.astype(np.float64) for m in matrices(5, 6, 7))
    expected = 0.5 * out + 0.1 * (a.T @ b)
    np.testing.assert_allclose(add_product(a, b, out, 0.1, 0.5), expected, rtol=1e-12)
    a, b, out = (np.repeat(m, 2, axis=1)[:, ::2] for m in matrices(5, 6, 7))
    expected = 0.5 * out + 0.1 * (a.T @ b)
    np.testing.assert_allclose(add_product(a, b, out, 0.1, 0.5), expected, rtol=1e-5)


def test_numpy_wheels_have_it() -> None:
    """Where this fails, NumPy's build has changed: products are right and 2 % slower."""
    if "openblas" not in str(np.show_config("dicts")["Build Dependencies"]["blas"]["name"]):
        pytest.skip("this NumPy computes with another BLAS than OpenBLAS")
    assert blas.find() is not None
