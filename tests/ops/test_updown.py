"""Up-down learning, classes and samples of a small generative net against enumeration."""

import itertools

import numpy as np
import pytest
from scipy.special import expit, logsumexp

from deepstrata.ops import memory, models, pretraining, rbm, transfer, updown
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.updown import GenerativeParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, GenerativeDBN
from deepstrata.schemas.trees import ArraySpec, flatten, leaves, tree_map

V, F, K, H = 3, 2, 2, 2
MEMORY = AssociativeMemory(hidden=H, classes=K, gibbs_steps=2)
SMALL = GenerativeDBN(layers=(RBM(hidden=F),), memory=MEMORY)
DEEP = GenerativeDBN(
    layers=(RBM(hidden=6), RBM(hidden=5)), memory=AssociativeMemory(hidden=7, classes=3)
)


def shaken(model, visible, scale=1.0):
    """Return parameters of a net whose weights have all parted ways, none of them zero."""
    return tree_map(
        lambda a: scale * normal(fold(Key(9), *a.shape), np.arange(a.size), 1).reshape(a.shape),
        models.init(model, visible, Key(4)),
    )


def batch(n=12, visible=V, classes=K):
    rows = np.arange(n)
    return Batch(rows, (uniform(Key(1), rows, visible) < 0.5).astype(np.float32), rows % classes)


def binary(units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=units)), np.float32)


def chances(states, mean):
    """Return the probability of each of ``states`` under each row of means: (rows, states)."""
    mean = mean[:, None, :]
    return (states * mean + (1 - states) * (1 - mean)).prod(-1)


def hidden_chances(params, joint):
    return chances(binary(H), rbm.hidden_mean(params.memory, joint))


def joint_states():
    """Return every state of features and label, one row each."""
    return np.array([[*f, *y] for f in binary(F) for y in np.eye(K)], np.float32)


def joint_chances(params):
    """Return p(features, label | h): (hidden states, states of features and label)."""
    mean, joint = rbm.visible_mean(MEMORY, params.memory, binary(H)), joint_states()
    label = (joint[None, :, F:] * mean[:, None, F:]).sum(-1)
    return chances(joint[:, :F], mean[:, :F]) * label


def expected(params, x, label):
    """Return the expected up-down gradient of one sample, over all states it may pass through."""
    up, down, top = params.recognition[0], params.generative[0], params.memory
    fs, joint, hs = binary(F), joint_states(), binary(H)
    awake = chances(fs, expit(x[None] @ up.weights + up.bias))[0]
    miss = expit(fs @ down.weights + down.bias) - x
    generative = DenseParams((fs * awake[:, None]).T @ miss, awake @ miss)
    start = np.concatenate([fs, np.eye(K, dtype=np.float32)[[label] * len(fs)]], axis=1)
    to_hidden, to_joint = hidden_chances(params, joint), joint_chances(params)
    p = awake @ hidden_chances(params, start)
    for _ in range(MEMORY.gibbs_steps - 1):
        p = p @ to_joint @ to_hidden
    p = p @ to_joint
    h0, h1 = rbm.hidden_mean(top, start), rbm.hidden_mean(top, joint)
    memory_total = RBMParams(
        (joint * p[:, None]).T @ h1 - (start * awake[:, None]).T @ h0,
        p @ joint - awake @ start,
        p @ h1 - awake @ h0,
    )
    assert len(hs) == len(to_joint)
    dreams = joint[:, :F]
    v = expit(dreams @ down.weights + down.bias)
    miss = expit(v @ up.weights + up.bias) - dreams
    recognition = DenseParams((v * p[:, None]).T @ miss, p @ miss)
    return GenerativeParams((recognition,), (generative,), memory_total)


def test_up_down_has_the_expectation_that_enumeration_gives():
    params, copies = shaken(SMALL, V), 40_000
    x, label = np.float32([1, 0, 1]), 1
    exact = expected(params, x, label)
    rows = np.arange(copies)
    same = Batch(rows, np.tile(x, (copies, 1)), np.full(copies, label))
    partial, _ = updown.up_down(SMALL, params, same, Key(2))
    for name, wanted in flatten(exact).items():
        found = flatten(partial.total)[name] / copies
        np.testing.assert_allclose(found, wanted, atol=0.015, err_msg=name)
        assert np.abs(wanted).max() > 0.03, name


def test_generated_samples_have_the_mean_that_enumeration_gives():
    params, n = shaken(SMALL, V), 20_000
    params.memory.weights[:] = [[2, -1], [-1, 2], [3, -2], [-2, 3]]  # the label matters
    fs, down = binary(F), params.generative[0]
    machine, means = RBM(hidden=H), []
    for label in range(K):
        joint = np.concatenate([fs, np.eye(K, dtype=np.float32)[[label] * len(fs)]], axis=1)
        minus = -rbm.free_energy(machine, params.memory, joint)
        p = np.exp(minus - logsumexp(minus))
        means.append(p @ expit(fs @ down.weights + down.bias))
    labels = np.repeat(np.arange(K), n)
    made = updown.generate(SMALL, params, labels, np.arange(K * n), Key(3), 10)
    assert made.dtype == np.float32
    for label in range(K):
        np.testing.assert_allclose(made[labels == label].mean(0), means[label], atol=0.01)
    assert np.abs(means[0] - means[1]).max() > 0.05


