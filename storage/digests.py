"""Digests of content: the same for the same numbers, whatever file they came from."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def canonical(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in C order and little-endian; the same one if it already is."""
    return np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="C")


def digest(values: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of named arrays: of names in sorted order, types, shapes and bytes.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    total = hashlib.sha256()
    for name in sorted(values):
        array = np.asarray(values[name])
        kind = "str" if array.dtype.kind in "OUT" else array.dtype.newbyteorder("=").name
        total.update(repr((name, kind, array.shape)).encode())
        if kind == "str":
            for item in array.ravel().tolist():
                text = str(item).encode()
                total.update(len(text).to_bytes(8, "little") + text)
        else:
            total.update(canonical(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()
