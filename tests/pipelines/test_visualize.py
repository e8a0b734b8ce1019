"""Pictures of pipelines and graphs: well-formed, complete, harmless."""

from xml.etree import ElementTree

import pytest

from deepstrata.pipelines.visualize import describe_model, draw_graph, draw_pipeline, draw_round
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.datasets import DatasetSource, FileSource, ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, GenerativeDBN, Network
from deepstrata.schemas.optimisers import (
    SGD,
    Adam,
    Cosine,
    Exponential,
    Linear,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.sparse import SparseCoding
from deepstrata.schemas.stages import (
    Apply,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Split,
    Standardise,
)
from deepstrata.schemas.strategies import LocalSteps, Synchronous

SVG = "{http://www.w3.org/2000/svg}"
NET = DBN(layers=(RBM(hidden=8), Dense(units=4, activation="tanh"), Softmax(classes=3)))


def nothing(dataset: object) -> object:
    """Stand for a user's function."""
    return dataset


def pipeline(**changes: object) -> Pipeline:
    fields: dict[str, object] = {
        "name": "p",
        "source": ZarrSource(path="some/where/x.zarr", features="x", labels="y"),
        "stages": (
            Apply(function=nothing),
            Split(validation=0.1, test=0.2),
            Standardise(),
            Pretrain(model=NET, strategy=LocalSteps(shards=3)),
            FineTune(strategy=Synchronous(shards=12)),
            Evaluate(),
            Encode(),
            Report(),
        ),
    }
    return Pipeline(**{**fields, **changes})  # type: ignore[arg-type]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def arrows(svg: str) -> int:
    root = ElementTree.fromstring(svg)
    return sum(element.get("class") == "edge" for element in root.iter(f"{SVG}path"))


def test_every_stage_is_a_box_with_its_settings() -> None:
    shown = texts(draw_pipeline(pipeline()).svg)
    for stage in pipeline().stages:
        assert stage.name in shown
    for words in (
        "Zarr: x.zarr",
        "nothing",
        "20 % test",
        "RBM 8, tanh 4, softmax 3",
        "per feature",
    ):
        assert words in shown


def test_a_memory_is_described() -> None:
    model = GenerativeDBN(layers=(RBM(hidden=8),), memory=AssociativeMemory(hidden=20, classes=3))
    assert describe_model(model) == "RBM 8, memory 20 of 3 classes"
    shown = texts(draw_pipeline(pipeline(stages=(Pretrain(model=model),))).svg)
    assert "RBM 8, memory 20 of 3" in shown


def test_layers_say_what_they_pool_and_whose_weights_they_use() -> None:
    layers = (
        Convolution(maps=3, kernel=(3, 2), name="c", pooling=Pooling(size=(2, 2))),
        TransposedConvolution(maps=1, kernel=(3, 2), weights_of="c"),
        Dense(units=8, name="low"),
        Dense(units=15, weights_of="low", transposed=True),
        Softmax(classes=2),
    )
    assert describe_model(Network(layers=layers, input_shape=(9, 5, 1))) == (
        "convolution 3 of 3x2, relu, max of 2x2, transposed convolution 1 of 3x2, relu by c, "
        "logistic 8, logistic 15 by low transposed, softmax 2"
    )
    assert describe_model(SparseCoding(atoms=5)) == "sparse coding, 5 atoms"


def test_an_arrow_leads_from_what_is_read() -> None:
    # source, apply, split, standardise, pretrain, finetune in a row; two read it; report reads both
    assert arrows(draw_pipeline(pipeline()).svg) == 5 + 2 + 2


def test_a_fresh_model_does_not_hang_on_a_trained_one() -> None:
    stages = (Pretrain(model=NET), FineTune(model=NET), Evaluate())
    svg = draw_pipeline(pipeline(stages=stages)).svg
    assert arrows(svg) == 3


@pytest.mark.parametrize(
    "source",
    [
        FileSource(format="idx", path="a/mnist", features="x"),
        FileSource(format="digits", features="x"),
        DatasetSource(features="x"),
    ],
)
def test_any_source(source: object) -> None:
    drawn = draw_pipeline(pipeline(source=source, stages=()))
    assert "features: x" in texts(drawn.svg)


@pytest.mark.parametrize(
    "optimiser",
    [
        Adam(),
        SGD(learning_rate=Steps(values=(0.5, 0.1), boundaries=(3,))),
        SGD(learning_rate=Linear(start=0.5, end=0.1, epochs=2)),
        SGD(learning_rate=Cosine(start=0.5, end=0.1, epochs=2)),
        SGD(learning_rate=Exponential(start=0.5, decay=0.9), momentum=0.5),
        SGD(learning_rate=ReduceOnPlateau(start=0.5), clip_norm=2.5),
        SGD(learning_rate=WarmUp(epochs=2, then=0.5), clip_value=2.5),
    ],
)
def test_any_optimiser(optimiser: object) -> None:
    split = Split(validation=0.1)
    stages = (split, Scale(minimum=0), Pretrain(model=RBM(hidden=4), optimiser=optimiser))  # type: ignore[arg-type]
    shown = " ".join(texts(draw_pipeline(pipeline(stages=stages)).svg))
    assert type(optimiser).__name__ in shown
    assert "rate 0.5" in shown or "rate 0.001" in shown
    assert ("clipped at 2.5" in shown) == bool(optimiser.clip_norm or optimiser.clip_value)  # type: ignore[attr-defined]


def test_a_round_is_what_the_strategy_writes() -> None:
    shown = texts(draw_round(pipeline(), "pretrain").svg)
    assert [f"steps {i}" for i in range(3)] == sorted(t for t in shown if t.startswith("steps"))
    assert "update" in shown


def test_a_wide_round_is_cut_and_says_so() -> None:
    drawn = draw_round(pipeline(), "finetune")
    assert "8 of its 12 shards" in drawn.svg
    assert sum(text.startswith("gradient") for text in texts(drawn.svg)) == 8


def test_only_trainings_have_rounds() -> None:
    with pytest.raises(DeclarationError, match="has no rounds"):
        draw_round(pipeline(), "split")
    with pytest.raises(DeclarationError, match="no stage 'nope'"):
        draw_round(pipeline(), "nope")


def test_labels_are_text() -> None:
    drawn = draw_graph({1: ("<script>alert(1)</script>", []), 2: ('"&\x00', [1])})
    assert "<script" not in drawn.svg
    assert "<script>alert(1)</script>" in texts(drawn.svg)


def test_long_arrows_pass_between_boxes() -> None:
    drawn = draw_graph({"a": ("a", []), "b": ("b", ["a"]), "c": ("c", ["a", "b"])})
    assert arrows(drawn.svg) == 3
    # The arrow from a to c has a lane of its own.
    assert drawn.height > draw_graph({"a": ("a", [])}).height


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="in a circle"):
        draw_graph({"a": ("a", ["b"]), "b": ("b", ["a"])})


def test_a_drawing_shows_and_saves_itself(tmp_path: object) -> None:
    drawn = draw_graph({"a": ("a", [])})
    path = drawn.save(f"{tmp_path}/round.svg")
    assert path.read_text(encoding="utf-8") == drawn._repr_svg_() == str(drawn)


def test_sparse_and_convolutional_models_say_their_sizes() -> None:
    assert describe_model(SparseCoding(atoms=7)) == "sparse coding, 7 atoms"
    net = Network(
        layers=(
            ConvolutionalPSD(maps=4, kernel=(3, 2)),
            Rectification(),
            ConvolutionalRBM(maps=2, kernel=(2, 2), visible_units="gaussian"),
        ),
        input_shape=(8, 8, 1),
    )
    assert describe_model(net) == (
        "convolutional PSD 4 of 3x2, rectification, Gaussian convolutional RBM 2 of 2x2"
    )
