"""An ONNX graph under construction.

ONNX's image operators take channels first, ours are last: what was transposed is remembered, so
that one spatial layer after another goes on with the same tensor, and a pair of transposes that
undo each other is left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deepstrata.schemas.trees import Array


class Nodes:
    """Nodes and constants; tensors go by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._first: dict[str, str] = {}

    def call(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Array) -> str:
        """Add an array and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def integers(self, values: Iterable[int]) -> str:
        """Add int64 numbers, such as a shape, and return their name."""
        return self.constant(np.array(list(values), np.int64))

    def number(self, value: float) -> str:
        """Add a float32 number and return its name."""
        return self.constant(np.float32(value))

    def channels_first(self, x: str, dims: int) -> str:
        """Return (N, *places, C) as (N, C, *places); ``dims`` dimensions of places."""
        if x not in self._first:
            self._first[x] = self.call("Transpose", x, perm=[0, dims + 1, *range(1, dims + 1)])
        return self._first[x]

    def channels_last(self, x: str, dims: int) -> str:
        """Return (N, C, *places) as (N, *places, C)."""
        y = self.call("Transpose", x, perm=[0, *range(2, dims + 2), 1])
        self._first[y] = x
        return y

    def needed(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """Return the nodes that the outputs are made of, in their order."""
        wanted, kept = set(outputs), list[onnx.NodeProto]()
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]
