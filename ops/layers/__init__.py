"""Layers as tables of functions, chosen by the declaration's type; each file adds its rules."""

from deepstrata.ops.layers import plain, spatial
from deepstrata.ops.layers.table import (
    Pass,
    backward,
    connect,
    fans,
    forward,
    initial_scale,
    specs,
    through,
)

__all__ = [
    "Pass",
    "backward",
    "connect",
    "fans",
    "forward",
    "initial_scale",
    "plain",
    "spatial",
    "specs",
    "through",
]
