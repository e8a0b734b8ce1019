"""Autoencoders: their gradients against finite differences, their costs against definitions."""

import math

import numpy as np
import pytest

from deepstrata.ops import finetuning, models, pretraining
from deepstrata.ops.autoencoder import AutoencoderParams, BiasParams, decode
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.noise import corrupt
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Convolution, Dense, Dropout, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import Network
from deepstrata.schemas.noise import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from deepstrata.schemas.trees import flatten, leaves, tree_map

KEY, V, N = Key(4), 9, 11
ONE, TANH = (Dense(units=6),), (Dense(units=6, activation="tanh"),)
DEEP = (Dense(units=7, activation="scaled_tanh"), Dense(units=5), Dense(units=3, activation="tanh"))
LEARN = [
    {"encoder": encoder, "tied": tied, "loss": loss}
    for encoder in (ONE, TANH, DEEP)
    for tied in (True, False)
    for loss in ("squared_error", "cross_entropy")
]
COSTS = [
    {"noise": MaskingNoise(rate=0.4), "corrupted_weight": 2.0, "intact_weight": 0.5},
    {"noise": SaltAndPepperNoise(), "loss": "cross_entropy", "intact_weight": 0.0},
    {"noise": GaussianNoise(deviation=0.5), "output": "linear"},
    {"sparsity_cost": 0.3, "output": "softplus"},
    {"contraction_cost": 0.7},
    {"contraction_cost": 0.7, "encoder": TANH, "noise": MaskingNoise(), "sparsity_cost": 0.1},
]
CASES = [
    *LEARN,
    *({"encoder": ONE, **cost, "tied": tied} for cost in COSTS for tied in (True, False)),
    {"encoder": (RBM(hidden=5), RBM(hidden=3, hidden_units="gaussian")), "sparsity_cost": 0.2},
    {
        "encoder": (Dense(units=5), Dropout(rate=0.3)),
        "decoder": (Dense(units=6, activation="tanh"), Dense(units=V, activation="linear")),
    },
]
MAPS = (
    Convolution(maps=4, kernel=(2, 2), activation="tanh"),
    Convolution(maps=3, kernel=(2, 3), padding=1, activation="softplus"),
)
SOUND = (Convolution(maps=3, kernel=(3,), stride=2, activation="logistic"),)
CASES += [
    {"encoder": encoder, "input_shape": shape, **more}
    for encoder, shape in ((MAPS, (3, 3, 1)), (SOUND, (9, 1)))
    for more in (
        {"tied": True, "sparsity_cost": 0.2},
        {"tied": True, "loss": "cross_entropy", "noise": MaskingNoise()},
        {"output": "linear"},
    )
]
TIED = Autoencoder(encoder=ONE, tied=True)


def drawn(shape, seed=2, dtype=np.float64):
    return normal(Key(seed), np.arange(math.prod(shape)), 1).reshape(shape).astype(dtype)


def start(model, dtype=np.float64):
    """Return parameters with biases that are not zero."""
    return tree_map(
        lambda a: (a + 0.3 * drawn(a.shape, 9)).astype(dtype), models.init(model, V, KEY)
    )


def batch(dtype=np.float64, masked=False):
    x = uniform(Key(1), np.arange(N), V).astype(dtype)
    return Batch(np.arange(N), x, np.arange(N) % 3, x < 0.7 if masked else None)


def assert_slopes(model, params, samples):
    """Compare the gradient with finite differences of the loss along a direction of each leaf."""
    partial, _ = models.gradient(model, params, samples, KEY)
    for name, found in flatten(tuple(partial.total)).items():
        way = tree_map(np.zeros_like, tuple(params))
        flatten(way)[name][...] = drawn(found.shape)
        ends = [
            models.gradient(
                model,
                type(params)(*moved) if hasattr(params, "_fields") else moved,
                samples,
                KEY,
            )[0].stats["loss"]
            for moved in (
                tree_map(lambda a, w, s=s: a + s * w, tuple(params), way) for s in (1e-6, -1e-6)
            )
        ]
        along = (found * flatten(way)[name]).sum()
        assert along == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=2e-6, abs=1e-7), name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fields", CASES)
def test_gradients_agree_with_finite_differences_of_the_loss(fields, masked):
    model = Autoencoder(**fields)
    assert_slopes(model, start(model), batch(masked=masked))


def test_a_network_of_autoencoders_is_trained_through_their_encoders():
    model = Network(layers=(TIED, Autoencoder(encoder=DEEP), Softmax(classes=3)))
    net = tree_map(lambda a: a.astype(np.float64), finetuning.start_net(model, None, V, KEY))
    assert_slopes(model, net, batch())


