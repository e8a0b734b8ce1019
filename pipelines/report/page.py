"""The report's page: what was found first, then how, then what it takes to do it again."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import deepstrata
from deepstrata.pipelines.report import Report
from deepstrata.pipelines.report.chart import line_chart
from deepstrata.pipelines.report.classes import confusion_table, scatter
from deepstrata.pipelines.report.curves import curves
from deepstrata.pipelines.report.maps import map_rows
from deepstrata.pipelines.report.markup import Markup, join, tag
from deepstrata.pipelines.report.numbers import (
    duration,
    metric,
    published,
    rate,
    size,
    stage_rate,
)
from deepstrata.pipelines.report.pictures import (
    COLUMNS,
    as_tiles,
    centred,
    colour_bar,
    colours_for,
    image_grid,
    line_tiles,
)
from deepstrata.pipelines.report.transfer import transfer_table
from deepstrata.pipelines.visualize import draw_pipeline
from deepstrata.schemas.runs import RunManifest, StageRecord

if TYPE_CHECKING:
    import xarray as xr

HEADLINES = (
    "test_error",
    "validation_error",
    "test_squared_error",
    "validation_squared_error",
    "transfer_ratio",
    "raw_transfer_ratio",
)
MEASURED = ("train", "validation", "test")
DOT = "\N{MIDDLE DOT}"


def page(report: Report) -> Markup:
    """Return the whole HTML document."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"deepstrata {deepstrata.__version__}"),
        tag("title", report.title),
        tag("style", Markup(style)),
    )
    body = tag("body", _header(report), tag("main", *(part(report) for part in PARTS)))
    return Markup("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")


def _section(title: str, *children: object) -> Markup:
    content = join(children)
    if not content:
        return content
    name = re.sub(r"[^a-z]+", "-", title.lower())
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def _header(report: Report) -> Markup:
    manifest = report.manifest
    when = [_moment(manifest.started)]
    facts = [f"pipeline {manifest.pipeline.name}", f"run {manifest.run}", *when]
    if manifest.status not in ("finished", "running"):
        facts.append(manifest.status)
    tiles = [
        tag("div", tag("dt", name), tag("dd", value, title=hint or None))
        for name, value, hint in _headlines(manifest)
    ]
    line = tag("p", f" {DOT} ".join(facts), class_="facts")
    return tag("header", tag("h1", report.title), line, tag("dl", *tiles, class_="headlines"))


def _moment(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M %Z}".strip()


def _headlines(manifest: RunManifest) -> list[tuple[str, str, str]]:
    """Return the names and values that come first, each with a hint."""
    found = [name for name in HEADLINES if name in manifest.metrics][:2]
    beside = published(manifest)
    tiles = [
        (_words(name), metric(name, manifest.metrics[name]), beside.get(name, "")) for name in found
    ]
    seconds = sum(stage.seconds for stage in manifest.stages)
    tiles.append(("time", duration(seconds), "all stages together"))
    if manifest.examples_per_second:
        tiles.append(("examples/s", rate(manifest.examples_per_second), "while training"))
        wait = f"{100 * manifest.data_wait:.1f} %"
        tiles.append(("waiting for data", wait, "share of the tasks' time"))
    if manifest.peak_worker_bytes:
        tiles.append(("memory", size(manifest.peak_worker_bytes), "peak of the largest worker"))
    if manifest.fingerprint:
        tiles.append(("fingerprint", manifest.fingerprint[:8], manifest.fingerprint))
    return tiles


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pipeline(report: Report) -> Markup:
    drawing = draw_pipeline(report.manifest.pipeline).svg
    return _section("Pipeline", tag("div", drawing, class_="scroll", tabindex="0"))


def _curves(report: Report) -> Markup:
    if report.history is None:
        return Markup("")
    order = {stage.name: i for i, stage in enumerate(report.manifest.pipeline.stages)}
    nodes = curves(report.history)
    parts = []
    for path, charts in sorted(nodes, key=lambda n: order.get(n[0].split("/")[0], len(order))):
        figures = join(line_chart(chart) for chart in charts)
        if figures:
            parts += [tag("h3", _node_title(path)), _kept(report.history[path].to_dataset())]
            parts.append(tag("div", figures, class_="curves"))
    return _section("Learning curves", *parts)


def _kept(node: "xr.Dataset") -> Markup:
    """Say which epoch's parameters were kept, where that was chosen."""
    if "kept_epoch" not in node:
        return Markup("")
    kept, last = int(node["kept_epoch"][-1]), int(node["epoch_end"][-1])
    return tag("p", f"The parameters of epoch {kept} of {last} were kept.", class_="note")


