"""Models in other programs' hands: what those compute is what deepstrata computes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import xarray as xr
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

from deepstrata.ops import models
from deepstrata.ops.preprocess import Affine
from deepstrata.pipelines.cli import cli
from deepstrata.pipelines.export import FORMATS, export
from deepstrata.pipelines.export.layers import ACTIVATIONS
from deepstrata.pipelines.export.onnx import to_onnx
from deepstrata.pipelines.model import TrainedEncoder, load_encoder
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.errors import DeclarationError, SchemaError, StorageError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, MSDA, GenerativeDBN, Network, fits_targets, is_supervised
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.trees import tree_map
from deepstrata.storage.models import ModelInfo

PLACES, LINE = (6, 5, 4), (9, 4)
TOP = (Flatten(), Softmax(classes=3))
MODELS = {
    "rbm": (RBM(hidden=5), (7,)),
    "gaussian rbm": (RBM(hidden=5, visible_units="gaussian"), (4, 3)),
    "linear rbm": (RBM(hidden=5, hidden_units="gaussian"), (7,)),
    "autoencoder": (Autoencoder(encoder=(Dense(units=5), Dense(units=3)), tied=True), (4, 3)),
    "psd": (PSD(atoms=5), (4, 3)),
    "convolutional psd": (
        ConvolutionalPSD(maps=3, kernel=(3, 2), stride=2, padding=1, input_shape=(6, 5, 4)),
        (6, 5, 4),
    ),
    "a single convolutional rbm": (
        ConvolutionalRBM(maps=3, kernel=(4,), input_shape=(9, 4)),
        (9, 4),
    ),
    "msda": (MSDA(depth=2, targets=4), (4, 3)),
    "pretrained psd": (Network(layers=(PSD(atoms=5), PSD(atoms=3))), (7,)),
    "psd below a softmax": (Network(layers=(PSD(atoms=5), Softmax(classes=3))), (7,)),
    "pretrained dbn": (DBN(layers=(RBM(hidden=5), RBM(hidden=4))), (7,)),
    "dbn": (DBN(layers=(RBM(hidden=5), Softmax(classes=3))), (4, 3)),
    "generative": (
        GenerativeDBN(
            layers=(RBM(hidden=5, visible_units="gaussian"), RBM(hidden=4)),
            memory=AssociativeMemory(hidden=6, classes=3),
        ),
        (4, 3),
    ),
    **{
        name: (Network(layers=(Dense(units=5, activation=name), Softmax(classes=3))), (7,))
        for name in ACTIVATIONS
    },
    "without softmax": (Network(layers=(Dense(units=5), Dense(units=2))), (7,)),
    "tied": (
        Network(
            layers=(
                Dense(units=5, name="low"),
                Dense(units=7, weights_of="low", transposed=True),
                Dense(units=5, weights_of="0", activation="tanh"),
                Softmax(classes=3),
            )
        ),
        (7,),
    ),
    "regression": (
        Network(layers=(Dense(units=5), Dense(units=2, activation="linear")), loss="squared_error"),
        (7,),
    ),
    "labels": (Network(layers=(RBM(hidden=5), Dense(units=2)), loss="cross_entropy"), (4, 3)),
    "identities": (
        Network(layers=(Flatten(), Dropout(), Activation(function="tanh"), Dense(units=3))),
        (4, 3),
    ),
}
SPATIAL: list[tuple[Any, tuple[int, ...]]] = [
    (Convolution(maps=3, kernel=(3, 2)), PLACES),
    (Convolution(maps=3, kernel=(3,), stride=2, padding=1, activation="tanh"), LINE),
    (Convolution(maps=6, kernel=(2, 3), padding="same", groups=2), PLACES),
    (Convolution(maps=3, kernel=(2, 2), stride=(2, 1), dilation=(1, 2), padding=2), PLACES),
    (Convolution(maps=2, kernel=(3, 3), table=((0, 1), (2, 3))), PLACES),
    *(
        (Convolution(maps=3, kernel=(2, 2), pooling=Pooling(size=(2, 3), function=name)), PLACES)
        for name in ("max", "average", "l2")
    ),
    (Convolution(maps=3, kernel=(2,), pooling=Pooling(size=(3,), stride=2)), LINE),
    (TransposedConvolution(maps=3, kernel=(3, 2), stride=(2, 1), padding=1), PLACES),
    (TransposedConvolution(maps=3, kernel=(4,), stride=3), LINE),
    (LocallyConnected(maps=3, kernel=(3, 2), stride=(2, 1)), PLACES),
    (LocallyConnected(maps=3, kernel=(2,), activation="logistic"), LINE),
    *((Pooling(size=(2, 2), function=name), PLACES) for name in ("max", "average", "l2")),
    *((Pooling(size=(3,), stride=2, function=name), LINE) for name in ("max", "average", "l2")),
    (ContrastNormalisation(size=3), PLACES),
    (ContrastNormalisation(size=5), LINE),
    (Rectification(), PLACES),
    (ConvolutionalPSD(maps=3, kernel=(3, 2), padding="same"), PLACES),
    (ConvolutionalRBM(maps=3, kernel=(3, 2), padding=1), PLACES),
    (Autoencoder(encoder=(Convolution(maps=3, kernel=(3, 2)),)), PLACES),
]
CHAIN = (
    Convolution(maps=3, kernel=(2, 2)),
    Pooling(size=(2, 2)),
    Dropout(),
    Convolution(maps=2, kernel=(2, 1), activation="linear"),
    Activation(function="softplus"),
    Dense(units=4),
    Softmax(classes=3),
)
TIED = (
    Convolution(maps=3, kernel=(3, 2), stride=2),
    TransposedConvolution(maps=4, kernel=(3, 2), stride=2, weights_of="0"),
    *TOP,
)
CASES = MODELS | {
    "tied convolutions": (Network(layers=TIED, input_shape=PLACES), PLACES),
    "chain": (Network(layers=CHAIN, input_shape=PLACES), PLACES),
    **{
        f"{i}-{layer.kind}": (Network(layers=(layer, *TOP), input_shape=shape), shape)
        for i, (layer, shape) in enumerate(SPATIAL)
    },
}


TARGETS = {"targets": "rain", "target_dims": ("place",), "target_shape": (2,)}


def trained(model: Any, shape: tuple[int, ...]) -> TrainedEncoder:
    """Return a model with weights and biases that are nowhere 0, behind two affines."""
    random, visible = np.random.default_rng(5), int(np.prod(shape))
    if isinstance(model, MSDA):  # it is solved, and has no fresh weights
        drawn = tree_map(
            lambda spec: np.zeros(spec.shape, spec.dtype), models.shapes(model, visible)
        )
    else:
        drawn = models.init(model, visible, Key(1))

    def noisy(leaf: np.ndarray) -> np.ndarray:
        return (leaf + 0.3 * random.standard_normal(leaf.shape) * (leaf != 0)).astype(np.float32)

    def biased(leaf: np.ndarray) -> np.ndarray:
        return noisy(leaf) if leaf.any() else noisy(leaf + 1) - 1

    affine = (
        Affine(np.float32(-1.0), np.float32(2.0)),
        Affine(*(random.random((2, visible)).astype(np.float32) + 0.5)),
    )
    info = ModelInfo(
        model=model,
        visible=visible,
        features="picture",
        feature_dims=tuple("zyx"[-len(shape) :]),
        feature_shape=shape,
        pipeline="case",
        **(TARGETS if fits_targets(model) else {}),  # type: ignore[arg-type]
    )
    return TrainedEncoder(info, tree_map(biased, drawn), affine)


def samples(encoder: TrainedEncoder, n: int = 4) -> np.ndarray:
    values = np.random.default_rng(6).standard_normal((n, *encoder.info.feature_shape))
    return values.astype(np.float32)


def wanted(encoder: TrainedEncoder, x: np.ndarray) -> list[np.ndarray]:
    """Return codes, and what is predicted where anything is."""
    data = xr.DataArray(x, dims=("sample", *encoder.info.feature_dims))
    found = [encoder.encode(data)]
    if is_supervised(encoder.model):
        found.append(encoder.predict(data))
    return [array.values for array in found]


@pytest.mark.parametrize("case", CASES)
def test_onnx_computes_the_same(case: str) -> None:
    encoder = trained(*CASES[case])
    made = to_onnx(encoder)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for run in (session.run, ReferenceEvaluator(made).run):
        for n in (4, 1):  # the number of samples is free
            x = samples(encoder, n)
            expected = wanted(encoder, x)
            found = run(None, {"picture": x})
            assert len(found) == len(expected)
            for ours, theirs in zip(expected, found, strict=True):
                np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_what_is_absent_is_absent_in_onnx_too() -> None:
    encoder = trained(*CASES["chain"])
    info = encoder.info.model_copy(update={"missing": "absent"})
    encoder = TrainedEncoder(info, encoder.params, encoder.affine)
    x = samples(encoder)
    x[:, 1] = np.nan
    expected = wanted(encoder, x)
    assert np.isfinite(expected[0]).all()
    session = onnxruntime.InferenceSession(to_onnx(encoder).SerializeToString())
    for ours, theirs in zip(expected, session.run(None, {"picture": x}), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def test_spatial_layers_go_on_from_one_another_without_transposes() -> None:
    made = to_onnx(trained(*CASES["chain"]))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Transpose") == 2
    assert [kind for kind in kinds if kind.startswith(("Conv", "Max"))] == [
        "Conv", "MaxPool", "Conv",
    ]  # fmt: skip


def test_an_onnx_file_says_what_it_is(tmp_path: Path) -> None:
    encoder = trained(*CASES["dbn"])
    path = str(tmp_path / "net.onnx")
    encoder.export(path)
    made = onnx.load(path)
    (entry,) = made.metadata_props
    assert ModelInfo.from_json(entry.value) == encoder.info
    assert made.graph.name == "case"
    assert made.producer_name == "deepstrata"


ELSEWHERE = (
    *("local", "contrast", "scaled", "auto", "linear rbm"),
    *("psd", "msda", "generative", "a single"),
)
IN_TORCH = [name for name in CASES if not any(other in name for other in ELSEWHERE)]


@pytest.fixture(scope="module")
def as_modules() -> Any:
    """What docs/export.md shows."""
    pytest.importorskip("torch", reason="the page is about torch: pip install 'deepstrata[oracle]'")
    page = Path(__file__).parents[2] / "docs" / "export.md"
    if not page.exists():
        pytest.skip("no docs beside the tests; they are in the repository")
    code = page.read_text().rpartition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    return names["as_modules"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", IN_TORCH)
def test_torch_reads_safetensors_as_the_page_shows(case: str, as_modules: Any, tmp_path) -> None:
    import torch

    encoder = trained(*CASES[case])
    encoder.export(str(tmp_path / "model"))
    x = samples(encoder)
    with torch.no_grad():
        found = as_modules(tmp_path / "model")(torch.from_numpy(x))
    np.testing.assert_allclose(
        found.reshape(len(x), -1).numpy(), wanted(encoder, x)[-1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_exports_runs_and_models(format: str, tmp_path: Path) -> None:
    encoder = trained(*CASES["dbn"])
    model, dest = str(tmp_path / "model"), str(tmp_path / "out")
    encoder.export(model)
    result = CliRunner().invoke(cli, ["export", model, dest, "--format", format])
    assert result.exit_code == 0, result.output
    assert result.output == f"{dest}: written as {format}\n"
    if format == "onnx":
        onnx.checker.check_model(dest)
    else:
        assert load_encoder(dest).info == load_encoder(model).info


def test_a_runs_model_is_found(tmp_path: Path) -> None:
    trained(*CASES["rbm"]).export(str(tmp_path / "run" / "model"))
    (tmp_path / "run" / "run.json").write_text("{}")
    assert load_encoder(str(tmp_path / "run")).model == RBM(hidden=5)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    with pytest.raises(StorageError, match="this run has no model: it has not come to the end"):
        load_encoder(str(tmp_path / "begun"))


def test_what_cannot_be_exported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = trained(*CASES["rbm"])
    with pytest.raises(DeclarationError, match="'pmml': expected one of onnx, safetensors"):
        export(encoder, str(tmp_path / "a"), "pmml")
    with pytest.raises(StorageError, match="exists already; choose another path"):
        export(encoder, str(tmp_path))
    with pytest.raises(DeclarationError, match="'sparse_coding' has no form in ONNX"):
        to_onnx(trained(SparseCoding(atoms=3), (7,)))
    monkeypatch.setattr("deepstrata.pipelines.export.onnx.LARGEST", 100)
    with pytest.raises(DeclarationError, match="GiB of weights: an ONNX file holds 2"):
        export(encoder, str(tmp_path / "a.onnx"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "deepstrata.pipelines.export.onnx")
    with pytest.raises(DeclarationError, match=r"pip install 'deepstrata\[onnx\]'"):
        export(encoder, str(tmp_path / "a.onnx"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["gaussian rbm", "autoencoder", "psd"])
def test_codes_are_decoded_to_the_units_of_the_data(case: str) -> None:
    encoder = trained(*CASES[case])
    data = xr.DataArray(samples(encoder), dims=("sample", "y", "x"))
    found = encoder.decode(encoder.encode(data))
    assert found.dims == data.dims
    x = data.values.reshape(len(data), -1)
    for shift, divisor in encoder.affine:
        x = (x - shift) / divisor
    x = models.reconstruct(encoder.model, encoder.params, x)
    for shift, divisor in reversed(encoder.affine):
        x = x * divisor + shift
    np.testing.assert_allclose(found.values.reshape(len(x), -1), x, rtol=1e-4, atol=1e-4)


def test_what_a_model_cannot_say_of_samples_or_codes() -> None:
    encoder = trained(*CASES["dbn"])
    data = xr.DataArray(samples(encoder), dims=("sample", "y", "x"))
    with pytest.raises(SchemaError, match="a single RBM, found a dbn"):
        encoder.free_energy(data)
    with pytest.raises(SchemaError, match="makes samples of codes, .*found a dbn"):
        encoder.decode(encoder.encode(data))
    machine = trained(*CASES["rbm"])
    with pytest.raises(SchemaError, match="expected 5 along the dimension 'unit'"):
        machine.decode(xr.DataArray(np.zeros((2, 4)), dims=("sample", "unit")))
