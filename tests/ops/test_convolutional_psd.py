"""Convolutional PSDs: finite differences, plain ISTA, scikit-learn's lasso, the dense PSD."""

import numpy as np
import pytest
from sklearn.decomposition import sparse_encode

from deepstrata.ops import convolutional_psd, finetuning, models, optimisers, psd, sparse_coding
from deepstrata.ops.kernels import soft_threshold
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch
from deepstrata.ops.psd import EncoderParams, PSDParams
from deepstrata.ops.random import normal
from deepstrata.ops.samples import shaped
from deepstrata.schemas.convolutional import ConvolutionalPSD
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.models import Network
from deepstrata.schemas.optimisers import SGD
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import tree_map

SHAPE, V, N = (6, 5, 2), 60, 8
MODEL = ConvolutionalPSD(
    maps=4, kernel=(3, 2), penalty=0.4, prediction_weight=0.7, input_shape=SHAPE
)
STRIDED = MODEL.model_copy(update={"stride": (2, 1), "padding": 1})


def start(model=MODEL, dtype=np.float64):
    """Return parameters that are not special, and samples."""
    params = models.init(model, V, Key(1))
    some = tree_map(lambda a: normal(Key(2), np.arange(a.size), 1).reshape(a.shape), params)
    params = tree_map(lambda a, b: (a + 0.1 * b).astype(dtype), params, some)
    return params, Batch(np.arange(N), normal(Key(3), np.arange(N), V).astype(dtype))


def as_matrix(model, weights):
    """Return what a filter bank does to samples, (V, P * M), place by place."""
    kernel, stride, padding = model.kernel, np.broadcast_to(model.stride, 2), model.padding
    edge = 0 if padding == "valid" else padding
    size = [s + 2 * edge for s in SHAPE[:2]]
    rows = []
    for y in range(0, size[0] - kernel[0] + 1, stride[0]):
        for x in range(0, size[1] - kernel[1] + 1, stride[1]):
            for k in range(model.maps):
                whole = np.zeros((*size, SHAPE[2]), weights.dtype)
                whole[y : y + kernel[0], x : x + kernel[1]] = weights[..., k]
                rows.append(whole[edge : size[0] - edge, edge : size[1] - edge].reshape(-1))
    return np.array(rows).T


def energy(model, params, x, z):
    z = z.reshape(len(z), -1)
    places = z.shape[1] // model.maps
    into = x @ as_matrix(model, params.weights) + np.tile(params.bias, places)
    p = np.tile(params.gain, places) * np.tanh(into)
    error = ((x - z @ as_matrix(model, params.dictionary).T) ** 2).sum()
    return error + model.penalty * np.abs(z).sum() + model.prediction_weight * ((z - p) ** 2).sum()


@pytest.mark.parametrize("model", [MODEL, STRIDED])
@pytest.mark.parametrize("name", PSDParams._fields)
def test_gradient_agrees_with_finite_differences_at_fixed_codes(model, name):
    params, batch = start(model)
    z = psd.codes(model, params, shaped(model, batch.x)).inferred.copy()
    partial, _ = models.gradient(model, params, batch, Key(0))
    leaf = getattr(params, name)
    way = normal(Key(4), np.arange(leaf.size), 1).reshape(leaf.shape).astype(np.float64)
    ends = [
        energy(model, params._replace(**{name: leaf + s * way}), batch.x, z) for s in (1e-6, -1e-6)
    ]
    along = (getattr(partial.total, name) * way).sum()
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert partial.stats["energy"] == pytest.approx(energy(model, params, batch.x, z), rel=1e-9)


@pytest.mark.parametrize("model", [MODEL, STRIDED])
def test_inferred_codes_are_those_of_ista_run_long(model):
    """ISTA (Daubechies, Defrise, De Mol 2004) on the map as a matrix, without acceleration."""
    params, batch = start(model)
    found = psd.codes(model.model_copy(update={"steps": 1000}), params, shaped(model, batch.x))
    down, weight = as_matrix(model, params.dictionary).T, model.prediction_weight
    p = found.predicted.reshape(N, -1)
    z, step = p, 1 / (np.linalg.norm(down, 2) ** 2 + weight)
    for _ in range(5000):
        slope = (z @ down - batch.x) @ down.T + weight * (z - p)
        z = soft_threshold(z - step * slope, 0.5 * step * model.penalty)
    np.testing.assert_allclose(found.inferred.reshape(N, -1), z, atol=1e-8)
    assert 0.1 < (z == 0).mean() < 0.9


