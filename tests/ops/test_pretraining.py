"""What pretrained layers are to a net: where they end, and what they look for."""

import numpy as np
import pytest

from deepstrata.ops import models, pretraining
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Convolution, Dense, Dropout, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN, Network
from deepstrata.schemas.sparse import PSD, SparseCoding

V, KEY = 12, Key(4)
STACK = (PSD(atoms=9), Autoencoder(encoder=(Dense(units=8), Dense(units=7))), RBM(hidden=6))
NET = Network(layers=(*STACK, Softmax(classes=3)))


def test_the_bottom_ends_below_the_first_layer_that_is_not_pretrained():
    params = models.init(NET, V, KEY)
    assert pretraining.stack(params) == params[:3]
    assert pretraining.stack(pretraining.feed_forward(params)) == ()
    mixed = models.init(DBN(layers=(RBM(hidden=4), Dense(units=3), RBM(hidden=2))), V, KEY)
    assert pretraining.stack(mixed) == mixed[:1]


def test_a_stack_of_all_kinds_goes_up_and_down():
    x = np.random.default_rng(0).random((5, V), dtype=np.float32)
    params, up = models.init(NET, V, KEY), x
    for layer, own in zip(STACK, params, strict=False):
        up = models.encode(layer, own, up)
    np.testing.assert_allclose(models.encode(NET, params, x), up, rtol=1e-5, atol=1e-6)
    down = up
    for layer, own, width in reversed(list(zip(STACK, params, (V, 9, 7), strict=False))):
        down = pretraining.decode(layer, own, down, width)
    np.testing.assert_allclose(models.reconstruct(NET, params, x), down, rtol=1e-5, atol=1e-6)


def test_filters_are_those_of_each_layer():
    params = models.init(NET, V, KEY)
    found = pretraining.filters(params)
    assert [own.shape for own in found] == [(9, V), (8, 9), (7, 8), (6, 7), (3, 6)]
    np.testing.assert_array_equal(found[0], params[0].dictionary)
    np.testing.assert_array_equal(found[3], params[2].weights.T)
    (atoms,) = pretraining.filters(models.init(SparseCoding(atoms=5), V, KEY))
    assert atoms.shape == (5, V)


@pytest.mark.parametrize("layer", [Dropout(), Convolution(maps=2, kernel=(2, 2))])
def test_filters_end_where_weights_are_no_matrix(layer):
    net = Network(layers=(layer, Softmax(classes=3)), input_shape=(4, 3, 1))
    assert pretraining.filters(models.init(net, V, KEY)) == []
