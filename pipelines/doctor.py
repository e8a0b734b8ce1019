"""What is right and wrong with this machine, its packages and a cluster, and what to do."""

import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Literal, NamedTuple

from deepstrata.pipelines.events import ignore
from deepstrata.pipelines.report.numbers import duration, size
from deepstrata.schemas.errors import DeepstrataError

START_SECONDS = 60
LITTLE_DISK = 5 << 30
LITTLE_MEMORY = 2 << 30
#: OpenBLAS's kernels by the instructions they use, best first: what a CPU must have, and the names.
KERNELS = (
    ("AVX-512", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
     ("SkylakeX", "Cooperlake", "SapphireRapids")),
    ("AVX2", {"avx2", "fma"}, ("Haswell", "Zen", "Excavator")),
)  # fmt: skip
OPTIONAL = {"bokeh": "dashboard", "h5netcdf": "netcdf", "cupy": "gpu", "dask_cuda": "gpu"}


class Check(NamedTuple):
    """What was looked at, what was found, and what to do if it is not well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(cluster: str | None = None, security: Any = None) -> Iterator[Check]:
    """Yield one check after the other; the last ones look at a cluster.

    Parameters
    ----------
    cluster
        Address of a scheduler whose workers are looked at; by default a worker is started here.
    security
        Certificates for a ``tls://`` address (``distributed.Security``).
    """
    for check in (packages, blas, zarrs, machine, extras):
        yield from check()
    yield from local_cluster() if cluster is None else remote_cluster(cluster, security)


def packages() -> Iterator[Check]:
    """Compare the installed packages with what deepstrata asks for."""
    from packaging.requirements import Requirement

    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    shown, wrong = [f"deepstrata {_version('deepstrata')}"], []
    for text in requires("deepstrata") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = _version(wanted.name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name}{wanted.specifier} wanted, found {found or 'none'}")
        if wanted.name in ("dask", "numpy", "xarray", "zarr", "numba"):
            shown.append(f"{wanted.name} {found}")
    if wrong:
        yield Check("packages", "fail", "; ".join(wrong), "pip install --upgrade deepstrata")
    else:
        yield Check("packages", "ok", ", ".join(shown))
    if _version("dask") != _version("distributed"):
        found = f"dask {_version('dask')}, distributed {_version('distributed')}"
        yield Check("dask", "fail", found, "install the same version of both")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_flags() -> set[str]:
    """Return the instruction sets of this CPU; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def blas() -> Iterator[Check]:
    """Name every BLAS library and its kernel; half the speed may be lost to the wrong one."""
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    flags = cpu_flags()
    for library in threadpool_info():
        if library["user_api"] != "blas":
            continue
        kernel = str(library.get("architecture", "unknown"))
        owner = Path(library["filepath"]).parent.name.partition(".")[0]
        found = f"{library['internal_api']} {library['version']}, kernel {kernel}"
        better = better_kernel(kernel, flags) if library["internal_api"] == "openblas" else None
        if better is None:
            yield Check(f"blas ({owner})", "ok", f"{found}; tasks use 1 thread each")
            continue
        name, instructions = better
        advice = (
            f"this CPU has {instructions}: start Python with OPENBLAS_CORETYPE={name} for up to "
            "twice the speed (on every worker, and not in the middle of a run: bits will differ)"
        )
        yield Check(f"blas ({owner})", "warn", found, advice)


def better_kernel(kernel: str, flags: set[str]) -> tuple[str, str] | None:
    """Return an OpenBLAS kernel for better instructions than ``kernel`` uses, and these."""
    for instructions, needed, names in KERNELS:
        if kernel.lower() in (name.lower() for name in names):
            return None
        if needed <= flags:
            return names[0], instructions
    return None


def zarrs() -> Iterator[Check]:
    """Write and read an array through the fast codecs."""
    import numpy as np
    import zarr

    from deepstrata.storage.codecs import HAS_ZARRS, fast_codecs

    advice = "reading will be several times slower; pip install --force-reinstall zarrs"
    if not HAS_ZARRS:
        yield Check("zarrs", "warn", "cannot be imported", advice)
        return
    values = np.arange(4096, dtype=np.float32).reshape(64, 64)
    with tempfile.TemporaryDirectory() as folder, fast_codecs():
        array = zarr.create_array(folder, data=values, chunks=(16, 64), shards=(32, 64))
        used = type(array.async_array.codec_pipeline).__name__
        same = bool(np.array_equal(np.asarray(array[:]), values))
    found = f"zarrs {_version('zarrs')} with zarr {_version('zarr')}"
    if not same:
        yield Check("zarrs", "fail", f"{found}: read back other values than were written", advice)
    elif used == "ZarrsCodecPipeline":
        yield Check("zarrs", "ok", found)
    else:
        yield Check("zarrs", "warn", f"{found}: {used} is used instead", advice)


def machine() -> Iterator[Check]:
    """Say what there is of cores, memory and disk."""
    import psutil
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    free = min(int(psutil.virtual_memory().available), int(MEMORY_LIMIT))
    yield Check(
        "cores and memory",
        "ok" if free >= LITTLE_MEMORY else "warn",
        f"{CPU_COUNT} cores, {size(free)} of {size(MEMORY_LIMIT)} free",
        "" if free >= LITTLE_MEMORY else "a worker takes about 500 MiB: use fewer with --workers",
    )
    disk = shutil.disk_usage(".").free
    yield Check(
        "disk",
        "ok" if disk >= LITTLE_DISK else "warn",
        f"{size(disk)} free in {Path.cwd()}",
        "" if disk >= LITTLE_DISK else "checkpoints and codes go there: use --out for another disk",
    )