def test_codes_without_a_prediction_are_as_good_as_scikit_learns():
    params, batch = start()
    down = as_matrix(MODEL, params.dictionary).T
    best = sparse_encode(batch.x, down, algorithm="lasso_cd", alpha=0.2, max_iter=20_000)
    synthesis = psd.synthesis(MODEL, params, SHAPE)
    zeros = np.zeros((N, *synthesis.correlate(shaped(MODEL, batch.x), None).shape[1:]))
    z = sparse_coding.infer(synthesis, shaped(MODEL, batch.x), zeros, 0.4, 1000).reshape(N, -1)

    def objective(z):
        return ((batch.x - z @ down) ** 2).sum() + 0.4 * np.abs(z).sum()

    assert objective(z) == pytest.approx(objective(best), rel=1e-5)


def test_a_filter_of_the_whole_picture_makes_the_dense_model():
    wide = ConvolutionalPSD(maps=7, kernel=SHAPE[:2], penalty=0.4, steps=20, input_shape=SHAPE)
    dense, batch = PSD(atoms=7, penalty=0.4), start(dtype=np.float32)[1]
    params, flat = models.init(wide, V, Key(5)), models.init(dense, V, Key(5))
    np.testing.assert_array_equal(params.weights.reshape(V, 7), flat.weights)
    np.testing.assert_array_equal(params.dictionary.reshape(V, 7), flat.dictionary.T)
    ours, _ = models.gradient(wide, params, batch, Key(0))
    theirs, _ = models.gradient(dense, flat, batch, Key(0))
    assert ours.stats == pytest.approx(theirs.stats, rel=1e-5)
    np.testing.assert_allclose(ours.total.weights.reshape(V, 7), theirs.total.weights, atol=1e-4)
    by_atoms = theirs.total.dictionary.T
    np.testing.assert_allclose(ours.total.dictionary.reshape(V, 7), by_atoms, atol=1e-4)
    assert models.evaluate(wide, params, batch) == pytest.approx(
        models.evaluate(dense, flat, batch), rel=1e-5
    )


@pytest.mark.parametrize(("model", "windows"), [(MODEL, 6), (STRIDED, 4)])
def test_the_first_prediction_is_a_share_of_the_correlation(model, windows):
    params = models.init(model, V, Key(1))
    np.testing.assert_allclose(params.weights * windows, params.dictionary, rtol=1e-6)
    x = np.zeros(SHAPE, np.float32)
    x[3, 2, 0] = 1
    seen = models.encode(model, params._replace(weights=params.weights * 0 + 1), x.reshape(1, -1))
    assert (seen != 0).sum() == windows * model.maps


def test_filters_stay_on_the_sphere():
    params, batch = start(dtype=np.float32)
    optimiser = SGD(learning_rate=0.01, momentum=0.9)
    state, rates = optimisers.init(optimiser, params), optimisers.rates(optimiser, 0)
    moved, *_ = local_steps(MODEL, optimiser, rates, params, state, (), batch, 4, Key(0))
    assert (moved.dictionary != params.dictionary).all()
    np.testing.assert_allclose((moved.dictionary**2).sum(axis=(0, 1, 2)), 1, rtol=1e-6)


def test_a_filter_of_zeros_stays():
    filters = np.zeros((2, 2, 1, 3), np.float32)
    filters[..., 1] = 5
    convolutional_psd.hold_on_sphere(filters)
    assert filters[..., 1] == pytest.approx(0.5)
    assert not filters[..., [0, 2]].any()


def test_a_model_encodes_by_prediction_and_decodes_by_its_filters():
    params, batch = start(STRIDED, np.float32)
    into = batch.x @ as_matrix(STRIDED, params.weights)
    places = into.shape[1] // STRIDED.maps
    exact = np.tile(params.gain, places) * np.tanh(into + np.tile(params.bias, places))
    np.testing.assert_allclose(models.encode(STRIDED, params, batch.x), exact, atol=1e-5)
    made = exact @ as_matrix(STRIDED, params.dictionary).T
    np.testing.assert_allclose(models.reconstruct(STRIDED, params, batch.x), made, atol=1e-4)
    with pytest.raises(DeclarationError, match="has one layer, 0; found layer 2"):
        models.encode(STRIDED, params, batch.x, 2)
    with pytest.raises(DeclarationError, match=r"\(6, 5, 2\) is 60 numbers; samples have 9"):
        models.shapes(STRIDED, 9)


def test_a_network_keeps_the_encoder():
    params, batch = start(dtype=np.float32)
    layer = MODEL.model_copy(update={"input_shape": None})
    net = Network(layers=(layer, Softmax(classes=3)), input_shape=SHAPE)
    begun = finetuning.start_net(net, (params,), V, Key(5))
    assert isinstance(begun[0], EncoderParams)
    codes = models.encode(net, begun, batch.x)
    np.testing.assert_allclose(codes, models.encode(MODEL, params, batch.x), rtol=1e-6)
    fresh = finetuning.start_net(net, None, V, Key(5))
    assert tree_map(np.shape, fresh[0]) == tree_map(np.shape, begun[0])
