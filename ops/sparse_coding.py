"""Sparse coding: codes by FISTA or by joint line searches, dictionaries by gradient steps.

A sample x is explained by a code z with few numbers that are not zero, ``x = z W``, by minimising
``|x - z W|**2 + penalty * |z|_1 + weight * |z - p|**2``. The last term is that of predictive sparse
decomposition, where p is a prediction; plain sparse coding has none.

Olshausen & Field (1996); Lee, Battle, Raina, Ng (2007), "Efficient sparse coding algorithms";
Beck & Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm"; Raina, Madhavan, Ng
(2009), "Large-scale deep unsupervised learning using graphics processors", for the line search.

Letters: N samples, V features, A atoms (rows of W, numbers of a code).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from deepstrata.ops.backend import Backend, Scratch, add_product, device_array, namespace, product
from deepstrata.ops.kernels import shrink, soft_threshold, squared_error
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.random import normal
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.sparse import SparseCoding
from deepstrata.schemas.trees import Array, ArraySpec, Tree

POWER_STEPS = 30  #: of the power iteration
#: A power iteration comes from below. FISTA converges to 4/3 of the step that is safe, so it is
#: enough to be near.
MARGIN = 1.05
TINY = 1e-12


class SparseCodingParams(NamedTuple):
    """The parameters of sparse coding."""

    dictionary: Array
    """(A, V)"""


def shapes(model: SparseCoding, visible: int) -> SparseCodingParams:
    """Return what the parameters look like; see ``models.shapes``."""
    return SparseCodingParams(ArraySpec((model.atoms, visible)))


def init(
    model: SparseCoding, visible: int, key: Key, backend: Backend = "numpy"
) -> SparseCodingParams:
    """Return fresh parameters; see ``models.init``."""
    return SparseCodingParams(draw_atoms(model.atoms, visible, key, backend))


def draw_atoms(atoms: int, features: int, key: Key, backend: Backend = "numpy") -> Array:
    """Return a dictionary (A, V), each atom drawn evenly from the sphere."""
    like = device_array(np.empty(0, np.float32), backend)
    rows = np.arange(atoms, dtype=np.int64)
    dictionary = normal(fold(key, "dictionary"), rows, features, like=like)
    hold_on_sphere(dictionary)
    return dictionary


class Synthesis(NamedTuple):
    """The linear map from codes to samples, and what inference asks of it."""

    decode: Callable[[Array, Array | None], Array]
    """Codes (N, ...) to samples (N, ...), into the second argument where given."""
    correlate: Callable[[Array, Array | None], Array]
    """Its adjoint: samples to codes."""
    gram: Array | None = None
    """(A, A), where ``z @ gram`` is ``correlate(decode(z))`` and costs less."""


def dense(dictionary: Array) -> Synthesis:
    """Return the map ``z -> z W`` of a dictionary (A, V)."""
    atoms, features = dictionary.shape
    return Synthesis(
        lambda z, out: product(z, dictionary, out),
        lambda x, out: product(x, dictionary.T, out),
        product(dictionary, dictionary.T) if atoms <= 2 * features else None,
    )


def largest_eigenvalue(synthesis: Synthesis, shape: tuple[int, ...], like: Array) -> float:
    """Return the largest eigenvalue of ``correlate(decode(z))``, a little less by power iteration.

    Parameters
    ----------
    shape
        (1, ...) of one code.
    like
        An array of the library and dtype to compute in.
    """
    xp = namespace(like)
    start = normal(Key(0), np.zeros(1, np.int64), math.prod(shape), like=like)
    z = xp.reshape(xp.astype(start, like.dtype), shape)
    for _ in range(POWER_STEPS):
        z = z / (xp.sqrt(xp.sum(z * z)) + TINY)
        z = synthesis.correlate(synthesis.decode(z, None), None)
    return float(xp.sqrt(xp.sum(z * z)))


def _descent(
    synthesis: Synthesis, lipschitz: float, weight: float, mask: Array | None, seen: Array
) -> Callable[[Array, Array], object]:
    """Return the part of a gradient step that is linear in the code: from y, into ``out``.

    ``seen`` is a buffer like the samples.
    """
    keep = 1.0 - weight / lipschitz
    if synthesis.gram is not None and mask is None:
        xp, gram = namespace(synthesis.gram), synthesis.gram
        unit = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
        step = keep * unit - gram / lipschitz
        return lambda y, out: product(y, step, out)

    def move(y: Array, out: Array) -> None:
        error = synthesis.decode(y, seen)
        if mask is not None:
            error *= mask
        synthesis.correlate(error, out)
        out *= -1.0 / lipschitz
        out += keep * y

    return move


def fista(
    descend: Callable[[Array, Array], object],
    offset: Array,
    z: Array,
    threshold: float,
    steps: int,
    scratch: Scratch,
) -> Array:
    """Take steps of FISTA from ``z``, which is overwritten and returned.

    Parameters
    ----------
    descend, offset
        A step of gradient descent from y is what ``descend`` writes, plus ``offset``.
    threshold
        Of the shrinkage after each: the penalty times half the step's length.
    """
    y, moved = (scratch.empty(name, z.shape, z) for name in ("point", "moved"))
    y[...] = z
    t = 1.0
    for _ in range(steps):
        following = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * t * t))
        descend(y, moved)
        shrink(moved, offset, z, threshold, (t - 1.0) / following)
        y, moved, t = moved, y, following
    return z


def infer(
    synthesis: Synthesis,
    x: Array,
    start: Array,
    penalty: float,
    steps: int,
    weight: float = 0.0,
    mask: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return codes by FISTA, from ``start``, which is also the prediction where it has a weight.

    Parameters
    ----------
    x
        (N, V), zeros where ``mask`` is false.
    start
        (N, A), not changed.
    weight
        Of the squared distance to ``start``.
    mask
        (N, V), true where a value is to be explained.
    scratch
        Buffers to use again; the codes lie in them.

    Returns
    -------
    (N, A)
    """
    xp, scratch = namespace(x), scratch or Scratch()
    z, offset = (scratch.empty(name, start.shape, start) for name in ("code", "offset"))
    z[...] = start
    mask = None if mask is None else xp.astype(mask, x.dtype)
    top = largest_eigenvalue(synthesis, (1, *start.shape[1:]), x)
    lipschitz = MARGIN * top + weight + TINY
    synthesis.correlate(x, offset)
    if weight:
        offset += weight * start
    offset *= 1.0 / lipschitz
    seen = scratch.empty("seen", x.shape, x)
    descend = _descent(synthesis, lipschitz, weight, mask, seen)
    return fista(descend, offset, z, 0.5 * penalty / lipschitz, steps, scratch)


