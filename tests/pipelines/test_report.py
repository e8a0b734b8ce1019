"""The report: everything in one file, nothing from elsewhere, every name only text."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from deepstrata.pipelines.report import Report, write_report
from deepstrata.pipelines.report.chart import BINS, Chart, Series, line_chart, thin, ticks
from deepstrata.pipelines.report.classes import confusion_table, principal_components, scatter
from deepstrata.pipelines.report.curves import curves
from deepstrata.pipelines.report.markup import Markup, escape, tag
from deepstrata.pipelines.report.numbers import duration, metric, number, rate, size
from deepstrata.pipelines.report.page import page
from deepstrata.pipelines.report.pictures import Colours, centred, image_grid, line_tiles
from deepstrata.pipelines.report.terminal import results
from deepstrata.schemas import stages
from deepstrata.schemas.datasets import ZarrSource
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import Digests, Environment, RunManifest, StageRecord
from deepstrata.schemas.stages import Pretrain

VOID = {"br", "img", "meta", "source"}
EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """Checks that elements are closed in order, and keeps what is of interest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def manifest(**changes: Any) -> RunManifest:
    pipeline = Pipeline(
        name="p",
        source=ZarrSource(path="x.zarr", features="x"),
        stages=(Pretrain(model=RBM(hidden=4)),),
    )
    return RunManifest(
        **{
            "run": "p-1",
            "pipeline": pipeline,
            "started": "2026-03-02T14:03:11+00:00",
            "environment": Environment(bits={"numpy": "2.4"}),
        }
        | changes
    )


def node(**variables: Any) -> xr.Dataset:
    """Make a node of a history; names with a part in front go along epoch_end."""
    data = {
        name: ("epoch_end" if name.startswith(("train_", "validation_")) else "round", values)
        for name, values in variables.items()
    }
    return xr.Dataset(data)


def full_report() -> Report:
    random = np.random.default_rng(0)
    epochs = np.linspace(9.0, 2.0, 5)
    history = xr.DataTree.from_dict(
        {
            "pretrain/layer-0": node(
                squared_error=np.linspace(9, 2, 50),
                n=np.full(50, 100),
                train_squared_error=epochs,
                validation_squared_error=epochs + 1,
                train_free_energy=-epochs,
                validation_free_energy=-epochs + 0.5,
            ),
            "finetune": node(
                loss=np.linspace(2, 0.1, 50), errors=np.linspace(0.9, 0.1, 50), train_error=epochs
            ),
        }
    )
    record = StageRecord(
        name="pretrain", kind="pretrain", key="k", seconds=12.5, examples=1000, wait=0.01
    )
    return Report(
        title="p",
        manifest=manifest(
            stages=(record,),
            metrics={"test_error": 0.0261, "test_squared_error": 5.2},
            fingerprint="f" * 64,
            digests=Digests(data="d" * 64),
            examples_per_second=18432.0,
            peak_worker_bytes=2**29,
            status="finished",
        ),
        history=history,
        command="deepstrata run p.json",
        plan="stage  rounds",
        filters=(("layer 1", random.normal(size=(6, 5, 4))),),
        inputs=random.random((20, 5, 4)),
        reconstructions=random.random((20, 5, 4)),
        confusion=np.array([[9, 1], [0, 10]]),
        class_names=("cat", "dog"),
        codes=random.normal(size=(40, 7)),
        code_labels=np.arange(40) % 2,
        code_labels_name="label",
    )


def test_it_shows_everything(tmp_path: Path) -> None:
    path = Path(write_report(full_report(), str(tmp_path / "report.html")))
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    words = "".join(reader.text)
    for title in ("Pipeline", "Learning curves", "Filters", "Reconstructions", "Classes and codes",
                  "Results", "Time", "Do it again", "Environment"):  # fmt: skip
        assert f">{title}</h2>" in text
    for shown in ("2.61 %", "18,400", "512 MiB", "12 s", "pretrain, layer 1", "Free-energy gap",
                  "Loss", "deepstrata run p.json", "f" * 64, "cat", "10.0 %", "numpy"):  # fmt: skip
        assert shown in words
    assert text.index("2.61 %") < text.index("Learning curves")
    assert text.count('<figure class="curve"') == 4  # the samples of a round are no curve
    assert text.index("pretrain, layer 1") < text.index("Errors")


