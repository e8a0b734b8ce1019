"""Versions of what runs in the client, the scheduler and the workers.

They are asked for by Dask's own messages, before any function travels: code of another Python may
not even be readable, and a scheduler need not have deepstrata.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from distributed import Client
from distributed.versions import scheduler_relevant_packages

from deepstrata.pipelines.events import Notice, Observer
from deepstrata.schemas.errors import ClusterError

#: Another version of these speaks another protocol or cannot read the other's functions.
REFUSED = ("python", "dask", "distributed")
#: What is compared besides the packages that Dask compares itself.
COMPARED = ("numba", "xarray", "zarr", "zarrs")


class Difference(NamedTuple):
    """A package whose version is another one elsewhere."""

    package: str
    here: str
    there: str
    where: str


def differences(found: Any) -> Iterator[Difference]:
    """Yield what of ``Client.get_versions`` differs from the client, the scheduler first."""
    here = _packages(found["client"])
    elsewhere = {"the scheduler": _packages(found["scheduler"])}
    elsewhere |= {f"worker {name}": _packages(found["workers"][name])
                  for name in sorted(found["workers"])}  # fmt: skip
    for where, there in elsewhere.items():
        for package, version in here.items():
            relevant = where.startswith("worker") or package in scheduler_relevant_packages
            if relevant and there.get(package) != version:
                yield Difference(package, version, there.get(package, "none"), where)


def _packages(described: Any) -> dict[str, str]:
    packages = {name: version or "none" for name, version in described["packages"].items()}
    packages["python"] = ".".join(packages["python"].split(".")[:3])
    return packages


def _is_refused(difference: Difference) -> bool:
    if difference.package == "python":
        return _minor(difference.here) != _minor(difference.there)
    return difference.package in REFUSED


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def check_versions(client: Client, observer: Observer) -> None:
    """Refuse what cannot work together, and tell the observer of what may not.

    Raises
    ------
    ClusterError
        Dask or Python is another one on the scheduler or on a worker.
    """
    alike: dict[tuple[str, str, str], list[str]] = {}
    for difference in differences(client.get_versions(packages=COMPARED)):
        package, here, there, place = difference
        if _is_refused(difference):
            raise ClusterError(
                f"{place} has {package} {there}, this is {package} {here}: install the same on both"
            )
        alike.setdefault((package, here, there), []).append(place)
    for (package, here, there), where in alike.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        observer(
            Notice(
                f"{package} is {there} on {where[0]}{more}, {here} here: install the same on all"
            )
        )
