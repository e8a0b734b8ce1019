"""Comparing two runs: the same, or what differs, and where the weights part."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from deepstrata.pipelines.context import effective
from deepstrata.pipelines.history import trainings
from deepstrata.schemas.runs import RunManifest
from deepstrata.storage import runs


class Verdict(NamedTuple):
    """What ``verify`` found."""

    same: bool
    text: str


def verify(a: str, b: str) -> Verdict:
    """Compare the certificates of two finished runs.

    Returns
    -------
    Verdict
        ``same``, or each of data, pipeline, code, environment and parent that differs, and
        whether the weights do; where nothing else differs, the first stage and round where the
        weights part.
    """
    first, second = runs.read_manifest(a), runs.read_manifest(b)
    for path, manifest in ((a, first), (b, second)):
        if manifest.fingerprint is None:
            return Verdict(False, f"{path} has not finished (it is {manifest.status})")
    compared = (_data, _pipeline, _code, _environment, _parents)
    causes = [text for compare in compared for text in compare(first, second)]
    results = [*_weights(a, b, first, second), *_metrics(first, second)]
    if not causes and not results:
        return Verdict(True, f"same: weights {first.weights_sha256}")
    if not results:
        results = [f"the weights are the same all the same: {first.weights_sha256}"]
    return Verdict(False, "\n".join([*causes, *results]))


def _data(a: RunManifest, b: RunManifest) -> list[str]:
    ours, theirs = a.digests.data, b.digests.data
    if ours == theirs:
        return []
    return [f"the data differs: {ours[:12]} and {theirs[:12]} (content, not names)"]


def _pipeline(a: RunManifest, b: RunManifest) -> list[str]:
    ours, theirs = (_flat(effective(manifest.pipeline)) for manifest in (a, b))
    return [f"the pipelines differ: {text}" for text in _differences(ours, theirs)]


def _code(a: RunManifest, b: RunManifest) -> list[str]:
    ours, theirs = a.digests.code, b.digests.code
    if ours == theirs:
        return []
    versions = [manifest.environment.notes.get("deepstrata", "?") for manifest in (a, b)]
    return [
        f"the code of deepstrata differs: {versions[0]} ({ours[:12]}) and "
        f"{versions[1]} ({theirs[:12]})"
    ]


def _environment(a: RunManifest, b: RunManifest) -> list[str]:
    texts = _differences(a.environment.bits, b.environment.bits)
    return [f"the environments differ: {text}" for text in texts]


def _parents(a: RunManifest, b: RunManifest) -> list[str]:
    if a.digests.parent == b.digests.parent:
        return []
    return [f"the parents differ: {_parent(a)} and {_parent(b)}"]


def _parent(manifest: RunManifest) -> str:
    """Say what layers were taken from."""
    told = manifest.parent
    if not told:
        return "none"
    run = f" of the run {told['parent_fingerprint'][:12]}" if "parent_fingerprint" in told else ""
    return f"weights {told['parent_weights'][:12]}{run} at {told['parent']}"


def _differences(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Say what each name is on either side, where that is not the same."""
    return [
        f"{name} is {ours.get(name)!r} and {theirs.get(name)!r}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        flat: dict[str, object] = {}
        for name, below in items:
            flat |= _flat(below, f"{prefix}.{name}" if prefix else str(name))
        return flat
    return {prefix: value}


def _metrics(a: RunManifest, b: RunManifest) -> list[str]:
    if a.weights_sha256 != b.weights_sha256:
        return []
    texts = _differences(a.metrics, b.metrics)
    return [f"the weights are the same, a metric is not: {text}" for text in texts]


def _weights(path: str, other: str, a: RunManifest, b: RunManifest) -> list[str]:
    if a.weights_sha256 == b.weights_sha256:
        return []
    same = "the beginning"
    theirs = {(r.stage, r.round): r.digest for r in b.checkpoints}
    for record in a.checkpoints:
        digest = theirs.get((record.stage, record.round))
        if digest is not None and digest != record.digest:
            at = _parting(path, other, record.stage, record.round)
            return [f"the weights part in stage {record.stage}, {at} (the same until {same})"]
        if digest is not None:
            same = f"round {record.round} of {record.stage}"
    return [f"the weights differ (the same until {same}, the last checkpoint that both passed)"]


def _parting(path: str, other: str, stage: str, by: int) -> str:
    """Return the first round of a stage of which two runs report other sums, or else ``by``.

    What is reported of a round follows from the state before it, so the weights part before.
    """
    ours, theirs = (
        {int(row["round"]): row for row in trainings(run).get(stage, {}).get("round", [])}
        for run in (path, other)
    )
    for index in sorted(ours.keys() & theirs.keys()):
        if json.dumps(ours[index], sort_keys=True) != json.dumps(theirs[index], sort_keys=True):
            return f"by round {min(index, by)}"
    return f"by round {by}"