def test_it_needs_no_network_and_no_script() -> None:
    text = page(full_report())
    reader = Reader(text)
    assert not {name for name, _ in reader.tags} & {"script", "link", "iframe", "object", "form"}
    for name, attributes in reader.tags:
        assert "style" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "srcset", "href"):
            assert (attributes.get(key) or "data:").startswith("data:"), (name, attributes)
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|url\(|@import", without_namespace)


def test_its_policy_allows_its_own_style_and_nothing_else() -> None:
    text = page(full_report())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    policy = next(
        a["content"] for n, a in Reader(text).tags if a.get("http-equiv", "").startswith("Content")
    )
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_names_are_text_wherever_they_stand() -> None:
    evil = manifest(
        run=EVIL,
        status="failed",
        metrics={EVIL: 1.0},
        stages=(StageRecord(name=EVIL, kind=EVIL, key="", seconds=1.0, metrics={EVIL: 1.0}),),
        environment=Environment(bits={EVIL: EVIL}, notes={EVIL: EVIL}),
        cluster={EVIL: EVIL},
        fingerprint=EVIL,
        started=EVIL,
        pipeline=Pipeline(name="p", source=ZarrSource(path=EVIL, features=EVIL), stages=()),
    )
    report = full_report()._replace(
        title=EVIL,
        manifest=evil,
        history=xr.DataTree.from_dict({"<b>": node(**{EVIL.replace("/", ""): [1.0, 2.0]})}),
        command=EVIL,
        plan=EVIL,
        filters=((EVIL, np.ones((2, 3, 3))),),
        reconstructions_of=EVIL,
        class_names=(EVIL, '"><img onerror=1>'),
        code_labels_name=EVIL,
    )
    reader = Reader(page(report))
    assert "script" not in {name for name, _ in reader.tags}
    assert "".join(reader.text).count(EVIL) > 10
    assert not [a for _, a in reader.tags if any(key.startswith("on") for key in a)]


def test_what_is_missing_is_left_out() -> None:
    text = page(Report(title="p", manifest=manifest()))
    Reader(text)
    for title in ("Learning curves", "Filters", "Reconstructions", "Classes", "Codes", "Results"):
        assert f">{title}" not in text
    assert ">Pipeline</h2>" in text


@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 9), (3, 2, 7, 9)])
def test_samples_of_any_rank_are_drawn(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    report = Report(
        title="p",
        manifest=manifest(),
        filters=(("layer 1", values),),
        inputs=values,
        reconstructions=values,
    )
    text = page(report)
    Reader(text)
    assert ">Filters<" in text
    assert ">Reconstructions<" in text


def test_odd_numbers_do_not_break_a_chart() -> None:
    for values in ([np.nan] * 3, [], [np.inf, 1.0, np.nan], [5.0], [0.0, 0.0], [-1e-30, 1e30]):
        series = Series("s", "train", np.arange(len(values)), np.array(values, float))
        drawn = line_chart(Chart("title", "unit", (series,)))
        Reader(drawn)
        assert "nan" not in drawn
        assert "inf" not in drawn
        assert bool(drawn) == bool(np.isfinite(values).any())


def test_all_nan_history_draws_nothing() -> None:
    history = xr.DataTree.from_dict({"a": node(loss=[np.nan, np.nan])})
    assert ">Learning curves" not in page(Report("p", manifest(), history=history))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.013, 0.094), (-3.2, 17), (1234, 56789), (0, 1e-6)]
)
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert found[0] >= low - 1e-9 * (high - low)
    assert found[-1] <= high + 1e-9 * (high - low)
    step = found[1] - found[0]
    leading = float(f"{step:.6e}".split("e")[0])
    assert leading in (1.0, 2.0, 5.0)


def test_thinning_keeps_spikes() -> None:
    y = np.zeros(100_000)
    y[12_345], y[54_321] = 7.0, -3.0
    _, kept = thin(np.arange(len(y), dtype=float), y)
    assert len(kept) <= 2 * BINS
    assert kept.max() == 7.0
    assert kept.min() == -3.0