def _node_title(path: str) -> str:
    """Turn ``pretrain/layer-0`` into ``pretrain, layer 1``: people count from one."""

    def count(found: re.Match[str]) -> str:
        return f"{found[1]} {int(found[2]) + 1}"

    return re.sub(r"\b(layer)-(\d+)\b", count, path).replace("/", ", ") or "training"


def _filters(report: Report) -> Markup:
    figures = []
    for name, weights in report.filters:
        note = f"{len(weights)} hidden units"
        if weights.ndim == 2:
            picture, bar = line_tiles(weights, label=f"Filters of {name}"), Markup("")
        else:
            colours = centred(weights)
            columns = _columns(as_tiles(weights).shape)
            picture = image_grid(weights, colours, f"Filters of {name}", columns)
            bar = colour_bar(colours)
        caption = tag("figcaption", tag("b", name), tag("i", note), bar)
        figures.append(tag("figure", caption, picture, class_="tiled"))
    return _section("Filters", *figures)


def _columns(shape: tuple[int, ...]) -> int:
    """Return how many pictures (K, y, x) go into a row: fewer where they are wide."""
    return max(3, min(COLUMNS, round(COLUMNS * shape[1] / shape[2])))


def _maps(report: Report) -> Markup:
    if report.maps is None:
        return Markup("")
    what = f"{len(report.maps.titles)} samples"
    of = f" of the {report.reconstructions_of}" if report.reconstructions_of else ""
    note = f"{what}{of}; grey: no value to learn from"
    return _section("Maps", tag("p", note, class_="note"), map_rows(report.maps))


def _reconstructions(report: Report) -> Markup:
    if report.maps is not None:
        return Markup("")
    if report.inputs is None or report.reconstructions is None:
        return Markup("")
    inputs, outputs = report.inputs, report.reconstructions
    of = f"of the {report.reconstructions_of}" if report.reconstructions_of else ""
    if inputs.ndim == 2:
        picture = line_tiles(inputs, outputs, "Samples and their reconstructions")
        key = tag("span", tag("span", "sample", class_="input"),
                  tag("span", "reconstruction", class_="output"), class_="key")  # fmt: skip
    else:
        picture, key = _pairs(inputs, outputs), colour_bar(colours_for(inputs, outputs))
    caption = tag("figcaption", tag("b", f"{len(inputs)} samples {of}"), key)
    return _section("Reconstructions", tag("figure", caption, picture, class_="tiled"))


def _generated(report: Report) -> Markup:
    if not report.generated:
        return Markup("")
    names = report.class_names or tuple(map(str, range(len(report.generated))))
    colours, rows = colours_for(*report.generated), []
    for name, samples in zip(names, report.generated, strict=False):
        label = f"Samples of class {name}"
        drawn = (
            line_tiles(samples, label=label)
            if samples.ndim == 2
            else image_grid(samples, colours, label, len(samples))
        )
        rows += [tag("span", name), drawn]
    note = "from noise, with the label held in the memory on top"
    caption = tag("figcaption", tag("b", "Samples of each class"), tag("i", note))
    picture = tag("div", *rows, class_="made")
    return _section("Generated", tag("figure", caption, picture, class_="tiled"))


def _pairs(inputs: object, outputs: object) -> Markup:
    before, after = as_tiles(inputs), as_tiles(outputs)
    colours, columns = colours_for(before, after), _columns(before.shape)
    rows = []
    for start in range(0, len(before), columns):
        part = slice(start, start + columns)
        for name, tiles in (("sample", before[part]), ("reconstruction", after[part])):
            label = f"{name} {start + 1} to {start + len(tiles)}"
            rows += [tag("span", name), image_grid(tiles, colours, label, columns)]
    return tag("div", *rows, class_="pairs")


def _classes(report: Report) -> Markup:
    parts = []
    if report.confusion is not None and report.confusion.any():
        parts.append(tag("h3", "Confusion matrix"))
        table = confusion_table(report.confusion, report.class_names)
        parts.append(tag("div", table, class_="scroll", tabindex="0"))
    codes = Markup("")
    if report.codes is not None and len(report.codes) > 1:
        by = (
            f"coloured by {report.code_labels_name}"
            if report.code_labels_name
            else "in two dimensions"
        )
        heading = tag("h3", f"Codes, {by}") if parts else tag("p", by.capitalize(), class_="note")
        codes = heading + scatter(report.codes, report.code_labels, report.class_names)
    columns = [tag("div", *parts)] if parts else []
    columns += [tag("div", codes)] if codes else []
    title = "Classes and codes" if parts and codes else "Classes" if parts else "Codes"
    return _section(title, tag("div", *columns, class_="columns")) if columns else Markup("")


