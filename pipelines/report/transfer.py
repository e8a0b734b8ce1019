"""What is lost from domain to domain: tables of errors, shaded by their ratio to the best known.

M domains; a table of errors (M, M) has the domain of the training along the rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepstrata.pipelines.report.classes import SHADES
from deepstrata.pipelines.report.markup import Markup, tag
from deepstrata.schemas.trees import Array

LOST = 2.0  #: ratio from which a cell has the darkest shade


class Transfer(NamedTuple):
    """Errors of classifiers in every domain, by what they see."""

    domains: tuple[str, ...]
    errors: dict[str, Array]
    """(M, M) for each of ``features`` and ``codes``."""


def transfer_table(transfer: Transfer, seen: str) -> Markup:
    """Return errors in percent; shades tell by how much they exceed those within the domain.

    A row ends in the mean ratio of its other domains to classifiers of plain features that were
    trained there.
    """
    errors, within = transfer.errors[seen], transfer.errors["features"].diagonal()
    ratios = errors / np.where(within, within, np.nan)
    head = tag(
        "tr", tag("th", tag("span", "trained on"), class_="corner"),
        *(tag("th", name, scope="col") for name in transfer.domains),
        tag("th", "ratio", scope="col", class_="sum"),
    )  # fmt: skip
    rows = [
        tag("tr", tag("th", name, scope="row"), *_cells(errors[s], ratios[s], s),
            tag("td", f"{np.delete(ratios[s], s).mean():.2f}", class_="sum"))
        for s, name in enumerate(transfer.domains)
    ]  # fmt: skip
    caption = tag("caption", f"errors in percent of a classifier of the {seen}; columns: tested on")
    return tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="confusion")


def _cells(errors: Array, ratios: Array, own: int) -> Sequence[Markup]:
    return [
        tag("td", f"{100 * error:.1f}", class_=_shade(ratio, t == own))
        for t, (error, ratio) in enumerate(zip(errors, ratios, strict=True))
    ]


def _shade(ratio: float, own: bool) -> str:
    if own or not np.isfinite(ratio):
        return "right1"
    return f"wrong{int(np.clip(round(SHADES * (ratio - 1) / (LOST - 1)), 1, SHADES))}"
