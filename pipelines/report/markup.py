"""Markup by construction: whatever is not ``Markup`` already is escaped on its way in."""

import html
from collections.abc import Iterable

#: Elements of HTML that have no end tag.
VOID = ("br", "img", "link", "meta", "source", "wbr")
#: Control characters have no place in XML; a visible sign stands for them.
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\n\t"} | {
    127: "\N{REPLACEMENT CHARACTER}"
}


class Markup(str):
    """Text that is markup already; every other string is escaped."""

    __slots__ = ()

    def __add__(self, other: str) -> "Markup":
        return Markup(str.__add__(self, escape(other)))


def escape(text: object) -> Markup:
    """Return ``text`` as markup: unchanged if it is, escaped if not."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(str(text).translate(CONTROLS)))


def join(parts: Iterable[object]) -> Markup:
    """Return all ``parts`` one after the other."""
    return Markup("".join(escape(part) for part in parts))


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(value)


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; attributes that are None are left out.

    An underscore in an attribute's name stands for a hyphen, one at its end for nothing:
    ``tag("rect", class_="box", stroke_width=2)``.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(children)}</{name}>")
