"""Classes: names of things as numbers, with the CF attributes that say what each stands for."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_CLASSES = 1000
"""Where numbers could be classes, more different ones than this are taken for something else."""


def is_whole(text: str) -> bool:
    """Tell whether ``text`` is a whole number."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit()


def sorted_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the different names in their order: by number where all are whole numbers."""
    found = sorted(set(texts))
    return tuple(sorted(found, key=int) if all(map(is_whole, found)) else found)


def flag_attrs(names: Sequence[str]) -> dict[str, Any]:
    """Return CF ``flag_values`` and ``flag_meanings``; spaces in a name become underscores."""
    meanings = " ".join("_".join(name.split()) for name in names)
    return {"flag_values": list(range(len(names))), "flag_meanings": meanings}


def numbers_of(texts: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the place of each text in ``names``."""
    places = {name: i for i, name in enumerate(names)}
    return np.array([places[text] for text in texts], dtype=np.int64)
