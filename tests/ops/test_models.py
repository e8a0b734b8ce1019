"""Deep belief nets: from pretraining to a net, codes, classes, and the gradient of the whole."""

import numpy as np
import pytest

from deepstrata.ops import finetuning, models, pretraining
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams, hidden_mean, visible_mean
from deepstrata.schemas.errors import DataError, DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN
from deepstrata.schemas.trees import ArraySpec, leaves, tree_map

KEY, V, N = Key(4), 9, 11
STACK = (RBM(hidden=8), RBM(hidden=6))
NET = DBN(layers=(*STACK, Dense(units=5, activation="tanh"), Softmax(classes=3)))


def pretrained(model=NET):
    """Return initial parameters with biases that are not zero."""
    return tree_map(
        lambda a: a + normal(Key(9), np.arange(a.size), 1).reshape(a.shape),
        models.init(model, V, KEY),
    )


def batch(dtype=np.float32):
    x = uniform(Key(1), np.arange(N), V).astype(dtype)
    return Batch(np.arange(N), x, np.arange(N) % 3)


def test_gradient_agrees_with_finite_differences_of_the_loss():
    net = tree_map(lambda a: a.astype(np.float64), finetuning.start_net(NET, None, V, KEY))
    samples = batch(np.float64)
    partial, _ = models.gradient(NET, net, samples, KEY)
    directions = tree_map(
        lambda a: normal(Key(2), np.arange(a.size), 1).reshape(a.shape).astype(np.float64), net
    )
    losses = [
        models.evaluate(NET, tree_map(lambda a, d, s=s: a + s * d, net, directions), samples)
        for s in (1e-6, -1e-6)
    ]
    along = sum(
        (g * d).sum() for g, d in zip(*map(leaves, (partial.total, directions)), strict=True)
    )
    assert along == pytest.approx((losses[0]["loss"] - losses[1]["loss"]) / 2e-6, rel=1e-6)
    assert partial.stats["loss"] == pytest.approx(models.evaluate(NET, net, samples)["loss"])
    assert partial.stats["errors"] == models.evaluate(NET, net, samples)["errors"]


def test_weights_are_addressed_so_that_a_wider_model_begins_alike():
    small, large = models.init(RBM(hidden=64), 5, KEY), models.init(RBM(hidden=200), 9, KEY)
    np.testing.assert_array_equal(large.weights[:5, :64], small.weights)
    assert models.init(RBM(hidden=200, weight_scale=0.5), 300, KEY).weights.std() == pytest.approx(
        0.5, rel=0.02
    )


def test_layers_of_one_size_begin_with_different_weights():
    model = DBN(layers=(Dense(units=V), Dense(units=V), Softmax(classes=V)))
    for net in (models.init(model, V, KEY), finetuning.start_net(model, None, V, KEY)):
        assert (net[0].weights != net[1].weights).all()
        assert (net[1].weights != net[2].weights).all()


def test_a_net_starts_from_pretrained_layers_and_a_small_softmax():
    params = pretrained()
    net = finetuning.start_net(NET, params[:2], V, KEY)
    assert all(type(p) is DenseParams for p in net)
    for entry, rbm in zip(net, params[:2], strict=False):
        assert entry.weights is rbm.weights
        assert entry.bias is rbm.hidden_bias
    assert np.abs(net[3].weights).max() < 0.05
    fresh = finetuning.start_net(NET, None, V, KEY)
    assert fresh[3].weights.std() == pytest.approx((2 / 8) ** 0.5, rel=0.5)
    for given in (params, (*params[:2], *models.init(NET, V, KEY)[2:])):
        again = finetuning.start_net(NET, given, V, KEY)
        for a, b in zip(leaves(again), leaves(net), strict=True):
            np.testing.assert_array_equal(a, b)
    tuned = finetuning.start_net(NET, fresh, V, Key(0))
    assert all(a is b for a, b in zip(leaves(tuned), leaves(fresh), strict=True))
    specs = pretraining.feed_forward(models.shapes(NET, V))
    assert [s.shape for s in leaves(specs)] == [a.shape for a in leaves(net)]
    assert all(isinstance(s, ArraySpec) for s in leaves(specs))


