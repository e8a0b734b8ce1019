"""Comparing two runs: the same, or the first thing that differs."""

from typing import NamedTuple

from deepstrata.pipelines.context import effective
from deepstrata.schemas.runs import RunManifest
from deepstrata.storage import runs


class Verdict(NamedTuple):
    """What ``verify`` found."""

    same: bool
    text: str


def verify(a: str, b: str) -> Verdict:
    """Compare two finished runs.

    Returns
    -------
    Verdict
        ``same``, or the first difference: data, pipeline, environment, or, with those equal, the
        first stage and round where the weights part.
    """
    first, second = runs.read_manifest(a), runs.read_manifest(b)
    for path, manifest in ((a, first), (b, second)):
        if manifest.fingerprint is None:
            return Verdict(False, f"{path} has not finished (it is {manifest.status})")
    for text in (_data(first, second), _pipeline(first, second), _environment(first, second)):
        if text:
            return Verdict(False, text)
    if first.weights_sha256 != second.weights_sha256:
        return Verdict(False, _parting(first, second))
    for name, value in first.metrics.items():
        if second.metrics.get(name) != value:
            return Verdict(
                False,
                f"the weights are the same, the metric {name} is not: "
                f"{value!r} and {second.metrics.get(name)!r}",
            )
    return Verdict(True, f"same: weights {first.weights_sha256}")


def _data(a: RunManifest, b: RunManifest) -> str | None:
    if a.digests.data == b.digests.data:
        return None
    return f"the data differs: {a.digests.data[:12]} and {b.digests.data[:12]} (content, not names)"


def _pipeline(a: RunManifest, b: RunManifest) -> str | None:
    ours, theirs = (_flat(effective(manifest.pipeline)) for manifest in (a, b))
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            return f"the pipelines differ: {name} is {ours.get(name)!r} and {theirs.get(name)!r}"
    return None


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        flat: dict[str, object] = {}
        for name, below in items:
            flat |= _flat(below, f"{prefix}.{name}" if prefix else str(name))
        return flat
    return {prefix: value}


def _environment(a: RunManifest, b: RunManifest) -> str | None:
    ours, theirs = a.environment.bits, b.environment.bits
    for name in sorted(ours | theirs):
        if ours.get(name) != theirs.get(name):
            return f"the environments differ: {name} is {ours.get(name)!r} and {theirs.get(name)!r}"
    return None


def _parting(a: RunManifest, b: RunManifest) -> str:
    """Name the first checkpoint that both runs passed with different states."""
    theirs = {(r.stage, r.round): r.digest for r in b.checkpoints}
    last_same = "the beginning"
    for record in a.checkpoints:
        other = theirs.get((record.stage, record.round))
        if other is None:
            continue
        if other != record.digest:
            return (
                f"the weights part in stage {record.stage}, by round {record.round} "
                f"(the same until {last_same})"
            )
        last_same = f"round {record.round} of {record.stage}"
    if a.digests.code != b.digests.code:
        return "the weights differ, and so does the code of deepstrata"
    return "the weights differ, though every checkpoint that both runs passed is the same"