def line_search(
    dictionary: Array, x: Array, penalty: float, steps: int, mask: Array | None = None
) -> Array:
    """Return codes by joint line searches from zero (Raina, Madhavan, Ng 2009).

    Each step finds the best value of every coordinate as if the others stayed, and goes to the
    best point on the line to all of them together, so the objective never rises.

    Parameters
    ----------
    dictionary
        (A, V).
    x
        (N, V), zeros where ``mask`` is false.
    mask
        (N, V), true where a value is to be explained.

    Returns
    -------
    (N, A)
    """
    xp, error = namespace(x), x
    shape = (x.shape[0], dictionary.shape[0])
    z = xp.zeros(shape, dtype=x.dtype, device=device(x))
    mask = None if mask is None else xp.astype(mask, x.dtype)
    squares = dictionary * dictionary
    curvature = xp.sum(squares, axis=1) if mask is None else mask @ squares.T
    curvature = xp.clip(curvature, TINY, None)
    for _ in range(steps):
        slope = error @ dictionary.T
        way = soft_threshold(slope + z * curvature, 0.5 * penalty) / curvature - z
        change = way @ dictionary if mask is None else (way @ dictionary) * mask
        down = -2.0 * xp.sum(slope * way, axis=1, keepdims=True)
        bend = 2.0 * xp.sum(change * change, axis=1, keepdims=True)
        far = _best_on_line(z, way, down, bend, penalty)
        z = z + far * way
        error = error - far * change
    return z


def _best_on_line(z: Array, way: Array, slope: Array, bend: Array, penalty: float) -> Array:
    """Return where ``slope * t + bend * t**2 / 2 + penalty * |z + t * way|_1`` is least, t >= 0.

    Between the places where a coordinate changes sign the derivative is a line. It rises from one
    piece to the next, so the zeros of the lines fall while the pieces' ends rise: the least of
    both is largest at the minimum.

    Parameters
    ----------
    z, way
        (N, A).
    slope, bend
        (N, 1).

    Returns
    -------
    (N, 1)
    """
    xp = namespace(z)
    size = xp.abs(way)
    crosses = z * way < 0.0
    at = xp.where(crosses, xp.abs(z) / xp.where(crosses, size, 1.0), xp.inf)
    order = xp.argsort(at, axis=1)
    ends = xp.take_along_axis(at, order, axis=1)
    jumps = xp.where(crosses, 2.0 * penalty * size, 0.0)
    jumps = xp.cumulative_sum(xp.take_along_axis(jumps, order, axis=1), axis=1)
    first = slope + penalty * xp.sum(xp.where(crosses, -size, size), axis=1, keepdims=True)
    slopes = xp.concat([first, first + jumps], axis=1)
    zeros = -slopes / xp.clip(bend, TINY, None)
    ends = xp.concat([ends, xp.full_like(first, xp.inf)], axis=1)
    best = xp.max(xp.minimum(zeros, ends), axis=1, keepdims=True)
    return xp.clip(best, 0.0, None)


