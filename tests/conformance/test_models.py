"""What every model must do; a new one is one line in a list."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import finetuning, models, network, optimisers
from deepstrata.ops.backend import Scratch
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch, Into, merge, take
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import (
    Activation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    Pooling,
    Rectification,
    Softmax,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, GenerativeDBN, Layered, Network, fits_targets
from deepstrata.schemas.noise import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from deepstrata.schemas.optimisers import SGD
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.trees import flatten, leaves, tree_map

V, N, KEY = 12, 30, Key(77)
PICTURE = (4, 3, 1)
MEMORY = AssociativeMemory(hidden=9, classes=3, gibbs_steps=2)

MODELS = [
    RBM(hidden=7),
    RBM(hidden=70, gibbs_steps=3, sparsity_target=0.1, sparsity_cost=0.1),
    RBM(hidden=7, visible_units="gaussian"),
    RBM(hidden=4, hidden_units="gaussian"),
    RBM(hidden=7, persistent=True, chains=9),
    RBM(hidden=7, persistent=True, chains=9, visible_units="gaussian", gibbs_steps=2),
    SparseCoding(atoms=9, penalty=0.2, steps=30),
    SparseCoding(atoms=30, penalty=0.2, steps=30),
    SparseCoding(atoms=9, penalty=0.2, steps=10, inference="line_search"),
    PSD(atoms=9, penalty=0.2),
    ConvolutionalPSD(maps=4, kernel=(2, 2), penalty=0.2, input_shape=PICTURE),
    ConvolutionalPSD(maps=5, kernel=(3,), stride=2, padding=1, penalty=0.2, input_shape=(6, 2)),
    ConvolutionalRBM(maps=8, kernel=(3, 2), input_shape=PICTURE),
    ConvolutionalRBM(
        maps=7,
        kernel=(3,),
        padding="same",
        gibbs_steps=2,
        visible_units="gaussian",
        sparsity_target=0.2,
        sparsity_cost=0.1,
        input_shape=(6, 2),
    ),
    DBN(layers=(Softmax(classes=3),)),
    DBN(layers=(RBM(hidden=7), RBM(hidden=5), Softmax(classes=3))),
    DBN(layers=(RBM(hidden=7, visible_units="gaussian"), Dense(units=6), Softmax(classes=3))),
    DBN(
        layers=(
            Dense(units=8, activation="tanh"),
            Dense(units=6, activation="relu"),
            Dense(units=4, activation="linear"),
            Softmax(classes=3),
        )
    ),
    MEMORY,
    GenerativeDBN(layers=(RBM(hidden=7), RBM(hidden=6)), memory=MEMORY),
    GenerativeDBN(layers=(RBM(hidden=7, visible_units="gaussian"),), memory=MEMORY),
    Network(layers=(RBM(hidden=7), Dense(units=6, activation="softplus"), Softmax(classes=3))),
    Network(layers=(PSD(atoms=7), RBM(hidden=5, visible_units="gaussian"), Softmax(classes=3))),
    Network(
        layers=(
            Dense(units=8, activation="scaled_tanh"),
            Dropout(rate=0.2),
            Flatten(),
            Dense(units=6, activation="linear"),
            Activation(function="relu"),
            Softmax(classes=3),
        )
    ),
    Network(
        layers=(
            Dense(units=8, activation="tanh", name="low"),
            Dense(units=V, weights_of="low", transposed=True),
            Dense(units=8, weights_of="low"),
            Softmax(classes=3),
        )
    ),
    Network(
        layers=(
            Autoencoder(encoder=(Dense(units=9),), tied=True),
            Autoencoder(encoder=(RBM(hidden=7), Dense(units=6, activation="tanh"))),
            Softmax(classes=3),
        )
    ),
    Network(
        layers=(
            ConvolutionalPSD(maps=5, kernel=(2, 2)),
            Rectification(),
            Pooling(size=(2, 1)),
            ConvolutionalRBM(maps=4, kernel=(1, 2), visible_units="gaussian"),
            Autoencoder(encoder=(Convolution(maps=4, kernel=(1, 1)),), tied=True),
            Softmax(classes=3),
        ),
        input_shape=PICTURE,
    ),
    Autoencoder(
        encoder=(Convolution(maps=4, kernel=(2, 2)), Convolution(maps=4, kernel=(2, 2))),
        tied=True,
        noise=MaskingNoise(),
        input_shape=PICTURE,
    ),
    Autoencoder(
        encoder=(Convolution(maps=6, kernel=(3,), padding="same", activation="tanh"),),
        loss="cross_entropy",
        sparsity_cost=1e-3,
        input_shape=(6, 2),
    ),
    Network(
        layers=(RBM(hidden=7), Dense(units=2, activation="linear")),
        loss="squared_error",
    ),
    Network(layers=(Dense(units=8, activation="relu"), Dense(units=4)), loss="cross_entropy"),
    Autoencoder(encoder=(Dense(units=7),), tied=True, noise=MaskingNoise()),
    Autoencoder(
        encoder=(Dense(units=70), Dense(units=8, activation="tanh")),
        tied=True,
        loss="cross_entropy",
        noise=SaltAndPepperNoise(rate=0.3),
        corrupted_weight=1.5,
        intact_weight=0.5,
    ),
    Autoencoder(
        encoder=(RBM(hidden=9), RBM(hidden=8, hidden_units="gaussian")), loss="cross_entropy"
    ),
    Autoencoder(
        encoder=(Dense(units=8, activation="relu"), Dropout(rate=0.1)),
        decoder=(Dense(units=9, activation="tanh"), Dense(units=V, activation="linear")),
        noise=GaussianNoise(),
        sparsity_cost=1e-3,
    ),
    Autoencoder(encoder=(Dense(units=9, activation="tanh"),), contraction_cost=1e-3),
    Autoencoder(encoder=(Dense(units=9),), tied=True, loss="cross_entropy", contraction_cost=1e-3),
]
NAMES = [f"{i}-{model.kind}" for i, model in enumerate(MODELS)]


def is_gaussian(model):
    first = model.layers[0] if isinstance(model, Layered | GenerativeDBN) else model
    return getattr(first, "visible_units", None) == "gaussian"


def make_batch(model, n=N, masked=False):
    """Return noisy copies of three patterns, which are the classes."""
    rows = 10 + np.arange(n)[::-1]
    labels = rows % 3
    patterns = (uniform(Key(1), np.arange(3), V) < 0.5).astype(np.float32)[labels]
    noise = uniform(Key(2), rows, V)
    if is_gaussian(model):
        x = 2 * patterns - 1 + np.float32(0.3) * normal(Key(3), rows, V)
    else:
        x = np.abs(patterns - (noise < 0.1).astype(np.float32))
    mask = noise < 0.8 if masked else None
    return Batch(rows, x, labels, mask, targets=make_targets(model, patterns))


def make_targets(model, patterns):
    """Return targets that follow from the patterns, some of them absent."""
    if not fits_targets(model):
        return None
    targets = patterns[:, : network.output_width(model, V)].copy()
    targets[::7, 0] = np.nan
    return targets


def start(model):
    """Return parameters that ``gradient`` takes, and a carry."""
    if isinstance(model, Layered):
        return finetuning.start_net(model, None, V, KEY), models.carry(model, V, KEY)
    return models.init(model, V, KEY), models.carry(model, V, KEY)


def assert_same(a, b, **tolerance):
    assert flatten(a).keys() == flatten(b).keys()
    for name, leaf in flatten(a).items():
        if tolerance:
            np.testing.assert_allclose(leaf, flatten(b)[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(leaf, flatten(b)[name], err_msg=name)


def is_stateless(model):
    return not getattr(model, "persistent", False)


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
class TestModel:
    def test_init_has_the_announced_shapes_and_depends_on_the_key(self, model):
        specs, params = models.shapes(model, V), models.init(model, V, KEY)
        assert {k: (s.shape, s.dtype) for k, s in flatten(specs).items()} == {
            k: (a.shape, str(a.dtype)) for k, a in flatten(params).items()
        }
        assert_same(params, models.init(model, V, KEY))
        other = models.init(model, V, Key(78))
        for name, leaf in flatten(params).items():
            if name.endswith(("weights", "dictionary")):
                assert (leaf != flatten(other)[name]).any()
            else:
                assert (leaf == float(name.endswith("gain"))).all()

    def test_gradient_is_shaped_like_the_parameters(self, model):
        params, carry = start(model)
        partial, after = models.gradient(model, params, make_batch(model), KEY, carry)
        assert partial.n == N
        for name, leaf in flatten(params).items():
            found = flatten(partial.total)[name]
            assert (found.shape, found.dtype) == (leaf.shape, np.float32)
            assert np.isfinite(found).all()
        assert [c.shape for c in leaves(carry)] == [c.shape for c in leaves(after)]
        assert all(np.isfinite(float(value)) for value in partial.stats.values())

    def test_gradient_is_repeatable_and_leaves_its_arguments_alone(self, model):
        params, carry = start(model)
        batch = make_batch(model)
        before = tree_map(np.copy, (params, carry, tuple(batch[:3])))
        first = models.gradient(model, params, batch, KEY, carry)
        out, scratch = tree_map(np.empty_like, params), Scratch()
        for _ in range(2):
            again = models.gradient(model, params, batch, KEY, carry, Into(out), scratch)
            assert_same(tuple(first[0].total), tuple(again[0].total))
            assert_same(first[1], again[1])
            assert first[0].stats == again[0].stats
            for a, b in zip(leaves(out), leaves(again[0].total), strict=True):
                assert a is b
        assert_same(before, (params, carry, tuple(batch[:3])))

    def test_a_gradient_is_added_where_it_is_asked_for(self, model):
        params, carry = start(model)
        batch = make_batch(model)
        whole, _ = models.gradient(model, params, batch, KEY, carry)
        there = tree_map(lambda leaf: leaf + np.float32(1), params)
        wanted = tree_map(lambda old, new: 0.5 * old + 0.25 * new, there, whole.total)
        found, _ = models.gradient(model, params, batch, KEY, carry, Into(there, 0.5, 0.25))
        assert_same(tuple(found.total), tuple(wanted), rtol=1e-4, atol=1e-5)
        assert all(a is b for a, b in zip(leaves(there), leaves(found.total), strict=True))
        assert found.stats == whole.stats

    def test_split_batches_sum_to_the_whole(self, model):
        if not is_stateless(model):
            pytest.skip("persistent chains move once a batch; a run without them splits")
        params, _ = start(model)
        batch = make_batch(model)
        whole, _ = models.gradient(model, params, batch, KEY)
        parts = [
            models.gradient(model, params, take(batch, a, b), KEY)[0]
            for a, b in ((0, 1), (1, 20), (20, 20), (20, N))
        ]
        merged = merge(*parts)
        assert merged.n == N
        assert_same(tuple(merged.total), tuple(whole.total), rtol=1e-4, atol=1e-4)
        assert merged.stats == pytest.approx(whole.stats, rel=1e-5)

    def test_other_libraries_give_the_same_gradient(self, model):
        params, carry = start(model)
        batch = make_batch(model)
        here, _ = models.gradient(model, params, batch, KEY, carry)
        xp = array_api_strict
        targets = None if batch.targets is None else xp.asarray(batch.targets)
        strict = batch._replace(x=xp.asarray(batch.x), targets=targets)
        there, _ = models.gradient(
            model, tree_map(xp.asarray, params), strict, KEY, tree_map(xp.asarray, carry)
        )
        assert all(leaf.dtype == xp.float32 for leaf in leaves(there.total))
        back = tree_map(np.asarray, there.total)
        assert_same(tuple(back), tuple(here.total), rtol=1e-4, atol=1e-4)

    def test_learning_helps_and_leaves_its_arguments_alone(self, model):
        params, carry = start(model)
        optimiser = SGD(learning_rate=0.05, momentum=0.5)
        state = optimisers.init(optimiser, params)
        batch = make_batch(model, 120)
        before = tree_map(np.copy, (params, state, carry))
        measure = "loss" if isinstance(model, Layered) else "squared_error"
        now = (params, state, carry)
        for epoch in range(60):
            rates = optimisers.rates(optimiser, epoch)
            *now, n, stats = local_steps(model, optimiser, rates, *now, batch, 25, Key(epoch))
            assert n == 120
            assert all(np.isfinite(float(value)) for value in stats.values())
        assert_same(before, (params, state, carry))
        start_measure = models.evaluate(model, params, batch)[measure]
        assert models.evaluate(model, now[0], batch)[measure] < 0.9 * start_measure
        assert all(leaf.dtype == np.float32 for leaf in leaves(tuple(now)))

    def test_codes_are_a_row_for_each_sample(self, model):
        if model == MEMORY:
            pytest.skip("a memory has no codes; the GenerativeDBN around it has")
        params, x = models.init(model, V, KEY), make_batch(model).x
        codes = models.encode(model, params, x)
        assert codes.shape[0] == N
        assert codes.dtype == np.float32
        # Codes that are found in many steps are of size 1 and may end close to 0.
        alone = models.encode(model, params, x[3:5])
        np.testing.assert_allclose(alone, codes[3:5], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("masked", [False, True])
    def test_evaluations_of_parts_add_up(self, model, masked):
        params, batch = start(model)[0], make_batch(model, masked=masked)
        whole = models.evaluate(model, params, batch)
        parts = [models.evaluate(model, params, take(batch, *c)) for c in ((0, 11), (11, N))]
        assert whole["n"] == N
        for name, value in whole.items():
            summed = sum(part[name] for part in parts)
            np.testing.assert_allclose(summed, value, rtol=1e-5, err_msg=name)

    def test_values_that_are_absent_do_not_matter(self, model):
        if not is_stateless(model):
            pytest.skip("persistent chains take no mask")
        params, batch = start(model)[0], make_batch(model, masked=True)
        dirty = batch._replace(x=np.where(batch.mask, batch.x, np.float32(np.nan)))
        a, b = (models.gradient(model, params, part, KEY)[0] for part in (batch, dirty))
        assert_same(tuple(a.total), tuple(b.total))
        assert models.evaluate(model, params, batch)["n"] == N

    def test_no_samples_give_zeros(self, model):
        params, carry = start(model)
        partial, after = models.gradient(model, params, make_batch(model, 0), KEY, carry)
        assert partial.n == 0
        assert not any(leaf.any() for leaf in leaves(partial.total))
        assert_same(carry, after)
