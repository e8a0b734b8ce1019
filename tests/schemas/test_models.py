"""Models: what can be stacked on what."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.autoencoders import Autoencoder, decoder_layers
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM, placed
from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    Flatten,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import (
    DBN,
    GenerativeDBN,
    Model,
    Network,
    classifies,
    fits_targets,
    is_supervised,
)
from deepstrata.schemas.noise import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from deepstrata.schemas.shapes import shape_after
from deepstrata.schemas.sparse import PSD, SparseCoding

MEMORY = AssociativeMemory(hidden=6, classes=4)
CLASSIFIERS = [
    DBN(layers=(RBM(hidden=5, visible_units="gaussian"), RBM(hidden=3), Softmax(classes=2))),
    DBN(layers=(Dense(units=4, activation="relu"), Dense(units=3), Softmax(classes=2))),
    Network(layers=(Autoencoder(encoder=(Dense(units=4),)), Softmax(classes=2))),
    Network(layers=(PSD(atoms=7), RBM(hidden=5, visible_units="gaussian"), Softmax(classes=2))),
    GenerativeDBN(layers=(RBM(hidden=5, visible_units="gaussian"),), memory=MEMORY),
]
MODELS = [
    *CLASSIFIERS,
    RBM(hidden=5),
    RBM(hidden=5, visible_units="gaussian", gibbs_steps=3, persistent=True, chains=7),
    RBM(hidden=5, sparsity_target=0.1, sparsity_cost=0.01, weight_scale=0.1),
    SparseCoding(atoms=7, penalty=0.1, steps=3, inference="line_search"),
    PSD(atoms=7, prediction_weight=2.0),
    DBN(layers=(RBM(hidden=5),)),
    RBM(hidden=5, hidden_units="gaussian"),
    Autoencoder(encoder=(Dense(units=4),), tied=True, noise=MaskingNoise(), contraction_cost=1),
    Autoencoder(encoder=(RBM(hidden=4), Dense(units=3)), noise=GaussianNoise(deviation=1)),
    ConvolutionalPSD(maps=4, kernel=(3, 2), stride=(1, 2), padding=1, prediction_weight=2.0),
    ConvolutionalRBM(
        maps=4,
        kernel=(3,),
        padding="same",
        visible_units="gaussian",
        sparsity_target=0.1,
        input_shape=(9, 2),
    ),
    Autoencoder(
        encoder=(Dense(units=4),),
        decoder=(Dense(units=9),),
        loss="cross_entropy",
        noise=SaltAndPepperNoise(low=-1),
        corrupted_weight=2,
    ),
]


POOLED = Convolution(maps=2, kernel=(2, 2), pooling=Pooling(size=(2, 2)))


@pytest.mark.parametrize("model", MODELS)
def test_models_round_trip(model: Model) -> None:
    adapter: TypeAdapter[Model] = TypeAdapter(Model)
    again = adapter.validate_json(adapter.dump_json(model))
    assert (again, hash(again)) == (model, hash(model))


@pytest.mark.parametrize("layer", [RBM(hidden=2), Dense(units=2), Softmax(classes=2)])
def test_layers_round_trip(layer: Declaration) -> None:
    assert type(layer).model_validate_json(layer.model_dump_json()) == layer


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden": 0},
        {"hidden": 2.5},
        {"hidden": 2, "gibbs_steps": 0},
        {"hidden": 2, "chains": 0},
        {"hidden": 2, "weight_scale": 0},
        {"hidden": 2, "sparsity_target": 0},
        {"hidden": 2, "sparsity_target": 1},
        {"hidden": 2, "sparsity_target": 0.1, "sparsity_cost": -1},
        {"hidden": 2, "visible_units": "Bernoulli"},
    ],
)
def test_an_rbm_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=list(fields)[-1]):
        RBM(**fields)


@pytest.mark.parametrize("kind", [SparseCoding, PSD])
@pytest.mark.parametrize("fields", [{"atoms": 0}, {"penalty": 0.0}, {"steps": 0}])
def test_a_sparse_model_out_of_range_is_refused(
    kind: type[Declaration], fields: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        kind(**{"atoms": 2} | fields)


def test_codes_of_a_psd_are_no_probabilities() -> None:
    with pytest.raises(ValidationError, match="layer 1 is an RBM with bernoulli visible units"):
        Network(layers=(PSD(atoms=2), RBM(hidden=2)))


def test_a_cost_of_sparsity_needs_a_target() -> None:
    with pytest.raises(ValidationError, match=r"sparsity_cost=0\.1 has no effect without"):
        RBM(hidden=2, sparsity_cost=0.1)


def test_convolutional_layers_have_the_shapes_of_convolutions() -> None:
    for kind in (ConvolutionalPSD, ConvolutionalRBM):
        layer = kind(maps=4, kernel=(3, 2), stride=2, padding=1)
        assert shape_after(layer, (7, 6, 5)) == (4, 4, 4)
        with pytest.raises(ValidationError, match="say how the features of a sample lie"):
            Network(layers=(layer,))
        with pytest.raises(ValidationError, match="layer 0 .*: give the network one"):
            Network(layers=(placed(layer, (7, 6, 5)),), input_shape=(7, 6, 5))
    with pytest.raises(ValidationError, match=r"expected at least \(3,\) places for one kernel"):
        ConvolutionalPSD(maps=2, kernel=(3,), input_shape=(2, 1))


def test_a_layer_without_weights_passes_on_what_an_rbm_may_read() -> None:
    net: dict[str, object] = {"input_shape": (8, 8, 1)}
    below = (ConvolutionalPSD(maps=2, kernel=(3, 3)), Rectification(), Pooling(size=(2, 2)))
    for kind in (RBM(hidden=2), ConvolutionalRBM(maps=2, kernel=(2, 2))):
        with pytest.raises(ValidationError, match="layer 3 is an RBM .* takes gaussian ones"):
            Network(layers=(*below, kind), **net)  # type: ignore[arg-type]
        Network(layers=(*below, kind.model_copy(update={"visible_units": "gaussian"})), **net)  # type: ignore[arg-type]
        Network(layers=(Pooling(size=(2, 2)), kind), **net)  # type: ignore[arg-type]


def test_only_the_last_layer_is_a_softmax() -> None:
    with pytest.raises(ValidationError, match="layer 1 is a Softmax; only the last"):
        DBN(layers=(RBM(hidden=2), Softmax(classes=2), Dense(units=2)))


@pytest.mark.parametrize("below", [RBM(hidden=2), Dense(units=2, activation="tanh")])
def test_an_rbm_above_another_layer_reads_probabilities(below: Declaration) -> None:
    gaussian = RBM(hidden=2, visible_units="gaussian")
    with pytest.raises(ValidationError, match="layer 1 is an RBM with gaussian visible units"):
        DBN(layers=(below, gaussian))
    with pytest.raises(ValidationError, match="layer 1 is an RBM with gaussian visible units"):
        GenerativeDBN(layers=(RBM(hidden=2), gaussian), memory=MEMORY)
    real = RBM(hidden=2, hidden_units="gaussian")
    with pytest.raises(ValidationError, match="layer 1 .associative_memory. stands above an RBM"):
        GenerativeDBN(layers=(real,), memory=MEMORY)


def test_a_net_has_layers() -> None:
    with pytest.raises(ValidationError, match="layers"):
        DBN(layers=())
    with pytest.raises(ValidationError, match="layers"):
        GenerativeDBN(layers=(), memory=MEMORY)


def test_what_classifies() -> None:
    assert [model for model in MODELS if classifies(model)] == CLASSIFIERS


@pytest.mark.parametrize(
    ("top", "loss", "message"),
    [
        (Softmax(classes=2), "squared_error", "loss='squared_error' with a Softmax"),
        (Softmax(classes=2), "cross_entropy", "leave the loss out, or end in another layer"),
        (Dense(units=2, activation="linear"), "cross_entropy", "logistic units, found 'linear'"),
        (Flatten(), "cross_entropy", "logistic units, found 'flatten'"),
        (RBM(hidden=2, hidden_units="gaussian"), "cross_entropy", "units, found 'linear'"),
        (Dense(units=2), "hinge", "loss"),
    ],
)
def test_a_loss_and_the_last_layer_fit(top: Declaration, loss: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Network(layers=(top,), loss=loss)  # type: ignore[arg-type]


def test_what_fits_targets() -> None:
    nets = [
        Network(layers=(Dense(units=2),), loss="cross_entropy"),
        Network(layers=(RBM(hidden=2),), loss="cross_entropy"),
        Network(layers=(Flatten(),), loss="squared_error"),
    ]
    assert all(fits_targets(net) and is_supervised(net) and not classifies(net) for net in nets)
    assert [model for model in MODELS if is_supervised(model)] == CLASSIFIERS


def test_a_mirror_image_has_the_sizes_and_activations_in_reverse() -> None:
    net = Autoencoder(
        encoder=(Dense(units=8, activation="tanh"), RBM(hidden=4, hidden_units="gaussian")),
        output="linear",
    )
    assert shape_after(net, (3, 5)) == (4,)
    assert decoder_layers(net, (3, 5)) == (
        Dense(units=8, activation="tanh"),
        Dense(units=15, activation="linear"),
    )


def test_the_mirror_image_of_convolutions_are_transposed_ones() -> None:
    places = {"kernel": (3, 3), "stride": 2}
    net = Autoencoder(
        encoder=(
            Convolution(maps=8, **places, activation="tanh"),
            Convolution(maps=4, kernel=(3, 3), padding="same"),
        ),
        output="linear",
    )
    assert shape_after(net, (9, 7, 2)) == (4, 3, 4)
    assert decoder_layers(net, (9, 7, 2)) == (
        TransposedConvolution(maps=8, kernel=(3, 3), padding=1, activation="tanh"),
        TransposedConvolution(maps=2, **places, activation="linear"),
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": ()}, "encoder"),
        ({"encoder": (Dense(units=2), Flatten())}, r"layer 1 \(flatten\) has no mirror image"),
        ({"tied": True, "decoder": (Dense(units=2),)}, "leave it out if tied"),
        ({"decoder": ()}, "has layers and weights"),
        ({"output": "tanh", "loss": "cross_entropy"}, "logistic units, found 'tanh'"),
        ({"decoder": (Flatten(),), "loss": "cross_entropy"}, "found 'flatten'"),
        ({"corrupted_weight": 2}, "masking or salt-and-pepper noise"),
        ({"noise": GaussianNoise(), "intact_weight": 0}, "masking or salt-and-pepper noise"),
        ({"noise": MaskingNoise(), "corrupted_weight": 0, "intact_weight": 0}, "both 0"),
        ({"encoder": (Dense(units=2, activation="relu"),), "contraction_cost": 1}, "one dense"),
        ({"encoder": (Dense(units=2), Dense(units=2)), "contraction_cost": 1}, "one dense"),
        ({"encoder": (RBM(hidden=2, visible_units="gaussian"),)}, "output='linear'"),
        ({"encoder": (RBM(hidden=2, hidden_units="gaussian"), RBM(hidden=2))}, "only the topmost"),
        ({"sparsity_cost": -1}, "sparsity_cost"),
        ({"encoder": (Convolution(maps=2, kernel=(2, 2)), Dense(units=2))}, "no mirror image"),
        ({"encoder": (POOLED,)}, r"layer 0 \(convolution\) has no mirror image"),
        ({"encoder": (Convolution(maps=2, kernel=(2, 2), dilation=2),)}, "without dilation"),
        ({"encoder": (Convolution(maps=2, kernel=(2, 2), padding="same"),)}, "padded alike"),
        (
            {"encoder": (Convolution(maps=2, kernel=(2,), stride=2),), "input_shape": (5, 1)},
            r"the decoder gives samples \(4, 1\), \(5, 1\) go in",
        ),
    ],
)
def test_autoencoders_that_cannot_learn_are_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Autoencoder(**{"encoder": (Dense(units=2),), **fields})  # type: ignore[arg-type]


def test_units_are_gaussian_on_one_side() -> None:
    with pytest.raises(ValidationError, match="gaussian on both sides"):
        RBM(hidden=2, visible_units="gaussian", hidden_units="gaussian")
    with pytest.raises(ValidationError, match="takes bernoulli units"):
        RBM(hidden=2, hidden_units="gaussian", sparsity_target=0.1)


def test_salt_is_not_pepper() -> None:
    with pytest.raises(ValidationError, match=r"low below high, found 1\.0 and 1\.0"):
        SaltAndPepperNoise(low=1)