def extras() -> Iterator[Check]:
    """Say which optional packages are there, and try the GPU if CuPy is."""
    there = [f"{name} {_version(name.replace('_', '-')) or ''}".strip()
             for name in OPTIONAL if find_spec(name)]  # fmt: skip
    absent = [f"{name} (deepstrata[{extra}])" for name, extra in OPTIONAL.items()
              if not find_spec(name)]  # fmt: skip
    parts = [", ".join(there) or "none", f"not installed: {', '.join(absent)}" if absent else ""]
    yield Check("optional packages", "ok", "; ".join(filter(None, parts)))
    if find_spec("cupy"):
        yield _gpu()


def _gpu() -> Check:
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        total = float(cupy.arange(4.0).sum())
    except Exception as error:  # CuPy raises its own errors, and OSError for missing libraries
        advice = "see that driver and cupy-cuda13x fit: pip install 'deepstrata[gpu]'"
        return Check("gpu", "warn", f"CuPy is installed but fails: {error}", advice)
    return Check("gpu", "ok" if total == 6 else "fail", f"{count} device(s)")


def local_cluster() -> Iterator[Check]:
    """Start a cluster of one worker on the loopback address and look at the worker."""
    from deepstrata.pipelines import cluster

    def start() -> tuple[float, dict[str, Any]]:
        began = time.perf_counter()
        with cluster.connect("local", 1) as client:
            return time.perf_counter() - began, _describe(client)

    advice = "see that 127.0.0.1 is not blocked, or try --cluster threads"
    try:
        seconds, found = within(START_SECONDS, start)
    except TimeoutError:
        yield Check("local cluster", "fail", f"did not start in {START_SECONDS} seconds", advice)
        return
    except (DeepstrataError, OSError, RuntimeError) as error:
        yield Check("local cluster", "fail", str(error), advice)
        return
    yield Check("local cluster", "ok", f"1 worker on 127.0.0.1 in {duration(seconds)}")
    yield from _workers(found)


def remote_cluster(address: str, security: Any = None) -> Iterator[Check]:
    """Compare the workers of a running cluster with this process."""
    from deepstrata.pipelines import cluster, versions

    notices: list[Any] = []
    try:
        with cluster.connect(address, security=security, observer=notices.append) as client:
            versions.check_versions(client, ignore)
            found = _describe(client)
    except ImportError as error:
        advice = f"install deepstrata {_version('deepstrata')} where the workers are started"
        yield Check("cluster", "fail", f"a worker cannot import: {error}", advice)
        return
    except DeepstrataError as error:
        yield Check("cluster", "fail", str(error))
        return
    if not found:
        yield Check("cluster", "fail", f"{address} has no workers", f"dask worker {address}")
        return
    yield Check("cluster", "ok", f"{len(found)} worker(s) at {address}")
    yield from (Check("encryption", "warn", notice.text) for notice in notices)
    yield from _workers(found)


def _describe(client: Any) -> dict[str, Any]:
    from deepstrata.pipelines import environment

    found: dict[str, Any] = client.run(environment.describe)
    return found


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """Return ``function()``, or raise ``TimeoutError`` if it takes longer."""
    from deepstrata.pipelines.interrupts import workers_ignore_interrupts

    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = Thread(target=target, daemon=True)
    with workers_ignore_interrupts():
        thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _workers(found: dict[str, Any]) -> Iterator[Check]:
    """Look at what workers say of themselves: versions, what makes bits, allocator."""
    from deepstrata.pipelines import environment

    mine = environment.describe()
    code = {"code of deepstrata": mine["code"][:12]}
    theirs = {
        address: {"code of deepstrata": there["code"][:12]} for address, there in found.items()
    }
    versions = {address: there["notes"] | theirs[address] for address, there in found.items()}
    arithmetic = {address: there["bits"] for address, there in found.items()}
    must = ("deepstrata", "code of deepstrata", "dask", "distributed")
    yield _compare("worker versions", mine["notes"] | code, versions, must)
    yield _compare("worker arithmetic", mine["bits"], arithmetic, tuple(mine["bits"]))
    yield _allocator(found, environment.ALLOCATOR)


def _compare(
    name: str, here: dict[str, str], found: dict[str, dict[str, str]], must: tuple[str, ...]
) -> Check:
    """Compare what workers say with what is so here; a difference in ``must`` is a failure."""
    differences = [
        (what, f"{address}: {what} {there.get(what, 'none')}, here {value}")
        for address, there in sorted(found.items())
        for what, value in here.items()
        if _without_threads(there.get(what)) != _without_threads(value)
    ]
    if not differences:
        return Check(name, "ok", "as here")
    bad = any(what in must for what, _ in differences)
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    text = "; ".join(text for _, text in differences[:3]) + more
    advice = "install the same environment on workers and client"
    return Check(name, "fail" if bad else "warn", text, advice)


def _without_threads(value: str | None) -> str | None:
    """Return the description of a BLAS without its threads: runs set these themselves."""
    return value if value is None else value.partition(" thread")[0].rpartition(", ")[0] or value


def _allocator(found: dict[str, Any], wanted: dict[str, str]) -> Check:
    """Tell whether workers give freed memory back at once, as Dask's nanny makes them do."""
    slow = [
        address
        for address, there in sorted(found.items())
        for name, least in wanted.items()
        if (value := there["allocator"].get(name, "")).isdigit() and int(value) < int(least)
    ]
    if not slow:
        return Check("worker allocator", "ok", "freed memory is kept for the next array")
    return Check(
        "worker allocator",
        "warn",
        f"{len(set(slow))} of {len(found)} workers give memory back at every free ({slow[0]})",
        "tasks may take twice as long; start the workers with these variables in their "
        f"environment: {' '.join(f'{name}={value}' for name, value in wanted.items())}",
    )
