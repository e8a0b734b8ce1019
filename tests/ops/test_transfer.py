"""Layers taken from models that learned by themselves; tests/pipelines has those of runs."""

import pytest

from deepstrata.ops import models, pretraining, transfer
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import Network
from deepstrata.schemas.sparse import PSD, SparseCoding

V, KEY = 9, Key(1)


@pytest.mark.parametrize(
    "parent", [RBM(hidden=5), PSD(atoms=5, steps=3), Autoencoder(encoder=(Dense(units=5),))]
)
def test_a_model_by_itself_gives_its_one_layer(parent):
    params = models.init(parent, V, KEY)
    net = Network(layers=(parent, Softmax(classes=2)))
    (taken,) = transfer.take(net, 1, V, parent, params)
    wanted = pretraining.recognition(params)
    assert type(taken) is type(wanted)
    assert all(a is b for a, b in zip(taken, wanted, strict=True))


def test_how_a_psd_inferred_codes_does_not_matter():
    params = models.init(PSD(atoms=5, penalty=0.1, steps=3), V, KEY)
    net = Network(layers=(PSD(atoms=5), Softmax(classes=2)))
    transfer.take(net, 1, V, PSD(atoms=5, penalty=0.1, steps=3), params)
    with pytest.raises(DeclarationError, match=r"layer 0 \(psd\): expected atoms=5, found 4"):
        transfer.take(net, 1, V, PSD(atoms=4), models.init(PSD(atoms=4), V, KEY))


def test_sparse_coding_has_no_layer_to_take():
    parent = SparseCoding(atoms=5)
    with pytest.raises(DeclarationError, match="sparse_coding has no layers"):
        transfer.take(Network(layers=(PSD(atoms=5),)), 1, V, parent, models.init(parent, V, KEY))