def _transfer(report: Report) -> Markup:
    parts: list[Markup] = []
    for name, found in report.transfers:
        if len(report.transfers) > 1:
            parts.append(tag("h3", _words(name)))
        tables = [
            tag("div", transfer_table(found, seen), class_="scroll", tabindex="0")
            for seen in found.errors
        ]
        parts.append(tag("div", *tables, class_="columns"))
    return _section("Transfer between domains", *parts)


def _results(report: Report) -> Markup:
    """Return the metrics as a table: what was measured down, the parts of the data across."""
    table: dict[str, dict[str, str]] = {}
    for name, value in report.manifest.metrics.items():
        part, _, what = name.partition("_")
        if part not in MEASURED:
            part, what = "", name
        table.setdefault(what, {})[part] = metric(name, value)
    parts = [part for part in (*MEASURED, "") if any(part in row for row in table.values())]
    head = tag("tr", tag("th"), *(tag("th", part, scope="col") for part in parts))
    rows = [
        tag("tr", tag("th", _words(what), scope="row"), *(tag("td", row.get(p, "")) for p in parts))
        for what, row in table.items()
    ]
    body = tag("table", tag("thead", head), tag("tbody", *rows), class_="results")
    beside = published(report.manifest).items()
    others = "; ".join(f"{_words(name)} {told}" for name, told in beside)
    note = tag("p", f"Published: {others}", class_="note") if others else ""
    return _section("Results", body, note) if rows else Markup("")


def _time(report: Report) -> Markup:
    stages = report.manifest.stages
    longest = max((stage.seconds for stage in stages), default=0) or 1.0
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col")
            for name in ("stage", "time", "", "examples/s", "waiting for data")
        ),
    )
    rows = [_stage_row(stage, longest) for stage in stages]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="times")
    return _section("Time", tag("div", table, class_="scroll")) if rows else Markup("")


def _stage_row(stage: StageRecord, longest: float) -> Markup:
    share = 100 * stage.seconds / longest
    strip = tag(
        "svg", tag("rect", x=0, y=0, width=max(share, 0.3), height=10, rx=1),
        viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
    speed = stage_rate(stage.examples, stage.seconds)
    wait = f"{100 * stage.wait:.1f} %" if stage.wait else ""
    return tag(
        "tr", tag("th", stage.name, scope="row"), tag("td", duration(stage.seconds)),
        tag("td", strip, class_="strip"), tag("td", speed), tag("td", wait),
    )  # fmt: skip


def _again(report: Report) -> Markup:
    manifest = report.manifest
    digests = {name: value for name, value in manifest.digests if value}
    prints = {"fingerprint": manifest.fingerprint, "weights": manifest.weights_sha256} | digests
    parts = []
    if report.command:
        parts.append(tag("pre", tag("code", report.command), class_="command"))
    known = {name: value for name, value in (prints | manifest.parent).items() if value}
    if known:
        note = (
            "The fingerprint covers data, pipeline, environment and weights. A run with "
            "the same one has the same weights, bit for bit, on any number of workers."
        )
        parts += [tag("p", note, class_="note"), _facts(known)]
    parts.append(_fold("Pipeline as JSON", tag("pre", manifest.pipeline.to_json())))
    if report.plan:
        parts.append(_fold("Plan", tag("pre", report.plan)))
    return _section("Do it again", *parts)


def _environment(report: Report) -> Markup:
    environment = report.manifest.environment
    parts = [tag("h3", "What can change a bit"), _facts(environment.bits)]
    rest = dict(environment.notes) | dict(report.manifest.cluster)
    if rest:
        parts.append(_fold("Everything else", _facts(rest)))
    return _section("Environment", *parts)


def _facts(values: Mapping[str, str]) -> Markup:
    rows = [tag("tr", tag("th", _words(name), scope="row"), tag("td", value))
            for name, value in values.items()]  # fmt: skip
    return tag("table", tag("tbody", *rows), class_="facts mono")


def _fold(title: str, content: Markup) -> Markup:
    return tag("details", tag("summary", title), content)


PARTS: tuple[Callable[[Report], Markup], ...] = (
    _pipeline,
    _curves,
    _filters,
    _maps,
    _reconstructions,
    _generated,
    _classes,
    _transfer,
    _results,
    _time,
    _again,
    _environment,
)