def codes(
    model: SparseCoding,
    params: SparseCodingParams,
    x: Array,
    mask: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return the inferred codes of samples: (N, V) -> (N, A), from zeros."""
    if model.inference == "line_search":
        return line_search(params.dictionary, x, model.penalty, model.steps, mask)
    xp, atoms = namespace(x), params.dictionary.shape[0]
    start = xp.zeros((x.shape[0], atoms), dtype=x.dtype, device=device(x))
    synthesis = dense(params.dictionary)
    return infer(synthesis, x, start, model.penalty, model.steps, mask=mask, scratch=scratch)


def encode(
    model: SparseCoding, params: SparseCodingParams, x: Array, layer: int | None = None
) -> Array:
    """Return codes; see ``models.encode``."""
    if layer not in (None, 0):
        raise DeclarationError(f"a {model.kind} model has one layer, 0; found layer {layer}")
    return codes(model, params, x)


def decode(model: Any, params: Any, code: Array, visible: int) -> Array:
    """Return the samples that codes stand for: (N, A) -> (N, V); see ``pretraining.decode``."""
    return product(code, params.dictionary)


class Explained(NamedTuple):
    """What codes leave to explain, and how sparse they are."""

    delta: Array
    """(N, V) derivatives of the squared error by the reconstructions."""
    stats: dict[str, Array | float]
    """Sums over the samples."""


def explain(
    synthesis: Synthesis, batch: Batch, x: Array, z: Array, penalty: float, scratch: Scratch
) -> Explained:
    """Measure codes.

    Parameters
    ----------
    batch
        Its mask says what counts.
    x, z
        (N, V) features and (N, A) codes.

    Returns
    -------
    Explained
        ``stats``: ``squared_error``, ``nonzero_share`` and ``energy``, what is minimised.
    """
    xp = namespace(x)
    made = synthesis.decode(z, scratch.empty("reconstruction", x.shape, x))
    if batch.mask is not None:
        made *= xp.astype(batch.mask, made.dtype)
    error = squared_error(x, made)
    made -= x
    made *= 2.0
    units = math.prod(z.shape[1:])
    stats = {
        "squared_error": error,
        "nonzero_share": xp.sum(xp.astype(z != 0.0, xp.float64)) / units,
        "energy": error + penalty * xp.sum(xp.astype(xp.abs(z), xp.float64)),
    }
    return Explained(made, stats)


def dictionary_gradient(z: Array, delta: Array, out: Array | None, into: Into | None) -> Array:
    """Return ``z' delta``, the derivatives by a dictionary (A, V), with the codes held fixed."""
    if into is None or out is None:
        return product(z.T, delta)
    return add_product(z, delta, out, into.scale, into.keep)


def gradient(
    model: SparseCoding,
    params: SparseCodingParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the dictionary's gradient with the inferred codes held fixed; see models.gradient."""
    scratch, x = scratch or Scratch(), present(batch)
    z = codes(model, params, x, batch.mask, scratch)
    found = explain(dense(params.dictionary), batch, x, z, model.penalty, scratch)
    into = out and out.tree.dictionary
    total = SparseCodingParams(dictionary_gradient(z, found.delta, into, out))
    return Partial(total, x.shape[0], found.stats), carry


def evaluate(model: SparseCoding, params: SparseCodingParams, batch: Batch) -> dict[str, float]:
    """Return ``squared_error``, ``nonzero_share`` and ``energy``; see ``models.evaluate``."""
    x = present(batch)
    z = codes(model, params, x, batch.mask)
    found = explain(dense(params.dictionary), batch, x, z, model.penalty, Scratch())
    return {name: float(value) for name, value in found.stats.items()} | {"n": x.shape[0]}


def norms(dictionary: Array) -> Array:
    """Return the lengths (A, 1) of the atoms."""
    xp = namespace(dictionary)
    return xp.sqrt(xp.sum(dictionary * dictionary, axis=1, keepdims=True))


def hold_in_ball(dictionary: Array) -> None:
    """Shorten atoms that are longer than 1, in place."""
    dictionary /= namespace(dictionary).clip(norms(dictionary), 1.0, None)


def hold_on_sphere(dictionary: Array) -> None:
    """Give every atom the length 1, in place; one of zeros stays."""
    dictionary /= namespace(dictionary).clip(norms(dictionary), TINY, None)