@pytest.mark.parametrize(
    ("encoder", "shape"), [(ONE, None), (DEEP, None), (MAPS, (3, 3, 1)), (SOUND, (9, 1))]
)
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_tied_weights_are_those_of_an_untied_twin(encoder, shape, loss):
    """The gradient of weights that serve twice is the sum of two gradients."""
    settings = {"encoder": encoder, "loss": loss, "input_shape": shape}
    tied, twin = (Autoencoder(**settings, tied=t) for t in (True, False))
    params, samples = start(tied), batch()

    def turned(weights):
        return weights.T.copy() if shape is None else weights

    mirror = tuple(
        DenseParams(turned(up.weights), down.bias)
        for up, down in zip(reversed(params.encoder), params.decoder, strict=True)
    )
    untied = AutoencoderParams(params.encoder, mirror)
    np.testing.assert_allclose(
        models.reconstruct(tied, params, samples.x), models.reconstruct(twin, untied, samples.x)
    )
    one, two = (models.gradient(m, p, samples, KEY)[0] for m, p in ((tied, params), (twin, untied)))
    assert one.stats == pytest.approx(two.stats)
    for i, own in enumerate(one.total.encoder):
        up, down = two.total.encoder[i], two.total.decoder[-1 - i]
        np.testing.assert_allclose(own.weights, up.weights + turned(down.weights), rtol=1e-9)
        np.testing.assert_allclose(own.bias, up.bias, rtol=1e-9)
        np.testing.assert_allclose(one.total.decoder[-1 - i].bias, down.bias, rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_torch_gives_the_same_gradient(loss):
    torch = pytest.importorskip("torch", reason="an oracle; pip install torch")
    model = Autoencoder(encoder=ONE, tied=True, loss=loss)
    params, samples = start(model), batch()
    w, b, c = (
        torch.tensor(leaf, requires_grad=True)
        for leaf in (params.encoder[0].weights, params.encoder[0].bias, params.decoder[0].bias)
    )
    x = torch.tensor(samples.x)
    y = torch.sigmoid(torch.sigmoid(x @ w + b) @ w.T + c)
    half = torch.nn.functional.mse_loss(y, x, reduction="sum") / 2
    entropy = torch.nn.functional.binary_cross_entropy(y, x, reduction="sum")
    total = half if loss == "squared_error" else entropy
    total.backward()
    found = models.gradient(model, params, samples, KEY)[0]
    assert found.stats["loss"] == pytest.approx(total.item())
    for own, theirs in zip(leaves(found.total), (w, b, c), strict=True):
        np.testing.assert_allclose(own, theirs.grad.numpy(), rtol=1e-9)


def test_contraction_is_the_norm_of_the_jacobian():
    plain, costly = (Autoencoder(encoder=TANH, contraction_cost=cost) for cost in (0.0, 2.0))
    params, samples = start(plain), batch()
    norms = 0.0
    for i in range(V):
        step = np.zeros(V)
        step[i] = 1e-6
        up, down = (models.encode(plain, params, samples.x + s * step) for s in (1, -1))
        norms += (((up - down) / 2e-6) ** 2).sum()
    losses = [models.gradient(m, params, samples, KEY)[0].stats["loss"] for m in (costly, plain)]
    assert losses[0] - losses[1] == pytest.approx(2 * norms, rel=1e-6)


def test_emphasis_weighs_what_the_noise_has_changed():
    noise, samples = MaskingNoise(rate=0.4), batch()
    params = start(TIED)

    def loss(**weights):
        model = Autoencoder(encoder=ONE, tied=True, noise=noise, **weights)
        return models.gradient(model, params, samples, KEY)[0].stats["loss"]

    changed, intact = loss(intact_weight=0), loss(corrupted_weight=0)
    assert min(changed, intact) > 0
    assert loss() == pytest.approx(changed + intact)
    assert loss(corrupted_weight=3, intact_weight=0.5) == pytest.approx(3 * changed + 0.5 * intact)


def test_noise_changes_what_is_seen_and_not_what_is_wanted():
    params, samples = start(TIED), batch()
    noisy = Autoencoder(encoder=ONE, tied=True, noise=MaskingNoise(rate=0.9))
    a, b = (models.gradient(m, params, samples, KEY)[0].stats for m in (TIED, noisy))
    assert a["squared_error"] != b["squared_error"]
    assert models.evaluate(TIED, params, samples) == models.evaluate(noisy, params, samples)
    again = models.gradient(noisy, params, samples, Key(5))[0].stats
    assert again["loss"] != b["loss"]


@pytest.mark.parametrize(
    ("noise", "share"),
    [(MaskingNoise(rate=0.3), 0.3), (SaltAndPepperNoise(rate=0.2, low=-1, high=2), 0.2)],
)
def test_noise_changes_its_share_of_the_values(noise, share):
    x = np.full((500, 80), 0.5, np.float32)
    seen, changed = corrupt(noise, x, np.arange(500), KEY)
    assert changed.mean() == pytest.approx(share, abs=0.01)
    np.testing.assert_array_equal(seen == x, ~changed)
    values, counts = np.unique(seen[changed], return_counts=True)
    assert set(values) == ({0} if noise.kind == "masking" else {-1, 2})
    assert counts == pytest.approx(counts.mean(), rel=0.05)
    part, _ = corrupt(noise, x[7:9], np.arange(7, 9), KEY)
    np.testing.assert_array_equal(part, seen[7:9])


def test_gaussian_noise_has_its_deviation():
    seen, changed = corrupt(GaussianNoise(deviation=0.3), np.ones((400, 80)), np.arange(400), KEY)
    assert changed is None
    assert (seen.mean(), seen.std()) == pytest.approx((1, 0.3), abs=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_rbms_are_unrolled_to_the_stack_that_goes_up_and_down(tied):
    rbms = (RBM(hidden=7), RBM(hidden=3, hidden_units="gaussian"))
    model = Autoencoder(encoder=rbms, tied=tied, loss="cross_entropy")
    stack = tuple(
        tree_map(lambda a: a + drawn(a.shape, 3, np.float32), models.init(rbm, width, KEY))
        for rbm, width in zip(rbms, (V, 7), strict=True)
    )
    net = finetuning.start_net(model, stack, V, KEY)
    assert all(type(own) is (BiasParams if tied else DenseParams) for own in net.decoder)
    x = batch(np.float32).x
    up = models.encode(rbms[1], stack[1], models.encode(rbms[0], stack[0], x))
    np.testing.assert_array_equal(models.encode(model, net, x), up)
    down = pretraining.decode(rbms[0], stack[0], pretraining.decode(rbms[1], stack[1], up, 7), V)
    np.testing.assert_allclose(decode(model, net, up, V), down, rtol=1e-5)
    assert type(stack[0]) is RBMParams
    assert finetuning.start_net(model, net, V, KEY) is net
    if not tied:
        assert net.decoder[-1].weights.flags.c_contiguous
        assert not np.shares_memory(net.decoder[-1].weights, stack[0].weights)


def test_layers_above_the_rbms_begin_fresh():
    model = Autoencoder(encoder=(RBM(hidden=7), Dense(units=4, activation="tanh")))
    stack = (models.init(RBM(hidden=7), V, KEY),)
    net, fresh = finetuning.start_net(model, stack, V, KEY), models.init(model, V, KEY)
    assert net.encoder[0].weights is stack[0].weights
    np.testing.assert_array_equal(net.encoder[1].weights, fresh.encoder[1].weights)
    np.testing.assert_array_equal(net.decoder[0].weights, fresh.decoder[0].weights)
    np.testing.assert_array_equal(net.decoder[1].weights, stack[0].weights.T)


def test_a_pretrained_stack_is_measured_by_its_pass_up_and_down():
    layers = (TIED, RBM(hidden=4), Softmax(classes=3))
    model, samples = Network(layers=layers), batch(np.float32)
    params = start(model, np.float32)[:2]
    code = models.encode(RBM(hidden=4), params[1], models.encode(TIED, params[0], samples.x))
    np.testing.assert_array_equal(models.encode(model, params, samples.x, 1), code)
    y = decode(TIED, params[0], pretraining.decode(RBM(hidden=4), params[1], code, 6), V)
    found = models.evaluate(model, params, samples)
    assert found["squared_error"] == pytest.approx(((y - samples.x) ** 2).sum(), rel=1e-5)


def test_codes_of_each_layer_of_an_encoder():
    model, x = Autoencoder(encoder=DEEP), batch().x
    params = start(model)
    y = x
    for i, (layer, own) in enumerate(zip(DEEP, params.encoder, strict=True)):
        one = Network(layers=(layer,))
        y = models.encode(one, (own,), y)
        np.testing.assert_allclose(models.encode(model, params, x, i), y)
        assert models.code_width(model, V, i) == layer.units
    with pytest.raises(DeclarationError, match="layers 0 to 2; found layer 3"):
        models.encode(model, params, x, 3)


def test_shapes_that_do_not_fit_are_named():
    small = Autoencoder(encoder=ONE, decoder=(Dense(units=4),))
    with pytest.raises(DeclarationError, match=r"gives samples \(4,\): expected 9 features"):
        models.init(small, V, KEY)
    with pytest.raises(DeclarationError, match=r"input_shape=\(2, 4\) is 8 numbers; samples have"):
        models.init(Autoencoder(encoder=ONE, input_shape=(2, 4)), V, KEY)
    with pytest.raises(DeclarationError, match=r"expected encoder/0/weights \(9, 6\), found"):
        finetuning.start_net(TIED, models.init(TIED, 10, KEY), V, KEY)
