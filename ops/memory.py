"""Associative memories: RBMs that see features and a label together.

Hinton, Osindero, Teh (2006), "A fast learning algorithm for deep belief nets"; Larochelle & Bengio
(2008), "Classification using discriminative restricted Boltzmann machines", for the exact
``p(y | v)``.

The label is one unit of K states, of whose K binary units exactly one is on. With the label's
weights U below those of the features W, the energy is that of an RBM with V + K visible units,
``E(v, y, h) = -v W h - y U h - v b - y d - h c``, and so are the parameters. Summing over h,
``p(y | v)`` is proportional to ``exp(d_y + sum_j log(1 + exp(c_j + v W_j + U_yj)))``.

Letters: N samples, V features, K classes, H hidden units.
"""

from typing import Any

from deepstrata.ops import rbm
from deepstrata.ops.backend import Backend, Namespace, Scratch, namespace, product, store
from deepstrata.ops.dense import softmax
from deepstrata.ops.kernels import sigmoid, sigmoid_sample, squared_error
from deepstrata.ops.labelled import check_labels
from deepstrata.ops.measures import classification
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.random import uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import AssociativeMemory
from deepstrata.schemas.trees import Array, Tree

BLOCK = 256  #: samples whose free energies are found at once: what a class needs stays in the cache


def shapes(model: AssociativeMemory, visible: int) -> RBMParams:
    """Return an ``ArraySpec`` for each array of a memory of ``visible`` features."""
    return rbm.shapes(model, visible + model.classes)


def init(model: AssociativeMemory, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    """Return small random weights, and biases of zero."""
    return rbm.init(model, visible + model.classes, key, backend)


def one_hot(labels: Array, classes: int, like: Array) -> Array:
    """Return (N, K) rows with a 1 at the label, of the library and dtype of ``like``."""
    xp = namespace(like)
    column = xp.reshape(xp.asarray(labels), (-1, 1))
    return xp.astype(column == xp.reshape(xp.arange(classes), (1, -1)), like.dtype)


def join(features: Array, labels: Array, out: Array) -> Array:
    """Write features (N, V) and labels (N, K) side by side to ``out`` and return it."""
    store(features, out[:, : features.shape[1]])
    store(labels, out[:, features.shape[1] :])
    return out


@rbm.visible_mean.register
def _(model: AssociativeMemory, params: RBMParams, h: Array, out: Array | None = None) -> Array:
    into = product(h, params.weights.T, out)
    labels = _label_mean(model, params, into)
    sigmoid(into, params.visible_bias, out=into)
    into[:, -model.classes :] = labels
    return into


def _label_mean(model: AssociativeMemory, params: RBMParams, into: Array) -> Array:
    """Return (N, K) probabilities of the label from weighted inputs (N, V + K)."""
    group = slice(-model.classes, None)
    return softmax(into[:, group] + params.visible_bias[group])


def sample_classes(p: Array, rows: Array, key: Key, draw: int = 0) -> Array:
    """Return rows with a 1 at one class each, drawn with the probabilities ``p``: (N, K)."""
    xp = namespace(p)
    u = uniform(key, rows, 1, draw, like=p)
    below = xp.astype(xp.cumulative_sum(p, axis=1) <= u, xp.int64)
    # Rounding may leave the sum of all below u.
    drawn = xp.clip(xp.sum(below, axis=1), None, p.shape[1] - 1)
    return one_hot(drawn, p.shape[1], p)


def sample_visible(
    model: AssociativeMemory,
    params: RBMParams,
    h: Array,
    rows: Array,
    key: Key,
    draw: int,
    out: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return features and a label sampled given h: (N, H) -> (N, V + K), into ``out``."""
    scratch = Scratch() if scratch is None else scratch
    shape = (h.shape[0], params.weights.shape[0])
    into = product(h, params.weights.T, scratch.empty("visible mean", shape, h))
    labels = sample_classes(_label_mean(model, params, into), rows, fold(key, "label"), draw)
    _, out = sigmoid_sample(into, params.visible_bias, key, rows, draw, mean=into, out=out)
    out[:, -model.classes :] = labels
    return out


def contrastive_divergence(
    model: AssociativeMemory,
    params: RBMParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend as ``rbm.contrastive_divergence`` does, labels included.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    scratch = Scratch() if scratch is None else scratch
    return rbm.contrastive_divergence(
        model, params, _joined(model, batch, scratch), key, carry, out, scratch
    )


def _joined(model: AssociativeMemory, batch: Batch, scratch: Scratch) -> Batch:
    """Return the batch with its labels among the features."""
    labels = check_labels(batch.labels, batch.rows, model.classes)
    x = present(batch)
    xp = namespace(x)
    hot = one_hot(labels, model.classes, x)
    shape = (x.shape[0], x.shape[1] + model.classes)
    mask = batch.mask
    if mask is not None:
        mask = xp.concat((mask, xp.ones(hot.shape, dtype=xp.bool)), axis=1)
    return Batch(batch.rows, join(x, hot, scratch.empty("joined", shape, x)), mask=mask)


def class_logits(model: AssociativeMemory, params: RBMParams, features: Array) -> Array:
    """Return log p(y | v) but for a constant: minus the free energy of each label.

    Parameters
    ----------
    features
        (N, V).

    Returns
    -------
    (N, K)
    """
    xp, n = namespace(features), features.shape[0]
    blocks = [
        _class_logits(xp, model, params, features[start : start + BLOCK, :])
        for start in range(0, max(n, 1), BLOCK)
    ]
    return xp.concat(blocks, axis=0)


def _class_logits(
    xp: Namespace, model: AssociativeMemory, params: RBMParams, features: Array
) -> Array:
    visible = features.shape[1]
    into = product(features, params.weights[:visible, :]) + params.hidden_bias
    columns = [
        xp.sum(_softplus(xp, into + params.weights[visible + k, :]), axis=1)
        for k in range(model.classes)
    ]
    return xp.stack(columns, axis=1) + params.visible_bias[visible:]


def _softplus(xp: Namespace, x: Array) -> Array:
    """Return log(1 + exp(x)): as ``logaddexp``, by functions that NumPy vectorises."""
    return xp.clip(x, 0.0, None) + xp.log(1.0 + xp.exp(-xp.abs(x)))


def evaluate(model: AssociativeMemory, params: RBMParams, batch: Batch) -> dict[str, Any]:
    """Return ``squared_error`` of reconstructed features and labels, and measures of classes.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    joint = _joined(model, batch, Scratch())
    again = rbm.reconstruct(model, params, joint.x)
    error = squared_error(joint.x, present(joint._replace(x=again)))
    logits = class_logits(model, params, present(batch))
    return {"squared_error": float(error)} | classification(logits, batch.labels)