def test_nets_that_cannot_start_are_refused():
    with pytest.raises(DeclarationError, match="a DBN or a Network with a Softmax"):
        finetuning.start_net(DBN(layers=STACK), None, V, KEY)
    with pytest.raises(DeclarationError, match=r"layer 0 \(rbm\): expected weights \(10, 8\)"):
        finetuning.start_net(NET, pretrained(), 10, KEY)


def test_codes_of_each_layer_before_and_after_fine_tuning():
    params, x = pretrained(), batch().x
    first = hidden_mean(params[0], x)
    second = hidden_mean(params[1], first)
    net = pretraining.feed_forward(params)
    for form in (params, net):
        np.testing.assert_array_equal(models.encode(NET, form, x, 0), first)
        np.testing.assert_array_equal(models.encode(NET, form, x, 1), second)
        third = models.encode(NET, form, x, 2)
        np.testing.assert_allclose(
            third, np.tanh(second @ net[2].weights + net[2].bias), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(models.encode(NET, form, x), third)
    np.testing.assert_array_equal(models.encode(DBN(layers=STACK), params[:2], x), second)
    np.testing.assert_array_equal(models.encode(NET, params[:2], x, 1), second)
    with pytest.raises(DeclarationError, match="layers 0 to 3; found layer 4"):
        models.encode(NET, params, x, 4)
    with pytest.raises(DeclarationError, match="layers 0 to 1; found layer 2"):
        models.encode(NET, params[:2], x)
    with pytest.raises(DeclarationError, match="found layer 1"):
        models.encode(STACK[0], params[0], x, 1)


def test_encode_and_predict_leave_the_data_alone():
    params, x = pretrained(), batch().x
    before = x.copy()
    p = models.predict(NET, params, x)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert p.shape == (N, 3)
    np.testing.assert_array_equal(x, before)
    with pytest.raises(DeclarationError, match="Softmax"):
        models.predict(DBN(layers=STACK), params[:2], x)
    with pytest.raises(DeclarationError, match="Softmax"):
        models.predict(STACK[0], params[0], x)


def test_a_classifier_is_measured_by_its_predictions():
    net, samples = pretraining.feed_forward(pretrained()), batch()
    found = models.evaluate(NET, net, samples)
    p = models.predict(NET, net, samples.x)
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(N), samples.labels]).sum(), rel=1e-4)
    wrong = p.argmax(1) != samples.labels
    assert found["errors"] == wrong.sum() == N - found["confusion"].trace()
    np.testing.assert_array_equal(found["confusion"].sum(1), np.bincount(samples.labels))
    assert found["confusion"].dtype == np.int64
    only = models.evaluate(
        DBN(layers=(Softmax(classes=3),)),
        models.init(DBN(layers=(Softmax(classes=3),)), V, KEY),
        samples,
    )
    assert only["n"] == N


def test_a_pretrained_stack_is_measured_by_its_pass_up_and_down():
    params, x = pretrained(), batch().x
    up = hidden_mean(params[1], hidden_mean(params[0], x))
    down = visible_mean(STACK[0], params[0], visible_mean(STACK[1], params[1], up))
    for model, form in ((NET, params), (DBN(layers=STACK), params[:2]), (NET, params[:2])):
        found = models.evaluate(model, form, batch())
        assert found.keys() == {"squared_error", "n"}
        assert found["squared_error"] == pytest.approx(((down - x) ** 2).sum(), rel=1e-5)
    assert isinstance(params[0], RBMParams)


def test_labels_are_checked():
    net = finetuning.start_net(NET, None, V, KEY)
    for samples, message in (
        (batch()._replace(labels=None), "no labels"),
        (batch()._replace(labels=np.arange(N)), "label 3 at row 3: expected 0 to 2"),
    ):
        for use in (models.evaluate, models.gradient):
            rest = (KEY,) if use is models.gradient else ()
            with pytest.raises(DataError, match=message):
                use(NET, net, samples, *rest)


def test_unknown_declarations_are_named():
    for function in (models.shapes, models.init):
        with pytest.raises(NotImplementedError, match="str"):
            function("rbm", 3, *((KEY,) if function is models.init else ()))
