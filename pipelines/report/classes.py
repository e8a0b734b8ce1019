"""What a model makes of the classes: the confusion matrix, and the codes in two dimensions.

C classes, N samples, D units of a code.
"""

from collections.abc import Sequence

import numpy as np

from deepstrata.pipelines.report.markup import Markup, tag
from deepstrata.pipelines.report.numbers import number
from deepstrata.pipelines.report.pictures import SEQUENTIAL, Colours, image_grid
from deepstrata.schemas.trees import Array

SHADES = 8  #: classes of the style sheet, right0 to right8 and wrong0 to wrong8
LARGEST_TABLE = 26  #: more classes are drawn as a picture without counts
POINTS = 1500
HUES = 10
SIZE = 420
SCALE = 12  #: shades of a continuous scale


def confusion_table(counts: Array, names: Sequence[str] = ()) -> Markup:
    """Return the matrix as a table: rows are the classes, columns what was predicted."""
    counts = np.asarray(counts)
    if len(counts) > LARGEST_TABLE:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        label = f"Confusion matrix of {len(counts)} classes"
        return image_grid(shares[None], Colours(SEQUENTIAL, 0.0, 1.0), label)
    names = list(names) or [str(c) for c in range(len(counts))]
    totals = counts.sum(axis=1)
    head = tag(
        "tr", tag("th", tag("span", "class"), class_="corner"),
        *(tag("th", name, scope="col") for name in names),
        tag("th", "errors", scope="col", class_="sum"),
    )  # fmt: skip
    worst = max(1, int((counts - np.diag(np.diag(counts))).max()))
    rows = []
    for i, name in enumerate(names):
        cells = [
            tag("td", f"{int(n):,}" if n else "·", class_=_shade(i == j, n, totals[i], worst))
            for j, n in enumerate(counts[i])
        ]
        wrong = f"{100 * (1 - counts[i, i] / totals[i]):.1f} %" if totals[i] else "-"
        rows.append(tag("tr", tag("th", name, scope="row"), *cells, tag("td", wrong, class_="sum")))
    caption = tag("caption", "rows: the class; columns: what the model said")
    return tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="confusion")


def _shade(right: bool, count: float, total: float, worst: float) -> str:
    if not count:
        return "none"
    share = (count / total) if right else (count / worst) ** 0.5
    return f"{'right' if right else 'wrong'}{max(1, round(SHADES * float(share)))}"


def principal_components(codes: Array) -> tuple[Array, float]:
    """Return codes (N, D) along two principal components, and the share of variance in these."""
    codes = np.asarray(codes, float)
    if codes.shape[1] <= 2:
        return np.pad(codes, ((0, 0), (0, 2 - codes.shape[1]))), 1.0
    from sklearn.decomposition import PCA

    model = PCA(min(2, len(codes)), random_state=0)
    points = model.fit_transform(codes)
    share = float(np.nansum(model.explained_variance_ratio_))
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), share


def scatter(codes: Array, labels: Array | None = None, names: Sequence[str] = ()) -> Markup:
    """Return a scatter plot of codes (N, D), coloured by class or along a continuous scale."""
    keep = np.linspace(0, len(codes) - 1, min(POINTS, len(codes))).round().astype(int)
    labels = None if labels is None else np.asarray(labels)[keep]
    points, share = principal_components(np.asarray(codes)[keep])
    low, span = points.min(axis=0), float(np.ptp(points, axis=0).max()) or 1.0
    pixels = 14 + (points - low) / span * (SIZE - 28)
    pixels[:, 1] = SIZE - pixels[:, 1]
    top, bottom = pixels[:, 1].min() - 14, pixels[:, 1].max() + 14
    styles, legend = _colouring(labels, len(points))
    dots = [
        tag("circle", cx=float(x), cy=float(y), r=2.4, class_=style)
        for (x, y), style in zip(pixels, styles, strict=True)
    ]
    label = f"{len(points):,} codes along two principal components"
    middles = [] if labels is None or legend else _middles(pixels, labels, names)
    box = f"0 {top:.0f} {SIZE} {bottom - top:.0f}"
    picture = tag("svg", *dots, *middles, viewBox=box, class_="scatter", role="img",
                  aria_label=label)  # fmt: skip
    explained = f"{100 * share:.0f} % of the variance"
    return tag("div", picture, tag("p", f"{label}: {explained}. ", legend, class_="note"))


def _colouring(labels: Array | None, count: int) -> tuple[list[str], Markup]:
    """Return a class for every point, and a legend where the labels are continuous."""
    if labels is None:
        return ["point"] * count, Markup("")
    if labels.dtype.kind in "iub":
        return [f"point hue{int(c) % HUES}" for c in labels], Markup("")
    low, high = float(np.nanmin(labels)), float(np.nanmax(labels))
    scaled = (labels - low) / ((high - low) or 1.0) * (SCALE - 1)
    styles = [f"point step{int(s)}" if np.isfinite(s) else "point" for s in scaled.round()]
    strip = tag(
        "svg",
        *(tag("rect", x=i, y=0, width=1, height=1, class_=f"step{i}") for i in range(SCALE)),
        viewBox=f"0 0 {SCALE} 1",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return styles, tag("span", number(low, 3), strip, number(high, 3), class_="bar")


def _middles(pixels: Array, labels: Array, names: Sequence[str]) -> list[Markup]:
    texts = []
    for c in np.unique(labels):
        x, y = np.median(pixels[labels == c], axis=0)
        text = names[int(c)] if int(c) < len(names) else str(c)
        texts.append(tag("text", text, x=float(x), y=float(y) + 5, class_="middle"))
    return texts