def test_the_gap_is_validation_minus_training() -> None:
    history = xr.DataTree.from_dict(
        {"a": node(train_free_energy=[-5.0, -6.0], validation_free_energy=[-4.5, -5.0])}
    )
    ((path, (chart,)),) = curves(history)
    assert path == "a"
    np.testing.assert_allclose(chart.series[0].y, [0.5, 1.0])


def test_an_unknown_curve_is_drawn_under_its_own_name() -> None:
    history = xr.DataTree.from_dict({"a": node(train_pull_of_moon=[1.0, 2.0])})
    ((_, (chart,)),) = curves(history)
    assert chart.title == "Pull of moon"


def test_confusion_counts_and_shares() -> None:
    reader = Reader(confusion_table(np.array([[98, 2], [0, 0]]), ("a", "b")))
    cells = " ".join(reader.text).split()
    # No sample is of class b, so there is no share of errors to tell.
    assert cells[-10:] == ["errors", "a", "98", "2", "2.0", "%", "b", "·", "·", "-"]


def test_very_many_classes_become_a_picture() -> None:
    assert confusion_table(np.eye(100, dtype=int)).startswith("<img")


def test_principal_components_find_the_plane() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(200, 2)) * (5, 2)
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
    points, share = principal_components(np.pad(plane, ((0, 0), (0, 4))) @ turn)
    assert share == pytest.approx(1.0)
    np.testing.assert_allclose(np.ptp(points, axis=0) > 4, True)


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("labels", [None, np.arange(9) % 3, np.linspace(0, 1, 9)])
def test_codes_are_scattered(width: int, labels: Any) -> None:
    codes = np.random.default_rng(0).normal(size=(9, width))
    tags = [name for name, _ in Reader(scatter(codes, labels)).tags]
    assert tags.count("circle") == 9


def test_a_grid_shows_every_tile_and_centres_zero() -> None:
    tiles = np.zeros((3, 2, 2), np.float32)
    tiles[1] = 4.0
    colours = centred(tiles)
    assert colours.low == -colours.high
    grid = image_grid(tiles, colours, "weights")
    assert 'alt="weights"' in grid
    assert "prefers-color-scheme: dark" in grid


def test_missing_values_are_drawn_too() -> None:
    tiles = np.array([[[np.nan, 1.0]]], np.float32)
    assert image_grid(tiles, Colours(("gray", "gray"), 0.0, 1.0), "x").startswith("<img")
    assert "nan" not in line_tiles(np.array([[np.nan, 1.0, 2.0]]))


def test_markup_escapes_on_the_way_in() -> None:
    assert tag("p", "<&>") == "<p>&lt;&amp;&gt;</p>"
    assert tag("p", Markup("<b>")) == "<p><b></p>"
    assert (
        tag("rect", class_='"x', stroke_width=1.5)
        == '<rect class="&quot;x" stroke-width="1.5"></rect>'
    )
    assert tag("img", alt=None) == "<img>"
    assert escape("a\x00b\x1b") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert Markup("<b>") + "<" == "<b>&lt;"


def test_numbers_for_people() -> None:
    assert [number(x) for x in (0, 8.31249, 18432.4, 1.2e-7)] == ["0", "8.312", "18,432", "1.2e-07"]
    assert metric("test_error", 0.0261) == "2.61 %"
    assert metric("test_squared_error", 5.2) == "5.2"
    assert rate(18432) == "18,400"
    assert rate(float("nan")) == "-"
    assert [size(x) for x in (12, 2**20, 3.5 * 2**30)] == ["12 bytes", "1.0 MiB", "3.5 GiB"]
    assert [duration(x) for x in (0.04, 12, 185, 7800)] == [
        "< 0.1 s", "12 s", "3 min 05 s", "2 h 10 min",
    ]  # fmt: skip


def test_what_others_published_stands_beside_the_runs_own_figure() -> None:
    shown = stages.Report(published={"test_error": 0.0125, "other": 1.0}, publication="A & B 2006")
    pipeline = manifest().pipeline
    pipeline = pipeline.model_copy(update={"stages": (*pipeline.stages, shown)})
    found = manifest(pipeline=pipeline, metrics={"test_error": 0.0131})
    assert ("test error", "1.31 %; published 1.25 % (A & B 2006)") in list(results(found))
    text = "".join(Reader(page(Report("p", found))).text)
    assert "Published: test error 1.25 % (A & B 2006)" in text
    assert "other 1" not in text
