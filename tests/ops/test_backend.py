"""The array's own library computes, and only the standard's functions are asked of it."""

import ast
import builtins
from pathlib import Path

import array_api_compat.numpy
import array_api_strict
import numpy as np
import pytest

import deepstrata.ops
from deepstrata.ops import backend
from deepstrata.ops.preprocess import Affine
from deepstrata.schemas.errors import ClusterError

FILES = sorted(Path(deepstrata.ops.__file__).parent.glob("*.py"))


def names_asked_of_xp():
    """Return every ``name`` of ``xp.name`` and ``namespace(...).name`` in ops."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            base = node.value
            is_call = isinstance(base, ast.Call) and getattr(base.func, "id", "") == "namespace"
            if is_call or (isinstance(base, ast.Name) and base.id == "xp"):
                yield path.name, node.attr


def test_only_the_standard_is_asked_of_array_libraries():
    asked = set(names_asked_of_xp())
    assert len(asked) > 30
    for where, name in asked:
        assert hasattr(array_api_strict, name), f"{where}: xp.{name} is not in the standard"
        assert hasattr(array_api_compat.numpy, name), f"{where}: NumPy has no xp.{name}"
        assert name not in {"vecdot", "matvec", "vecmat", "einsum_path", "errstate"}, where


def test_ops_import_what_they_may_and_cupy_in_one_place():
    allowed = {"deepstrata", "numpy", "numba", "scipy", "array_api_compat", "threadpoolctl"}
    allowed |= {"llvmlite", "sklearn"}  # numba's own, and the solver of linear_svm
    standard = {"math", "typing", "functools", "collections", "importlib", "itertools", "os"}
    standard |= {"ctypes", "operator", "pathlib"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
                assert node.level == 0
            else:
                continue
            for module in modules:
                root = module.split(".")[0]
                is_late_cupy = root == "cupy" and path.name == "backend.py"
                assert root in allowed | standard or is_late_cupy, f"{path.name}: {module}"
                if root == "deepstrata":
                    assert module.split(".")[1] in {"ops", "schemas"}, f"{path.name}: {module}"


def test_device_array_leaves_numpy_alone(monkeypatch):
    x = np.ones(3)
    assert backend.device_array(x, "numpy") is x
    real = builtins.__import__

    def without_cupy(name, *args, **kwargs):
        if name == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cupy)
    with pytest.raises(ClusterError, match=r"deepstrata\[gpu\]"):
        backend.device_array(x, "cupy")


def test_to_numpy():
    x = np.ones(3)
    assert backend.to_numpy(x) is x
    made = backend.to_numpy(array_api_strict.ones(3))
    assert type(made) is np.ndarray


def test_product_takes_transposes_and_buffers():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(8.0).reshape(2, 4)
    out = np.empty((3, 4))
    assert backend.product(a.T, b, out) is out
    np.testing.assert_array_equal(out, a.T @ b)
    xp = array_api_strict
    out = xp.empty((3, 4), dtype=xp.float64)
    assert backend.product(xp.asarray(a).T, xp.asarray(b), out) is out
    np.testing.assert_array_equal(np.asarray(out), a.T @ b)


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
def test_scratch_lends_the_same_memory_again(xp):
    scratch, like = backend.Scratch(), xp.zeros(1, dtype=xp.float32)
    first = scratch.empty("a", (4, 3), like)
    first[...] = 1.0
    again = scratch.empty("a", (2, 3), like)
    assert again.shape == (2, 3)
    assert bool(xp.all(again == 1.0))
    other = scratch.empty("b", (2, 3), like)
    other[...] = 2.0
    assert bool(xp.all(again == 1.0))
    assert scratch.empty("a", (5, 5), like).shape == (5, 5)
    assert scratch.empty("a", (2,), xp.zeros(1, dtype=xp.float64)).dtype == xp.float64


def test_is_fast_takes_float32_in_c_order_only():
    x = np.zeros((3, 4), np.float32)
    assert backend.is_fast(x, x[1])
    assert not backend.is_fast(x, x.T)
    assert not backend.is_fast(x.astype(np.float64))
    assert not backend.is_fast(array_api_strict.zeros(3))


def at_an_odd_byte(x: np.ndarray) -> np.ndarray:
    """Return a copy that begins where one that came over the network may."""
    found = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def test_aligned_copies_what_is_not():
    odd, even = at_an_odd_byte(np.arange(6.0).reshape(2, 3)), np.ones(3)
    assert not odd.flags.aligned
    given = {"pair": (Affine(odd, even), [odd]), "text": "x"}
    found = backend.aligned(given)
    affine, (last,) = found["pair"]
    assert type(affine) is Affine
    assert affine.shift.flags.aligned
    assert affine.divisor is even
    assert last.flags.aligned
    np.testing.assert_array_equal(last, odd)
    assert found["text"] == "x"


def test_aligned_leaves_what_is():
    given = (Affine(np.ones(3), np.ones(3)), 1, "x")
    assert backend.aligned(given) is given