def test_a_net_of_two_layers_learns_in_each_and_generates():
    params = shaken(DEEP, V, 0.5)
    partial, _ = updown.up_down(DEEP, params, batch(classes=3), Key(2))
    assert all(leaf.any() for leaf in leaves(partial.total))
    rows = np.arange(6)
    made = updown.generate(DEEP, params, rows % 3, rows, Key(1), 4)
    assert made.shape == (6, V)
    assert (made != updown.generate(DEEP, params, rows % 3, rows, Key(2), 4)).any()
    again = updown.generate(DEEP, params, rows[2:] % 3, rows[2:], Key(1), 4)
    np.testing.assert_allclose(again, made[2:], rtol=1e-5)


def test_gaussian_samples_are_generated_by_their_mean():
    first = RBM(hidden=F, visible_units="gaussian")
    model = GenerativeDBN(layers=(first,), memory=MEMORY)
    params = shaken(model, V, 3.0)
    x = normal(Key(2), np.arange(5), V)
    down = params.generative[0]
    features = updown.recognise(params, x)
    np.testing.assert_allclose(
        models.reconstruct(model, params, x), features @ down.weights + down.bias, rtol=1e-5
    )
    rows = np.arange(40)
    assert np.abs(updown.generate(model, params, rows % K, rows, Key(1), 3)).max() > 1


def test_tied_weights_are_those_of_the_trained_machines():
    sizes = zip((*DEEP.layers, DEEP.memory), (V, 6, 5), strict=True)
    layers = tuple(models.init(m, inputs, Key(inputs)) for m, inputs in sizes)
    params = pretraining.assemble(DEEP, layers)
    x, codes = batch().x, batch().x
    for machine, p in zip(DEEP.layers, layers, strict=False):
        codes = models.encode(machine, p, codes)
    np.testing.assert_array_equal(models.encode(DEEP, params, x), codes)
    down = codes
    for machine, p in reversed(list(zip(DEEP.layers, layers, strict=False))):
        down = rbm.visible_mean(machine, p, down)
    np.testing.assert_allclose(models.reconstruct(DEEP, params, x), down, rtol=1e-6)
    assert all(leaf.flags.c_contiguous for leaf in leaves(params))
    specs = pretraining.assemble(
        DEEP, tuple(tree_map(lambda a: ArraySpec(a.shape), p) for p in layers)
    )
    assert specs == models.shapes(DEEP, V)
    logits = memory.class_logits(DEEP.memory, layers[-1], codes)
    np.testing.assert_allclose(updown.class_logits(DEEP, params, x), logits, rtol=1e-6)


def test_classes_and_codes_of_samples():
    params, x = shaken(DEEP, V), batch().x
    p = models.predict(DEEP, params, x)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    found = models.evaluate(DEEP, params, batch(classes=3))
    labels = np.arange(12) % 3
    assert found["errors"] == (p.argmax(1) != labels).sum()
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(12), labels]).sum(), rel=1e-4)
    assert found["confusion"].sum() == found["n"] == 12
    assert np.trace(found["confusion"]) == 12 - found["errors"]
    assert models.encode(DEEP, params, x, 0).shape == (12, 6)
    assert models.encode(DEEP, params, x).shape == (12, models.code_width(DEEP, V)) == (12, 5)
    with pytest.raises(DeclarationError, match="layers 0 to 1; found layer 2"):
        models.encode(DEEP, params, x, 2)


def test_another_net_takes_what_recognises():
    params, other = shaken(DEEP, V), DBN(layers=(*DEEP.layers, Softmax(classes=2)))
    assert transfer.take(other, 2, V, DEEP, params) == params.recognition
    with pytest.raises(DeclarationError, match="expected 3 layers to take, found 2"):
        transfer.take(other, 3, V, DEEP, params)


def test_what_a_mask_hides_is_not_generated():
    params, samples = shaken(DEEP, V), batch(classes=3)
    mask = np.ones(samples.x.shape, bool)
    mask[:, 1] = False
    hidden = samples._replace(x=np.where(mask, samples.x, np.nan), mask=mask)
    partial, _ = updown.up_down(DEEP, params, hidden, Key(2))
    down = partial.total.generative[0]
    np.testing.assert_array_equal(down.weights[:, 1], 0)
    assert down.bias[1] == 0
    assert down.weights[:, 0].any()
    assert all(np.isfinite(leaf).all() for leaf in leaves(partial.total))
