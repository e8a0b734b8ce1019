"""A product that accumulates, ``C = beta C + alpha A' B``, by the BLAS that NumPy computes with.

NumPy offers no ``beta``, and SciPy carries another build of OpenBLAS, which is slower here. NumPy's
wheels export the function under a name of their own; where it is not found (NumPy built against
another BLAS) ``find`` gives None, and callers add up by themselves, with other last bits.

Letters: N samples, V rows and H columns of the sum.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from deepstrata.schemas.trees import Array

SYMBOL = "scipy_cblas_sgemm64_"
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
_SIZE, _REAL, _ENUM, _ARRAY = ctypes.c_int64, ctypes.c_float, ctypes.c_int, ctypes.c_void_p


@cache
def find() -> Callable[..., None] | None:
    """Return ``cblas_sgemm`` of NumPy's own OpenBLAS, or None; it lets go of the GIL."""
    root = Path(np.__file__).parent
    for library in threadpool_info():
        path = Path(library["filepath"])
        if library["internal_api"] == "openblas" and path.parent.parent in (root, root.parent):
            function = getattr(ctypes.CDLL(str(path)), SYMBOL, None)
            if function is not None:
                function.argtypes = [*[_ENUM] * 3, *[_SIZE] * 3, _REAL]
                function.argtypes += [_ARRAY, _SIZE, _ARRAY, _SIZE, _REAL, _ARRAY, _SIZE]
                function.restype = None
                found: Callable[..., None] = function
                return found
    return None


def add_product(a: Array, b: Array, out: Array, scale: float, keep: float) -> bool:
    """Write ``keep * out + scale * a' b`` to ``out``; return False, doing nothing, if it cannot.

    Parameters
    ----------
    a, b, out
        (N, V), (N, H) and (V, H), float32, C-contiguous NumPy arrays.
    """
    gemm = find()
    if gemm is None:
        return False
    (n, rows), columns = a.shape, b.shape[1]
    first, second, third = (array.ctypes.data for array in (a, b, out))
    layout = (ROW_MAJOR, TRANSPOSED, PLAIN)
    gemm(*layout, rows, columns, n, scale, first, rows, second, columns, keep, third, columns)
    return True
