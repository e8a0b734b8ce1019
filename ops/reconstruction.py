"""What an autoencoder learns: the gradient of what is lost between a sample and its reconstruction.

Vincent et al. (2010), "Stacked denoising autoencoders" (noise, emphasis); Rifai et al. (2011),
"Contractive auto-encoders: explicit invariance during feature extraction".

A sample ``x`` is seen as ``x~``, with code ``h`` and reconstruction ``y``. Its loss is
``sum_i w_i l(x_i, y_i) + s sum_j |h_j| + c |dh/dx~|**2`` with ``l`` half the squared error or the
cross-entropy, ``w`` the emphasis on what the noise has changed (0 where a value is absent), ``s``
and ``c`` the costs of sparsity and contraction. All of it is a sum over samples.

Letters: N samples, V features, H units of a code, I inputs of a layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from array_api_compat import device

from deepstrata.ops import chain, dense, preprocess
from deepstrata.ops.autoencoder import (
    AutoencoderParams,
    BiasParams,
    decoder_params,
    logit_decoder,
    reconstruct,
)
from deepstrata.ops.backend import Scratch, add_product, namespace, product, store
from deepstrata.ops.dense import ACTIVATIONS, DenseParams
from deepstrata.ops.kernels import sigmoid, squared_error
from deepstrata.ops.noise import corrupt
from deepstrata.ops.partials import Batch, Into, Partial, present, put
from deepstrata.ops.samples import shaped
from deepstrata.schemas.autoencoders import Autoencoder, encoder_layers
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.trees import Array, Tree


class _Task(NamedTuple):
    """What a gradient is computed from."""

    model: Autoencoder
    x: Array
    """(N, V) clean."""
    seen: Array
    """(N, V) with noise."""
    weights: Array | None
    """(N, V) how much each value counts; None if all count 1."""
    batch: Batch
    key: Key


def gradient(
    model: Autoencoder,
    params: AutoencoderParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend, summed over the batch, and the carry as it was.

    Parameters
    ----------
    key
        The round's key; the batch's rows address the noise below it.
    out
        Where to write it; its tree becomes ``Partial.total``.
    scratch
        Buffers to use again from call to call.

    Returns
    -------
    Partial
        ``stats``: ``loss``, and ``squared_error`` of what is made of the samples as they are seen.
    Tree
        The carry.
    """
    scratch = Scratch() if scratch is None else scratch
    x = present(batch)
    seen, changed = corrupt(model.noise, x, batch.rows, fold(key, "noise"))
    if batch.mask is not None:
        seen = namespace(x).where(batch.mask, seen, namespace(x).zeros_like(x))
    task = _Task(model, x, seen, _weights(model, batch, x, changed), batch, key)
    together = model.tied and params.encoder[0].weights.ndim == 2
    total, stats = (_tied if together else _by_layers)(task, params, out, scratch)
    return Partial(total, x.shape[0], stats), carry


def _weights(model: Autoencoder, batch: Batch, x: Array, changed: Array | None) -> Array | None:
    xp, emphasis = namespace(x), (model.corrupted_weight, model.intact_weight)
    there = None if batch.mask is None else xp.astype(batch.mask, x.dtype)
    if changed is None or emphasis == (1, 1):
        return there
    weights = xp.where(changed, xp.full_like(x, emphasis[0]), xp.full_like(x, emphasis[1]))
    return weights if there is None else weights * there


def _sum(x: Array) -> Any:
    xp = namespace(x)
    return xp.sum(xp.astype(x, xp.float64))


def loss_of(
    model: Autoencoder, x: Array, y: Array, weights: Array | None, delta: Array
) -> Array | float:
    """Return the loss of reconstructions, and fill ``delta`` with its derivatives.

    Parameters
    ----------
    x, y
        (N, V) samples and reconstructions.
    weights
        (N, V) how much each value counts; None if all count 1.
    delta
        (N, V) derivatives by ``y``, of cross-entropy by its logits.
    """
    store(y - x, delta)
    if model.loss == "cross_entropy":
        xp = namespace(x)
        # What no float tells from 0 or 1 counts as the nearest that one does.
        least = float(xp.finfo(y.dtype).eps) / 2
        p = xp.clip(y, least, 1.0 - least)
        losses = -(x * xp.log(p) + (1.0 - x) * xp.log(1.0 - p))
        loss = _sum(losses if weights is None else losses * weights)
    elif weights is None:
        loss = 0.5 * squared_error(x, y)
    else:
        loss = 0.5 * _sum(delta * delta * weights)
    if weights is not None:
        delta *= weights
    return loss


