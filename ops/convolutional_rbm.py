"""Convolutional restricted Boltzmann machines: hidden units that share weights across places.

Lee, Grosse, Ranganath, Ng (2009), "Convolutional deep belief networks for scalable unsupervised
learning of hierarchical representations"; Norouzi, Ranjbar, Mori (2009), "Stacks of convolutional
restricted Boltzmann machines for shift-invariant feature learning", whose hidden units are
independent of each other, as here: there is no probabilistic max-pooling.

With the cross-correlation ``*`` of ``ops.convolution`` and binary units the energy is
``E(v, h) = -sum_k h_k . (W_k * v + c_k) - sum_c b_c sum v_c``; with Gaussian visible ones of unit
variance the last term becomes ``|v - b|**2 / 2``. A filter that covers the whole sample makes it an
ordinary RBM. The parameters are an ``RBMParams`` of other shapes.

Letters: N samples, V features, P hidden places, C channels, M maps, b (C,) visible and c (M,)
hidden biases; weights are (*kernel, C, M).
"""

import math
from functools import partial

from deepstrata.ops import convolution, rbm
from deepstrata.ops.backend import Backend, Scratch, namespace, negative
from deepstrata.ops.initial import drawn
from deepstrata.ops.kernels import sigmoid, sigmoid_sample, squared_error
from deepstrata.ops.layers import specs
from deepstrata.ops.layers.spatial import geometry
from deepstrata.ops.partials import Batch, Into, Partial, present, put
from deepstrata.ops.preprocess import flatten
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.samples import sample_shape, shaped
from deepstrata.ops.windows import Geometry
from deepstrata.schemas.convolutional import ConvolutionalRBM, as_convolution
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.shapes import shape_after
from deepstrata.schemas.trees import Array, ArraySpec, Tree


def shapes(model: ConvolutionalRBM, visible: int) -> RBMParams:
    """Return an ``ArraySpec`` for each array of a machine of ``visible`` features."""
    shape = sample_shape(model, visible)
    shape_after(model, shape)
    found = specs(as_convolution(model, "logistic"), shape)
    return RBMParams(found.weights, ArraySpec((shape[-1],)), found.bias)


