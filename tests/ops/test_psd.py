"""Predictive sparse decomposition: the gradient with codes held fixed, predictions, networks."""

import numpy as np
import pytest

from deepstrata.ops import finetuning, models, optimisers, psd, sparse_coding
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch
from deepstrata.ops.psd import EncoderParams
from deepstrata.ops.random import normal
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.models import Network
from deepstrata.schemas.optimisers import SGD
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import leaves, tree_map

V, A, N = 9, 14, 20
MODEL = PSD(atoms=A, penalty=0.4, prediction_weight=0.7)


def start(dtype=np.float64):
    """Return parameters that are not special, and samples."""
    params = models.init(MODEL, V, Key(1))
    some = tree_map(lambda a: normal(Key(2), np.arange(a.size), 1).reshape(a.shape), params)
    params = tree_map(lambda a, b: (a + 0.1 * b).astype(dtype), params, some)
    x = normal(Key(3), np.arange(N), V).astype(dtype)
    return params, Batch(np.arange(N), x)


def energy(params, x, z):
    p = params.gain * np.tanh(x @ params.weights + params.bias)
    error = ((x - z @ params.dictionary) ** 2).sum()
    return error + MODEL.penalty * np.abs(z).sum() + MODEL.prediction_weight * ((z - p) ** 2).sum()


@pytest.mark.parametrize("name", psd.PSDParams._fields)
def test_gradient_agrees_with_finite_differences_at_fixed_codes(name):
    params, batch = start()
    z = psd.codes(MODEL, params, batch.x).inferred.copy()
    partial, _ = models.gradient(MODEL, params, batch, Key(0))
    leaf = getattr(params, name)
    way = normal(Key(4), np.arange(leaf.size), 1).reshape(leaf.shape).astype(np.float64)
    ends = [energy(params._replace(**{name: leaf + s * way}), batch.x, z) for s in (1e-6, -1e-6)]
    along = (getattr(partial.total, name) * way).sum()
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert partial.stats["energy"] == pytest.approx(energy(params, batch.x, z), rel=1e-9)


def test_inferred_codes_are_the_best():
    """No step of coordinates or of all of them together makes them better."""
    params, batch = start()
    found = psd.codes(MODEL.model_copy(update={"steps": 2000}), params, batch.x)
    best = energy(params, batch.x, found.inferred)
    assert best < energy(params, batch.x, found.predicted)
    for i, size in enumerate((1e-1, 1e-2, 1e-3) * 5):
        other = found.inferred + size * normal(Key(i), np.arange(N), A)
        assert energy(params, batch.x, other) > best
    assert energy(params, batch.x, 0.999 * found.inferred) > best
    assert 0.1 < (found.inferred == 0).mean() < 0.9


def test_a_model_encodes_by_prediction():
    params, batch = start(np.float32)
    exact = params.gain * np.tanh(batch.x @ params.weights + params.bias)
    np.testing.assert_allclose(models.encode(MODEL, params, batch.x), exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(psd.codes(MODEL, params, batch.x).predicted, exact)
    made = models.reconstruct(MODEL, params, batch.x)
    np.testing.assert_allclose(made, exact @ params.dictionary, rtol=1e-4, atol=1e-5)
    with pytest.raises(DeclarationError, match="psd model has one layer, 0; found layer 2"):
        models.encode(MODEL, params, batch.x, 2)


def test_evaluation_measures_codes_and_predictions():
    params, batch = start(np.float32)
    found = models.evaluate(MODEL, params, batch)
    codes = psd.codes(MODEL, params, batch.x)
    z, p = codes.inferred, codes.predicted
    exact = {
        "squared_error": ((batch.x - z @ params.dictionary) ** 2).sum(),
        "predicted_squared_error": ((batch.x - p @ params.dictionary) ** 2).sum(),
        "prediction_distance": ((z - p) ** 2).sum(),
        "nonzero_share": (z != 0).sum() / A,
        "energy": energy(params, batch.x, z),
        "n": N,
    }
    assert found == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    "optimiser",
    [
        SGD(learning_rate=0.2, momentum=0.9),
        SGD(),
    ],
)
def test_atoms_stay_on_the_sphere(optimiser):
    params, batch = start(np.float32)
    state, rates = optimisers.init(optimiser, params), optimisers.rates(optimiser, 0)
    params, *_ = local_steps(MODEL, optimiser, rates, params, state, (), batch, 5, Key(0))
    np.testing.assert_allclose(sparse_coding.norms(params.dictionary), 1, rtol=1e-6)


def test_a_network_keeps_the_encoder():
    params, batch = start(np.float32)
    net = Network(layers=(MODEL, Softmax(classes=3)))
    begun = finetuning.start_net(net, (params,), V, Key(5))
    assert isinstance(begun[0], EncoderParams)
    assert all(a is b for a, b in zip(begun[0], params, strict=False))
    codes = models.encode(net, begun, batch.x)
    np.testing.assert_allclose(codes, models.encode(MODEL, params, batch.x), rtol=1e-6)
    fresh = finetuning.start_net(net, None, V, Key(5))
    assert [a.shape for a in leaves(fresh)] == [a.shape for a in leaves(begun)]
    assert (fresh[0].gain == 1).all()
    pretrained = models.evaluate(Network(layers=(MODEL,)), (params,), batch)
    made = models.reconstruct(MODEL, params, batch.x)
    assert pretrained["squared_error"] == pytest.approx(((batch.x - made) ** 2).sum(), rel=1e-5)