def _stats(task: _Task, y: Array, loss: Array | float) -> dict[str, Any]:
    error = squared_error(task.x, present(Batch(task.batch.rows, y, mask=task.batch.mask)))
    return {"loss": loss, "squared_error": error}


#: For each activation that can be contracted: its slope ``f'``, and ``f'' / f'``, from its values.
_SLOPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "logistic": (lambda h: h * (1.0 - h), lambda h: 1.0 - 2.0 * h),
    "tanh": (lambda h: 1.0 - h * h, lambda h: -2.0 * h),
}


def _penalise(
    model: Autoencoder, weights: Array, h: Array, delta: Array
) -> tuple[Array | float, Array | None]:
    """Add the derivatives of a code's costs to ``delta``, (N, H); return the costs.

    Returns
    -------
    cost
        Summed over samples.
    pull
        (H,), times a unit's weights what they add to their gradient; None without contraction.
    """
    xp, cost, pull = namespace(h), 0.0, None
    if model.sparsity_cost:
        cost += model.sparsity_cost * _sum(xp.abs(h))
        delta += model.sparsity_cost * xp.sign(h)
    if model.contraction_cost:
        slope, bend = (f(h) for f in _SLOPES[encoder_layers(model)[0].activation])
        norms = xp.sum(weights * weights, axis=0)
        squares = xp.sum(slope * slope, axis=0)
        cost += model.contraction_cost * _sum(squares * norms)
        delta += 2.0 * model.contraction_cost * slope * bend * norms
        pull = 2.0 * model.contraction_cost * squares
    return cost, pull


def _pulled(total: AutoencoderParams, weights: Array, pull: Array | None, out: Into | None) -> None:
    """Add what contraction asks of the encoder's one layer to its gradient."""
    if pull is not None:
        found = total.encoder[0].weights
        found += weights * (pull * (1.0 if out is None else out.scale))


def _by_layers(
    task: _Task, params: AutoencoderParams, out: Into | None, scratch: Scratch
) -> tuple[AutoencoderParams, dict[str, Any]]:
    """Return the gradient by the tables of layers."""
    down_params = decoder_params(params)
    model, x, rows = task.model, task.x, task.batch.rows
    up, down = encoder_layers(model), logit_decoder(model, x.shape[1])
    at_up, at_down = (
        chain.passes(len(net), rows, fold(task.key, name), scratch.within(name))
        for name, net in (("encoder", up), ("decoder", down))
    )
    code, kept_up = chain.forward(up, params.encoder, shaped(model, task.seen), at_up)
    made, kept_down = chain.forward(down, down_params, code, at_down)
    y, h = preprocess.flatten(made), preprocess.flatten(code)
    if model.loss == "cross_entropy":
        xp = namespace(x)
        y = sigmoid(y, xp.zeros(y.shape[1:], dtype=y.dtype, device=device(y)), out=y)
    delta = scratch.empty("delta", y.shape, y)
    loss = loss_of(model, x, y, task.weights, delta)
    stats = _stats(task, y, loss)
    delta = namespace(x).reshape(delta, made.shape)
    into = None if out is None or model.tied else out._replace(tree=out.tree.decoder)
    by_code, decoder = chain.backward(
        down, down_params, kept_down, delta, at_down, into, below=True
    )
    weights = getattr(params.encoder[0], "weights", None)
    cost, pull = _penalise(model, weights, h, preprocess.flatten(by_code))
    stats["loss"] += cost
    into = out and out._replace(tree=out.tree.encoder)
    _, encoder = chain.backward(up, params.encoder, kept_up, by_code, at_up, into)
    if model.tied:
        decoder = _fold(encoder, decoder, out)
    total = AutoencoderParams(encoder, decoder)
    _pulled(total, weights, pull, out)
    return total, stats


def _fold(
    encoder: tuple[Tree, ...], decoder: tuple[Tree, ...], out: Into | None
) -> tuple[Tree, ...]:
    """Add a mirror image's gradient to that of the weights it shares; return its biases'."""
    found = list[BiasParams]()
    for i, (own, mirror) in enumerate(zip(reversed(encoder), decoder, strict=True)):
        weights: Array = own.weights
        weights += mirror.weights * (1.0 if out is None else out.scale)
        bias = mirror.bias if out is None else put(mirror.bias, out.tree.decoder[i].bias, out)
        found.append(BiasParams(bias))
    return tuple(found)


