"""How numbers, sizes and times are written for people, on the terminal and in the report."""

import math
from typing import Any

import numpy as np

from deepstrata.schemas.runs import RunManifest
from deepstrata.schemas.stages import Report

PERCENT = ("error", "errors", "accuracy", "wait")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def number(value: float, digits: int = 4) -> str:
    """Return ``value`` with about ``digits`` significant digits: ``18,432``, ``8.312``."""
    if not math.isfinite(value):
        return str(value)
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    if not -4 <= magnitude < 9:
        return f"{value:.{digits - 1}g}"
    text = f"{value:,.{max(0, digits - 1 - magnitude)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def metric(name: str, value: float) -> str:
    """Return a metric's value; shares such as ``test_error`` in percent."""
    last = name.rsplit("_", 1)[-1]
    if last in PERCENT and not name.endswith("squared_error"):
        return f"{100 * value:.2f} %"
    return number(value)


def published(manifest: RunManifest) -> dict[str, str]:
    """Return by metric of a run what others have published, with the source."""
    return {
        name: f"{metric(name, value)} ({stage.publication})"
        for stage in manifest.pipeline.stages
        if isinstance(stage, Report)
        for name, value in stage.published.items()
        if name in manifest.metrics
    }


def rate(examples_per_second: float) -> str:
    """Return examples per second with three significant digits: ``18,400``."""
    if not math.isfinite(examples_per_second) or examples_per_second <= 0:
        return "-"
    return number(float(f"{examples_per_second:.3g}"))


def stage_rate(examples: int, seconds: float) -> str:
    """Return a stage's examples per second; nothing for a stage too short to tell."""
    return rate(examples / seconds) if examples and seconds >= 0.1 else ""


def size(count: float) -> str:
    """Return a number of bytes: ``512 MiB``."""
    for unit in UNITS:
        if count < 1024 or unit == UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 100 or unit == "bytes" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time: ``< 0.1 s``, ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def coordinate(value: Any) -> str:
    """Return a sample's coordinate: a time at midnight as its date, anything else as text."""
    found = np.asarray(value)
    if found.dtype.kind != "M":
        return str(found)
    return str(np.datetime_as_string(found, unit="m")).removesuffix("T00:00").replace("T", " ")
