"""A trained model, used by itself: labelled arrays in, labelled arrays out, lazily."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from deepstrata.ops import models, preprocess, pretraining, rbm, updown
from deepstrata.ops.preprocess import Affine
from deepstrata.schemas.convolutional import ConvolutionalRBM
from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import MSDA, GenerativeDBN, Layered, Model, classifies, fits_targets
from deepstrata.schemas.trees import Tree, flatten, unflatten
from deepstrata.storage import runs, stores
from deepstrata.storage.models import ModelInfo, load_model, save_model

UNIT = "unit"  #: dimension of a code
SAMPLE = "sample"  #: dimension of what is generated


class TrainedEncoder:
    """A model with its parameters and the preprocessing that it was trained behind.

    Attributes
    ----------
    info : ModelInfo
        Declaration, sizes, name of the features, fingerprint of the run.
    params : tree of arrays
        The parameters.
    """

    def __init__(self, info: ModelInfo, params: Tree, affine: tuple[Affine, ...]) -> None:
        self.info, self.params, self.affine = info, params, affine

    @property
    def model(self) -> Model:
        """The declaration."""
        return self.info.model

    def encode(self, data: xr.Dataset | xr.DataArray, layer: int | None = None) -> xr.DataArray:
        """Return the code of every sample, lazily where the data is lazy.

        Parameters
        ----------
        data
            A dataset with the variable that the model was trained on, or that variable itself:
            the sample dimension and the feature dimensions, in any order.
        layer
            Layer whose output is the code; the last one below the softmax by default.

        Returns
        -------
        xarray.DataArray
            (sample, unit) float32, with the coordinates of the samples.
        """
        width = models.code_width(self.model, self.info.visible, layer)
        found = self._apply(
            data, {UNIT: width}, lambda x: models.encode(self.model, self.params, x, layer)
        )
        return found.rename("code")

    def predict(self, data: xr.Dataset | xr.DataArray) -> xr.DataArray:
        """Return what the model learned to tell of every sample, lazily where the data is lazy.

        Returns
        -------
        xarray.DataArray
            float32: (sample, class), the probability of every class; or of a network with a
            ``loss`` what the targets are expected to be, with their name and dimensions.

        Raises
        ------
        SchemaError
            The model learned neither classes nor targets.
        """
        if fits_targets(self.model):
            name, info = self.info.targets, self.info
            sizes = dict(zip(info.target_dims, info.target_shape, strict=True))
        elif classifies(self.model):
            name, sizes = "probability", {"class": int(self.model.classes or 0)}
        else:
            raise SchemaError(
                "the model learned no classes and no targets: it encodes, and predicts nothing"
            )
        found = self._apply(data, sizes, lambda x: models.predict(self.model, self.params, x))
        return found.rename(name)

    def generate(
        self, label: int | None = None, n: int = 10, steps: int = 1000, seed: int = 0
    ) -> xr.DataArray:
        """Return samples that a generative model makes of a class, in the units of the data.

        Parameters
        ----------
        label
            The class; by default all of them, one after the other.
        n
            Samples of each class.
        steps
            Gibbs sweeps of the memory with the label held; fewer mix less.
        seed
            Other seeds give other samples.

        Returns
        -------
        xarray.DataArray
            (sample, ...) float32: means of the visible units; the coordinate ``label`` along
            ``sample`` is the class.

        Raises
        ------
        SchemaError
            The model does not generate, or has no such class.
        """
        model = self.model
        if not isinstance(model, GenerativeDBN):
            raise SchemaError(
                f"a {model.kind} model does not generate classes; train a GenerativeDBN"
            )
        if label is not None and not 0 <= label < model.classes:
            raise SchemaError(f"label {label}: expected 0 to {model.classes - 1}")
        classes = range(model.classes) if label is None else (label,)
        labels, rows = np.repeat(np.array(classes, np.int64), n), np.arange(n * len(classes))
        made = updown.generate(model, self.params, labels, rows, Key(seed), steps)
        values = preprocess.undo(self.affine, made).reshape(-1, *self.info.feature_shape)
        dims = (SAMPLE, *self.info.feature_dims)
        return xr.DataArray(values, {"label": (SAMPLE, labels)}, dims, self.info.features)

    def export(self, path: str, format: str | None = None) -> None:
        """Write the model with its preprocessing for other programs.

        Parameters
        ----------
        path, format
            A file that ends in ``.onnx``, or a directory for ``safetensors``; see
            ``deepstrata.pipelines.export.export``.
        """
        from deepstrata.pipelines.export import export

        export(self, path, format)

    def free_energy(self, data: xr.Dataset | xr.DataArray) -> xr.DataArray:
        """Return F of every sample, (sample,) float32, with ``p(v) = exp(-F(v)) / Z``.

        Raises
        ------
        SchemaError
            The model is not a single RBM: no others say how likely a sample is.
        """
        machine = self._machine()
        found = self._apply(
            data, {"energy": 1}, lambda x: rbm.free_energy(machine, self.params, x)[:, None]
        )
        return found.isel(energy=0).rename("free_energy")

    def decode(self, codes: xr.DataArray) -> xr.DataArray:
        """Return the samples that codes stand for, in the data's units: of an RBM, means of v.

        Parameters
        ----------
        codes
            (sample, unit), as ``encode`` gives them; other names of the samples' dimensions are
            kept.

        Returns
        -------
        xarray.DataArray
            (sample, ...) float32, with the dimensions of the features.

        Raises
        ------
        SchemaError
            The model is a net of layers or an MSDA, or the codes are of another length.
        """
        if isinstance(self.model, Layered | MSDA):
            raise SchemaError(
                "expected a model that makes samples of codes, such as an RBM or an autoencoder; "
                f"found a {self.model.kind}"
            )
        if codes.sizes.get(UNIT) != self.code_width:
            raise SchemaError(
                f"codes: expected {self.code_width} along the dimension {UNIT!r}, "
                f"found {dict(codes.sizes)}"
            )

        decode = partial(pretraining.decode, self.model, self.params, visible=self.info.visible)

        def decoded(x: Any) -> Any:
            x = np.ascontiguousarray(x, dtype=np.float32)
            return preprocess.undo(self.affine, decode(x))

        sizes = dict(zip(self.info.feature_dims, self.info.feature_shape, strict=True))
        return _by_samples(codes, [UNIT], sizes, decoded).rename(self.info.features)

    @property
    def code_width(self) -> int:
        """Length of a code."""
        return models.code_width(self.model, self.info.visible)

    def _machine(self) -> RBM | ConvolutionalRBM:
        if not isinstance(self.model, RBM | ConvolutionalRBM):
            raise SchemaError(f"expected a model that is a single RBM, found a {self.model.kind}")
        return self.model

    def _apply(self, data: Any, sizes: dict[str, int], function: Any) -> xr.DataArray:
        array = self._features(data)
        dims = self.info.feature_dims
        return _by_samples(array, dims, sizes, lambda x: function(self._prepare(x)))

    def _prepare(self, x: Any) -> Any:
        x = preprocess.apply(self.affine, np.ascontiguousarray(x, dtype=np.float32))
        # What was absent in training was 0 after scaling, too.
        return np.where(np.isnan(x), np.float32(0), x) if self.info.missing == "absent" else x

    def _features(self, data: xr.Dataset | xr.DataArray) -> xr.DataArray:
        name = self.info.features
        if isinstance(data, xr.Dataset):
            if name not in data:
                there = ", ".join(map(str, data.data_vars)) or "none"
                raise SchemaError(f"dataset: no variable {name!r}; it has: {there}")
            data = data[name]
        for dim, length in zip(self.info.feature_dims, self.info.feature_shape, strict=True):
            if dim not in data.dims:
                raise SchemaError(f"{name!r}: no dimension {dim!r}; it has {data.dims}")
            if data.sizes[dim] != length:
                raise SchemaError(
                    f"{name!r}: dimension {dim!r}: expected length {length}, "
                    f"found {data.sizes[dim]}"
                )
        return data

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in flatten(self.params).values())
        return (
            f"<deepstrata model {self.model.kind}: {self.info.visible} inputs, {count:,} weights>"
        )


def _by_samples(
    array: xr.DataArray,
    dims: Sequence[str],
    sizes: dict[str, int],
    function: Callable[[np.ndarray[Any, Any]], Any],
) -> xr.DataArray:
    """Apply (N, I) -> (N, O) to vectors along ``dims``, lazily; the result has ``sizes``."""
    if array.chunks is not None:
        array = array.chunk(dict.fromkeys(dims, -1))

    def block(values: np.ndarray[Any, Any]) -> Any:
        lead = values.shape[: values.ndim - len(dims)]
        width = math.prod(values.shape[values.ndim - len(dims) :])
        return function(values.reshape(-1, width)).reshape(*lead, *sizes.values())

    found: xr.DataArray = xr.apply_ufunc(
        block,
        array,
        input_core_dims=[list(dims)],
        output_core_dims=[list(sizes)],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": sizes},
    )
    return found


def save_encoder(path: str, encoder: TrainedEncoder) -> None:
    """Write a model to a directory: ``weights.safetensors`` and ``model.json``."""
    save_model(path, encoder.info, {"params": encoder.params, "affine": encoder.affine})


def load_encoder(path: str) -> TrainedEncoder:
    """Read a model back; it needs nothing of the run that made it.

    Parameters
    ----------
    path
        A model's directory, or that of a run.

    Raises
    ------
    StorageError
        It is not there, or damaged.
    """
    path = _model_path(path)
    info, flat = load_model(path)
    like = models.shapes(info.model, info.visible)
    if isinstance(info.model, Layered) and not flatten(like, "params").keys() <= flat.keys():
        like = pretraining.feed_forward(like)  # it was fine-tuned
    params = unflatten(like, flat, path, "params")
    count = len({name.split("/")[1] for name in flat if name.startswith("affine/")})
    affine = tuple(
        Affine(flat[f"affine/{i}/shift"], flat[f"affine/{i}/divisor"]) for i in range(count)
    )
    return TrainedEncoder(info, params, affine)


def _model_path(path: str) -> str:
    """Return the directory of the model that a run ended with; another path is itself."""
    if not stores.exists(runs.manifest_url(path)):
        return path
    found = runs.model_url(path)
    if not stores.exists(found):
        raise StorageError(
            f"{path}: this run has no model: it has not come to the end of its training stages "
            "(go on with it: `deepstrata resume`), or has none"
        )
    return found
