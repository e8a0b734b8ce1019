"""Which library computes: the array's own. CuPy is imported here only, and late."""

import importlib.util
import math
import os
from typing import Any, Literal

import array_api_compat
import array_api_compat.numpy
import numpy as np

from deepstrata.ops import blas
from deepstrata.schemas.errors import ClusterError
from deepstrata.schemas.trees import Array, Tree, tree_map

Backend = Literal["numpy", "cupy"]
Namespace = Any  #: a module of the array API standard


def namespace(x: Array) -> Namespace:
    """Return the array API namespace of ``x``; ask once per public op."""
    return array_api_compat.numpy if type(x) is np.ndarray else array_api_compat.array_namespace(x)


def is_numpy(x: Array) -> bool:
    """Tell whether ``x`` is a NumPy array."""
    return isinstance(x, np.ndarray)


def is_fast(*arrays: Array) -> bool:
    """Tell whether the compiled kernels take these arrays: NumPy, float32, C-contiguous."""
    return all(
        isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous for x in arrays
    )


def aligned(value: Any) -> Any:
    """Return ``value`` with every NumPy array in it at an address that its type may have.

    An array that came over the network may begin at any byte. NumPy then copies it for each matrix
    product, and into an order of its own choice: another routine of BLAS, and other last bits.

    Parameters
    ----------
    value
        Anything; tuples, lists and dicts are looked into.
    """
    if isinstance(value, np.ndarray):
        return value if value.flags.aligned else value.copy(order="K")
    if isinstance(value, dict):
        return {name: aligned(item) for name, item in value.items()}
    if not isinstance(value, tuple | list):
        return value
    items = [aligned(item) for item in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def to_numpy(x: Array) -> Array:
    """Return ``x`` as a NumPy array; one on a GPU is copied, a NumPy array is itself."""
    if isinstance(x, np.ndarray):
        return x
    return x.get() if array_api_compat.is_cupy_array(x) else np.asarray(x)


def device_array(x: Array, backend: Backend) -> Array:
    """Return ``x`` as an array of ``backend``, copied only where it has to move.

    Raises
    ------
    ClusterError
        CuPy is asked for and not installed where this runs.
    """
    if backend == "numpy":
        return to_numpy(x)
    try:
        import cupy
    except ImportError as error:
        raise ClusterError(
            f"the pipeline asks for CuPy arrays, and this process cannot import cupy ({error}); "
            "install deepstrata[gpu] on every worker"
        ) from None
    return cupy.asarray(x)


def cuda_device() -> str | None:
    """Return the name of the GPU that this process was given, or None.

    A worker of a CUDA cluster is given one by ``CUDA_VISIBLE_DEVICES``; a process without that
    variable computes on the CPU, whatever the machine has.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES") or importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    if not cupy.cuda.runtime.getDeviceCount():
        return None
    return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())


def on_host(tree: Tree) -> Tree:
    """Return a tree of NumPy arrays."""
    return tree_map(to_numpy, tree)


def on_device(tree: Tree, backend: Backend) -> Tree:
    """Return a tree of arrays of ``backend``."""
    return tree_map(lambda leaf: device_array(leaf, backend), tree)


def store(value: Array, out: Array | None) -> Array:
    """Return ``value``, or ``out`` filled with it."""
    if out is None:
        return value
    out[...] = value
    return out


def negative(x: Array, out: Array) -> Array:
    """Write ``-x`` to ``out`` and return it."""
    return np.negative(x, out=out) if is_numpy(out) else store(-x, out)


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return the matrix product ``a @ b``, written straight into ``out`` where that is possible.

    Parameters
    ----------
    a, b
        (N, K) and (K, M); transposed views cost nothing.
    out
        (N, M), overwritten.
    """
    if out is not None and (is_numpy(out) or array_api_compat.is_cupy_array(out)):
        return namespace(a).matmul(a, b, out=out)
    return store(a @ b, out)


def add_product(a: Array, b: Array, out: Array, scale: float, keep: float) -> Array:
    """Write ``keep * out + scale * a.T @ b`` to ``out`` and return it.

    Parameters
    ----------
    a, b, out
        (N, V), (N, H) and (V, H).
    """
    if keep == 0.0 and scale == 1.0:
        return product(a.T, b, out)
    if not (is_fast(a, b, out) and blas.add_product(a, b, out, scale, keep)):
        store(keep * out + scale * (a.T @ b), out)
    return out


class Scratch:
    """Buffers that a caller lends to the ops it calls in a loop, so that they allocate once.

    What an op returns never lies in one. Not for two threads at a time.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}
        self._within: dict[str, Scratch] = {}

    def within(self, name: str) -> "Scratch":
        """Return the buffers of a part, whose names are its own."""
        return self._within.setdefault(name, Scratch())

    def empty(self, name: str, shape: tuple[int, ...], like: Array) -> Array:
        """Return an array of ``shape``, of the kind and dtype of ``like``, with any content."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or held.shape[0] < size or held.dtype != like.dtype:
            xp = namespace(like)
            device = array_api_compat.device(like)
            held = self._buffers[name] = xp.empty((size,), dtype=like.dtype, device=device)
        return namespace(held).reshape(held[:size], shape)
