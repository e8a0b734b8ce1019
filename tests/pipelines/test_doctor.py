"""The doctor: finds what is put wrong, and says what to do."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.versions import get_versions

from deepstrata.pipelines import cluster, doctor, environment
from deepstrata.schemas.errors import ClusterError

AVX2 = {"avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}


@pytest.mark.parametrize(
    ("kernel", "flags", "better"),
    [
        ("SkylakeX", AVX512, None),
        ("Cooperlake", AVX512, None),
        ("Haswell", AVX512, "SkylakeX"),
        ("Zen", AVX512, "SkylakeX"),
        ("Zen", AVX2, None),
        ("Nehalem", AVX2, "Haswell"),
        ("armv8", set(), None),
        ("unknown", set(), None),
    ],
)
def test_the_kernel_is_held_against_the_cpu(
    kernel: str, flags: set[str], better: str | None
) -> None:
    found = doctor.better_kernel(kernel, flags)
    assert (found[0] if found else None) == better


def test_a_poor_kernel_is_a_warning_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    library = {
        "user_api": "blas",
        "internal_api": "openblas",
        "version": "1",
        "architecture": "Haswell",
        "filepath": "/x/numpy.libs/a.so",
    }
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [library])
    monkeypatch.setattr(doctor, "cpu_flags", lambda: AVX512)
    (check,) = doctor.blas()
    assert check.status == "warn"
    assert "OPENBLAS_CORETYPE=SkylakeX" in check.advice


def test_an_old_package_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=99", "nothing-of-the-sort>=1"])
    found = {check.name: check for check in doctor.packages()}
    assert found["packages"].status == "fail"
    assert "numpy>=99 wanted" in found["packages"].found
    assert "nothing-of-the-sort>=1 wanted, found none" in found["packages"].found


def test_this_environment_is_well() -> None:
    for check in (*doctor.packages(), *doctor.zarrs(), *doctor.machine(), *doctor.extras()):
        assert check.status != "fail", check


def test_missing_codecs_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepstrata.storage.codecs.HAS_ZARRS", False)
    (check,) = doctor.zarrs()
    assert check.status == "warn"


def test_a_local_worker_is_started_and_examined() -> None:
    found = {check.name: check for check in doctor.local_cluster()}
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ("local cluster", "worker versions", "worker arithmetic", "worker allocator"), "ok"
    ), found


def test_a_cluster_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "START_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "connect", lambda *_: time.sleep(0.5))
    (check,) = doctor.local_cluster()
    assert check.status == "fail"
    assert "did not start" in check.found


def test_no_scheduler_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(address: str, **_: object) -> None:
        raise ClusterError(f"no scheduler answers at {address}")

    monkeypatch.setattr(cluster, "connect", connect)
    (check,) = doctor.remote_cluster("tcp://127.0.0.1:1")
    assert check.status == "fail"
    assert "no scheduler answers at tcp://127.0.0.1:1" in check.found


class Elsewhere:
    """A cluster whose workers say what they are told to say."""

    def __init__(self, *workers: dict[str, Any]) -> None:
        self.workers = {f"tcp://w{i}": worker for i, worker in enumerate(workers)}

    def __enter__(self) -> SimpleNamespace:
        here = get_versions()
        versions = {"client": here, "scheduler": here, "workers": {}}
        return SimpleNamespace(run=lambda _: self.workers, get_versions=lambda packages: versions)

    def __exit__(self, *_: object) -> None:
        pass


def examine(monkeypatch: pytest.MonkeyPatch, *workers: dict[str, Any]) -> dict[str, doctor.Check]:
    monkeypatch.setattr(cluster, "connect", lambda _, **settings: Elsewhere(*workers))
    return {check.name: check for check in doctor.remote_cluster("tcp://x:1")}


def test_equal_workers_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(monkeypatch, environment.describe(), environment.describe())
    assert {check.status for check in found.values()} == {"ok"}
    assert found["cluster"].found.startswith("2 worker(s)")


def test_threads_of_blas_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = environment.describe(), environment.describe()
    here["bits"] |= {"blas of numpy": "openblas 1 Haswell, 2 thread(s)"}
    there["bits"] |= {"blas of numpy": "openblas 1 Haswell, 1 thread(s)"}
    monkeypatch.setattr(environment, "describe", lambda: here)
    assert examine(monkeypatch, there)["worker arithmetic"].status == "ok"


@pytest.mark.parametrize(
    ("where", "what", "check", "status"),
    [
        ("notes", "deepstrata", "worker versions", "fail"),
        ("notes", "xarray", "worker versions", "warn"),
        ("bits", "numpy", "worker arithmetic", "fail"),
    ],
)
def test_other_versions_are_named(
    monkeypatch: pytest.MonkeyPatch, where: str, what: str, check: str, status: str
) -> None:
    other = environment.describe()
    other[where] = other[where] | {what: "0.0.1"}
    found = examine(monkeypatch, environment.describe(), other)[check]
    assert found.status == status
    assert f"tcp://w1: {what} 0.0.1, here" in found.found


def test_other_code_of_the_same_version_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine(monkeypatch, environment.describe() | {"code": "0" * 64})
    assert found["worker versions"].status == "fail"


def test_a_nanny_that_trims_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    trims = environment.describe() | {"allocator": {"MALLOC_TRIM_THRESHOLD_": "65536"}}
    found = examine(monkeypatch, environment.describe(), trims)["worker allocator"]
    assert found.status == "warn"
    assert "1 of 2 workers" in found.found
    assert "268435456" in found.advice


def test_no_workers_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine(monkeypatch)["cluster"].status == "fail"


def test_a_worker_without_deepstrata_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(_: object) -> None:
        raise ModuleNotFoundError("No module named 'deepstrata'")

    monkeypatch.setattr(cluster, "connect", lambda _, **settings: Elsewhere())
    monkeypatch.setattr(doctor, "_describe", describe)
    (check,) = doctor.remote_cluster("tcp://x:1")
    assert check.status == "fail"
    assert "install deepstrata" in check.advice