def init(model: ConvolutionalRBM, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    """Return small random weights, and biases of zero."""
    found: RBMParams = drawn(shapes(model, visible), model.weight_scale, key, backend)
    return found


def _windows(model: ConvolutionalRBM) -> Geometry:
    return geometry(as_convolution(model, "logistic"))


def _everywhere(bias: Array, units: int) -> Array:
    """Return a bias of maps or channels (M,) as one of all units at all places (P * M,)."""
    xp, maps = namespace(bias), bias.shape[0]
    return xp.reshape(xp.broadcast_to(bias, (units // maps, maps)), (units,))


def _into_hidden(
    model: ConvolutionalRBM, params: RBMParams, x: Array, scratch: Scratch | None = None
) -> tuple[Array, Array]:
    """Return what comes into the hidden units of samples (N, *places, C), and their biases.

    Both as vectors, (N, P * M) and (P * M,); the first lies in ``scratch`` where given.
    """
    shape = (x.shape[0], *shape_after(model, tuple(x.shape[1:])))
    out = None if scratch is None else scratch.empty("into hidden", shape, params.weights)
    into = flatten(convolution.convolve(_windows(model), x, params.weights, out, scratch))
    return into, _everywhere(params.hidden_bias, into.shape[1])


def hidden_mean(
    model: ConvolutionalRBM, params: RBMParams, v: Array, layer: int | None = None
) -> Array:
    """Return P(h = 1 | v): (N, V) -> (N, P * M); see ``models.encode``."""
    if layer not in (None, 0):
        raise DeclarationError(f"a {model.kind} model has one layer, 0; found layer {layer}")
    into, bias = _into_hidden(model, params, shaped(model, v))
    return sigmoid(into, bias, out=into)


def visible_mean(
    model: ConvolutionalRBM,
    params: RBMParams,
    h: Array,
    visible: int,
    out: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return the mean of v given h: (N, P * M) -> (N, V), into ``out`` where given."""
    xp, shape = namespace(h), sample_shape(model, visible)
    h = xp.reshape(h, (h.shape[0], *shape_after(model, shape)))
    into = flatten(
        convolution.convolve_input_gradient(
            _windows(model),
            h,
            params.weights,
            (h.shape[0], *shape),
            None if out is None else shaped(model, out),
            scratch,
        )
    )
    bias = _everywhere(params.visible_bias, visible)
    if model.visible_units == "bernoulli":
        return sigmoid(into, bias, out=into)
    into += bias
    return into


def reconstruct(model: ConvolutionalRBM, params: RBMParams, v: Array) -> Array:
    """Return the mean of v given the mean of h given v: (N, V) -> (N, V), without noise."""
    return visible_mean(model, params, hidden_mean(model, params, v), v.shape[1])


@rbm.free_energy.register
def _(model: ConvolutionalRBM, params: RBMParams, v: Array, mask: Array | None = None) -> Array:
    xp = namespace(v)
    into, bias = _into_hidden(model, params, shaped(model, v))
    into += bias
    softplus = xp.sum(xp.logaddexp(into, xp.zeros_like(into)), axis=1)
    visible_bias = _everywhere(params.visible_bias, v.shape[1])
    return rbm.visible_energy(model, visible_bias, v, mask) - softplus


def contrastive_divergence(
    model: ConvolutionalRBM,
    params: RBMParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend as ``rbm.contrastive_divergence`` does, summed over places.

    Positive and negative statistics are one correlation, of ``[-v0; v1]`` with ``[h0; h1]``.
    """
    scratch = Scratch() if scratch is None else scratch
    x = present(batch)
    n, visible = x.shape
    hidden = math.prod(shape_after(model, sample_shape(model, visible)))
    v = scratch.empty("visible", (2 * n, visible), params.weights)
    h = scratch.empty("hidden", (2 * n, hidden), params.weights)
    error = _phases(model, params, batch._replace(x=x, scaling=None), key, v, h, scratch)
    total = _statistics(model, v, h, n, out, scratch)
    return Partial(total, n, {"squared_error": error}), carry


def _phases(
    model: ConvolutionalRBM,
    params: RBMParams,
    batch: Batch,
    key: Key,
    v: Array,
    h: Array,
    scratch: Scratch,
) -> Array | float:
    """Fill ``v`` with [-v0; v1] and ``h`` with [h0; h1]; return the first error."""
    x, n = batch.x, batch.x.shape[0]
    v1, h0, h1 = v[n:, :], h[:n, :], h[n:, :]
    states = scratch.empty("states", h0.shape, h0)
    draw = partial(_sample, model, params, rows=batch.rows, key=key, states=states, scratch=scratch)
    draw(x, draw=0, mean=h0)
    error: Array | float = 0.0
    for step in range(1, model.gibbs_steps + 1):
        visible_mean(model, params, states, x.shape[1], v1, scratch)
        if batch.mask is not None:
            v1 *= namespace(v1).astype(batch.mask, v1.dtype)
        if step == 1:
            error = squared_error(x, v1)
        if step < model.gibbs_steps:
            draw(v1, draw=step, mean=h1)
    into, bias = _into_hidden(model, params, shaped(model, v1), scratch)
    sigmoid(into, bias, out=h1)
    negative(x, v[:n, :])
    return error


def _sample(
    model: ConvolutionalRBM,
    params: RBMParams,
    v: Array,
    *,
    rows: Array,
    key: Key,
    draw: int,
    mean: Array,
    states: Array,
    scratch: Scratch,
) -> None:
    """Fill ``mean`` and ``states`` with means and samples of hidden units given ``v``."""
    into, bias = _into_hidden(model, params, shaped(model, v), scratch)
    sigmoid_sample(into, bias, key, rows, draw, mean=mean, out=states)


def _statistics(
    model: ConvolutionalRBM, v: Array, h: Array, n: int, out: Into | None, scratch: Scratch
) -> RBMParams:
    """Return the gradient from stacked phases (2 N, ...), as ``rbm.statistics`` does."""
    xp, x = namespace(v), shaped(model, v)
    units = xp.reshape(h, (h.shape[0], *shape_after(model, tuple(x.shape[1:]))))
    places = tuple(range(x.ndim - 1))
    positive = xp.sum(units[:n, ...], axis=places)
    hidden_bias = xp.sum(units[n:, ...], axis=places) - positive
    if model.sparsity_target is not None:
        expected = n * math.prod(units.shape[1:-1]) * model.sparsity_target
        hidden_bias += model.sparsity_cost * (positive - expected)
    visible_bias = xp.sum(x, axis=places)
    into = out and out._replace(tree=out.tree.weights)
    weights = convolution.convolve_weight_gradient(_windows(model), x, units, into, scratch)
    if out is None:
        return RBMParams(weights, visible_bias, hidden_bias)
    tree: RBMParams = out.tree
    return RBMParams(
        weights, put(visible_bias, tree.visible_bias, out), put(hidden_bias, tree.hidden_bias, out)
    )
