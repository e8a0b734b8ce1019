"""What computes: the part that can change a bit, and the rest for people."""

import os
import platform
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from deepstrata.ops import blas
from deepstrata.ops.backend import cuda_device
from deepstrata.schemas.runs import Environment

#: Packages whose version is noted for people.
NOTED = ("deepstrata", "dask", "distributed", "xarray", "zarr", "zarrs", "pydantic")
#: Modules of pipelines that can change a bit of a result; the rest only shows or starts things.
COMPUTING = (
    "ahead",
    "context",
    "control",
    "divergence",
    "feeds",
    "graph",
    "rounds",
    "sources",
    "strategies",
    "training",
    "windows",
)
#: What a worker's process should say of memory, or each NumPy temporary costs fresh pages.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}


@lru_cache(maxsize=64)
def package_version(name: str) -> str:
    """Return the version of an installed package, or ``absent``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 of the sources that a result depends on."""
    root = Path(__file__).parent.parent
    folders = [root / name for name in ("ops", "schemas", "storage", "pipelines/lowering")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    files += [root / "pipelines" / f"{name}.py" for name in COMPUTING]
    digest = sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def blas_bits() -> dict[str, str]:
    """Return library, version, kernel and threads of every BLAS in this process."""
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401

    found: dict[str, str] = {}
    for library in threadpool_info():
        if library["user_api"] != "blas":
            continue
        owner = Path(library["filepath"]).parent.name.partition(".")[0] or library["prefix"]
        found[f"blas of {owner}"] = (
            " ".join(
                str(library.get(part, "?")) for part in ("internal_api", "version", "architecture")
            )
            + f", {library['num_threads']} thread(s)"
        )
    return found


def describe() -> dict[str, Any]:
    """Describe this process; runs in workers and in the client alike."""
    bits = {
        "numpy": package_version("numpy"),
        "numba": package_version("numba"),
        "machine": platform.machine(),
        "accumulation": "blas" if blas.find() else "none",
        "device": cuda_device() or "cpu",
    } | blas_bits()
    notes = {name: package_version(name) for name in NOTED} | {
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    return {
        "bits": bits,
        "notes": notes,
        "code": code_digest(),
        "allocator": {name: os.environ.get(name, "") for name in ALLOCATOR},
    }


def environment(description: dict[str, Any]) -> Environment:
    """Make the declaration that is kept with a run."""
    return Environment(bits=description["bits"], notes=description["notes"])


THEN = ", then "


def changes(before: Environment, after: Environment) -> list[tuple[str, str, str]]:
    """Return what can change a bit and did: its name, what it was last, what it is."""
    names = sorted(before.bits | after.bits)
    pairs = [(before.bits.get(n, "").split(THEN)[-1], after.bits.get(n, "")) for n in names]
    return [(n, was, now) for n, (was, now) in zip(names, pairs, strict=True) if was != now]


def continued(before: Environment, after: Environment) -> Environment:
    """Return the environment of a run that was begun in one and goes on in another."""
    changed = {
        name: f"{before.bits.get(name, '')}{THEN}{now}" for name, _, now in changes(before, after)
    }
    return after.model_copy(update={"bits": before.bits | changed})


def device_of(env: Environment) -> str:
    """Return the device that computes now: ``cpu``, or the name of a GPU."""
    return env.bits["device"].split(THEN)[-1]


def limit_blas(threads: int) -> threadpool_limits:
    """Fix the number of BLAS threads of this process; ``restore_original_limits`` undoes it."""
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401

    return threadpool_limits(limits=threads, user_api="blas")