def _tied(
    task: _Task, params: AutoencoderParams, out: Into | None, scratch: Scratch
) -> tuple[AutoencoderParams, dict[str, Any]]:
    """Return the gradient of dense layers whose weights serve twice.

    Both terms of a layer's are one product, ``[inputs; derivatives by the decoder's outputs]'
    [derivatives by codes; the decoder's inputs]``: each half is computed where it is needed.
    """
    model, x, n = task.model, task.x, task.x.shape[0]
    weights = [own.weights for own in params.encoder]
    left, right = (
        [scratch.empty(f"{side}{i}", (2 * n, w.shape[axis]), w) for i, w in enumerate(weights)]
        for axis, side in enumerate(("left", "right"))
    )
    y = _tied_forward(task, params, left, right, scratch.empty("y", x.shape, x))
    loss = loss_of(model, x, y, task.weights, left[0][n:, :])
    stats = _stats(task, y, loss)
    if model.loss == "squared_error":
        ACTIVATIONS[model.output][1](left[0][n:, :], y)
    cost, pull = _tied_backward(task, weights, left, right)
    stats["loss"] += cost
    total = _tied_sums(params, left, right, n, out)
    _pulled(total, weights[0], pull, out)
    return total, stats


def _tied_forward(
    task: _Task, params: AutoencoderParams, left: list[Array], right: list[Array], y: Array
) -> Array:
    """Fill the inputs of the encoder's and of the decoder's layers; return reconstructions."""
    n, net = task.x.shape[0], encoder_layers(task.model)
    store(task.seen, left[0][:n, :])
    codes = [*(part[:n, :] for part in left[1:]), right[-1][n:, :]]
    for i, (layer, own) in enumerate(zip(net, params.encoder, strict=True)):
        dense.forward(layer.activation, own, left[i][:n, :], codes[i])
    made = [y, *(part[n:, :] for part in right[:-1])]
    activations = [task.model.output, *(layer.activation for layer in net[:-1])]
    for i in reversed(range(len(net))):
        own = DenseParams(params.encoder[i].weights.T, params.decoder[-1 - i].bias)
        dense.forward(activations[i], own, right[i][n:, :], made[i])
    return y


def _tied_backward(
    task: _Task, weights: list[Array], left: list[Array], right: list[Array]
) -> tuple[Array | float, Array | None]:
    """Fill the derivatives by the outputs of the decoder's and of the encoder's layers."""
    n, net = task.x.shape[0], encoder_layers(task.model)
    slopes = [ACTIVATIONS[layer.activation][1] for layer in net]
    top = len(net) - 1
    for i in range(top):
        product(left[i][n:, :], weights[i], left[i + 1][n:, :])
        slopes[i](left[i + 1][n:, :], right[i][n:, :])
    product(left[top][n:, :], weights[top], right[top][:n, :])
    penalty = _penalise(task.model, weights[0], right[top][n:, :], right[top][:n, :])
    slopes[top](right[top][:n, :], right[top][n:, :])
    for i in reversed(range(top)):
        product(right[i + 1][:n, :], weights[i + 1].T, right[i][:n, :])
        slopes[i](right[i][:n, :], left[i + 1][:n, :])
    return penalty


def _tied_sums(
    params: AutoencoderParams, left: list[Array], right: list[Array], n: int, out: Into | None
) -> AutoencoderParams:
    """Return the gradient from the stacked halves: n rows of each."""
    xp, encoder, decoder = namespace(left[0]), list[DenseParams](), list[BiasParams]()
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        up, down = xp.sum(b[:n, :], axis=0), xp.sum(a[n:, :], axis=0)
        if out is None:
            encoder.append(DenseParams(product(a.T, b), up))
            decoder.append(BiasParams(down))
            continue
        own, mirror = out.tree.encoder[i], out.tree.decoder[-1 - i]
        summed = add_product(a, b, own.weights, out.scale, out.keep)
        encoder.append(DenseParams(summed, put(up, own.bias, out)))
        decoder.append(BiasParams(put(down, mirror.bias, out)))
    return AutoencoderParams(tuple(encoder), tuple(reversed(decoder)))


def evaluate(model: Autoencoder, params: AutoencoderParams, batch: Batch) -> dict[str, Any]:
    """Return ``loss`` and ``squared_error`` of reconstructions, without noise and costs, and ``n``.

    Both are summed over the samples, and over the values that are present.
    """
    x = present(batch)
    xp = namespace(x)
    y = reconstruct(model, params, x)
    there = None if batch.mask is None else xp.astype(batch.mask, x.dtype)
    loss = loss_of(model, x, y, there, xp.empty_like(x))
    error = squared_error(x, present(batch._replace(x=y, scaling=None)))
    return {"loss": float(loss), "squared_error": float(error), "n": x.shape[0]}
