"""The report: one HTML file that shows a run, needs no network and runs no script."""

from typing import TYPE_CHECKING, NamedTuple

from deepstrata.pipelines.report.maps import Maps
from deepstrata.pipelines.report.transfer import Transfer
from deepstrata.schemas.runs import RunManifest
from deepstrata.schemas.trees import Array
from deepstrata.storage import stores

if TYPE_CHECKING:
    import xarray as xr


class Report(NamedTuple):
    """Everything that a report shows, as plain data; what is None or empty is left out.

    K examples, N samples, C classes. Pictures are arrays ``(K, y, x)``; ``(K, n)`` draws lines, and
    of more dimensions the last one runs across and all others down.
    """

    title: str
    manifest: RunManifest
    """Pipeline, stages with their timings, metrics, digests and environment."""
    history: "xr.DataTree | None" = None
    """One node per trained thing; see ``deepstrata.pipelines.report.curves``."""
    command: str = ""
    """What a shell needs to run the pipeline again."""
    plan: str = ""
    filters: tuple[tuple[str, Array], ...] = ()
    """Names (``layer 1``) and weights of hidden units, shaped like a sample."""
    inputs: Array | None = None
    """Samples that were reconstructed."""
    reconstructions: Array | None = None
    """What the model made of ``inputs``; the same shape."""
    reconstructions_of: str = ""
    """Where ``inputs`` come from: ``test part``."""
    maps: Maps | None = None
    """Samples on latitudes and longitudes, drawn in place of ``inputs``."""
    generated: tuple[Array, ...] = ()
    """For each class, samples that the model makes of it."""
    confusion: Array | None = None
    """Counts, ``(C, C)``: the class along the rows, the prediction along the columns."""
    class_names: tuple[str, ...] = ()
    """C names; 0, 1, ... where there are none."""
    codes: Array | None = None
    """``(N, D)``; shown along their first two principal components."""
    code_labels: Array | None = None
    """``(N,)``: class numbers, or floats for a continuous scale."""
    code_labels_name: str = ""
    transfers: tuple[tuple[str, Transfer], ...] = ()
    """Stages that compare domains, each with what it found."""


def write_report(report: Report, path: str) -> str:
    """Write ``report`` as one HTML file, whole or not at all, and return its path or URL."""
    from deepstrata.pipelines.report.page import page

    stores.write_bytes(path, page(report).encode())
    return path


__all__ = ["Report", "write_report"]
