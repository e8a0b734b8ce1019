"""Marginalised denoising autoencoders: layers solved in closed form.

Chen, Xu, Weinberger, Sha (2012), "Marginalized denoising autoencoders for domain adaptation". A
layer maps corrupted inputs linearly to clean ones. Each feature is zeroed with probability p; a
constant 1, which stands for the bias, never is. With q_i = 1 - p (1 for the constant) and S the sum
of x x' over the samples, the expected squared error over all corruptions is least for W = Q^-1 P,

    Q_ij = q_i q_j S_ij,   Q_ii = q_i S_ii,   P_ij = q_i S_ij,

and the layer gives tanh(W' x). Only S is summed over samples. For many features a layer
reconstructs the T most frequent alone, from B of them at a time, and averages over the subsets.

Letters: N samples, V features, B of a subset, T targets, C features of subset and targets, H units.
"""

from typing import NamedTuple

import numpy as np

from deepstrata.ops import dense
from deepstrata.ops.backend import add_product, namespace
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.partials import Partial
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.models import MSDA
from deepstrata.schemas.trees import Array, ArraySpec


class Moments(NamedTuple):
    """Sums over samples."""

    products: Array
    """(B, C) float32: of x_i x_j, for i in the subset."""
    totals: Array
    """(C,) float64: of x_j."""


class Subset(NamedTuple):
    """Which features a solution reads, and which it reconstructs."""

    columns: Array | None
    """(C,) places of the features summed over, the subset first; all as they are when None."""
    size: int
    """B."""
    targets: Array | None
    """(T,) places of the targets among the columns; all columns when None."""


def width(model: MSDA, visible: int) -> int:
    """Return the units of a layer."""
    return min(model.targets or visible, visible)


def shapes(model: MSDA, visible: int) -> tuple[DenseParams, ...]:
    """Return the parameters' tree with an ``ArraySpec`` for each array."""
    units = width(model, visible)
    inputs = (visible, *[units] * (model.depth - 1))
    return tuple(DenseParams(ArraySpec((v, units)), ArraySpec((units,))) for v in inputs)


def occurrences(x: Array) -> Array:
    """Return in how many samples of (N, V) each feature is not zero: (V,) int64."""
    xp = namespace(x)
    return xp.sum(xp.astype(x != 0, xp.int64), axis=0)


def subsets(model: MSDA, found: Array, order: Array) -> tuple[Subset, ...]:
    """Cut the features of the first layer into subsets of about as many as there are targets.

    Parameters
    ----------
    found
        (V,) in how many samples each feature is not zero.
    order
        (V,) the features in random order.
    """
    units = width(model, len(found))
    frequent = np.sort(np.argsort(-found, kind="stable")[:units])
    pieces = []
    for own in np.array_split(order, -(-len(found) // units)):
        columns = np.concatenate([own, np.setdiff1d(frequent, own)])
        places = np.empty(len(found), np.int64)
        places[columns] = np.arange(len(columns))
        pieces.append(Subset(columns, len(own), places[frequent]))
    return tuple(pieces)


def second_moments(x: Array, subset: Subset, out: Partial | None = None) -> Partial:
    """Return the sums that a layer is solved from.

    Parameters
    ----------
    x
        (N, V) float32 inputs of the layer.
    out
        Sums of other samples, which these are added to in place.
    """
    xp = namespace(x)
    if subset.columns is not None:
        x = xp.take(x, xp.asarray(subset.columns), axis=1)
    n, columns = x.shape
    own = x if subset.size == columns else xp.asarray(x[:, : subset.size], copy=True)
    if out is None:
        products = xp.zeros((subset.size, columns), dtype=x.dtype)
        out = Partial(Moments(products, xp.zeros(columns, dtype=xp.float64)), 0, {})
    found: Moments = out.total
    products = add_product(own, x, found.products, 1.0, 1.0)
    totals = found.totals + xp.sum(x, axis=0, dtype=xp.float64)
    return Partial(Moments(products, totals), out.n + n, {})


def solve(model: MSDA, subset: Subset, found: Partial) -> DenseParams:
    """Return a layer's weights (B, T) and bias (T,), from sums in NumPy arrays.

    The equations are solved in float64; a feature that never occurs has weights of zero.
    """
    products, totals = found.total
    size, kept = subset.size, 1.0 - model.noise
    targets = slice(None) if subset.targets is None else subset.targets
    scatter = np.empty((size + 1, size + 1))
    np.multiply(products[:, :size], kept * kept, out=scatter[:size, :size])
    np.fill_diagonal(scatter, kept * products.diagonal() + model.ridge)
    scatter[size, :size] = scatter[:size, size] = kept * totals[:size]
    scatter[size, size] = found.n
    across = np.empty((size + 1, len(totals[targets])))
    np.multiply(products[:, targets], kept, out=across[:size])
    across[size] = totals[targets]
    solution = np.linalg.solve(scatter, across)
    return DenseParams(solution[:size].astype(np.float32), solution[size].astype(np.float32))


def assemble(visible: int, pieces: tuple[Subset, ...], solved: list[DenseParams]) -> DenseParams:
    """Average the solutions of all subsets: one layer that reads all features."""
    units = len(solved[0].bias)
    weights = np.zeros((visible, units), np.float32)
    for piece, own in zip(pieces, solved, strict=True):
        rows = slice(None) if piece.columns is None else piece.columns[: piece.size]
        weights[rows] = own.weights / np.float32(len(pieces))
    bias = np.mean([own.bias for own in solved], axis=0, dtype=np.float64)
    return DenseParams(weights, bias.astype(np.float32))


def layer_outputs(params: DenseParams, x: Array) -> Array:
    """Return what a layer gives: (N, V) -> (N, H)."""
    return dense.forward("tanh", params, x)


def encode(
    model: MSDA, params: tuple[DenseParams, ...], x: Array, layer: int | None = None
) -> Array:
    """Return the input and what every layer gives, side by side, or what one layer gives.

    Raises
    ------
    DeclarationError
        There is no such layer.
    """
    last = len(params) - 1 if layer is None else layer
    if not 0 <= last < len(params):
        raise DeclarationError(f"the model has layers 0 to {len(params) - 1}; found layer {layer}")
    found = [x]
    for own in params[: last + 1]:
        found.append(layer_outputs(own, found[-1]))
    return found[-1] if layer is not None else namespace(x).concat(found, axis=1)


def code_width(model: MSDA, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    units = width(model, visible)
    return units if layer is not None else visible + model.depth * units
