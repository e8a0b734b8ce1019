"""Functions in declarations: named, so that another process can import them."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema


def _import(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    module, _, name = value.partition(":")
    if not name:
        raise ValueError("expected a function or 'module:name'")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot import {value!r}: {error}") from None


def _module_level(value: Any) -> Any:
    value = _import(value)
    name = getattr(value, "__qualname__", "")
    if not callable(value) or "<" in name or "." in name or not name:
        raise ValueError(
            "expected a function defined with def at the top level of a module, so that workers "
            "can find it by its name"
        )
    return value


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


Function = Annotated[
    Callable[..., Any],
    BeforeValidator(_module_level),
    PlainSerializer(_name_of, return_type=str),
    WithJsonSchema({"type": "string", "description": "module:name"}),
]
"""Declared as itself, written as ``module:name``."""


def _plain(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("expected text, a number, a boolean or None")
    return value


Argument = Annotated[str | int | float | bool | None, BeforeValidator(_plain)]
"""What can be passed on to one, and be written."""
