"""A trained model, used by itself: labelled arrays in, labelled arrays out, lazily."""

from typing import Any

import numpy as np
import xarray as xr

from deepstrata.ops import models, preprocess, updown
from deepstrata.ops.preprocess import Affine
from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.models import DBN, GenerativeDBN, Model
from deepstrata.schemas.stages import classes_of
from deepstrata.schemas.trees import Tree, flatten, unflatten
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
            data, UNIT, width, lambda x: models.encode(self.model, self.params, x, layer)
        )
        return found.rename("code")

    def predict(self, data: xr.Dataset | xr.DataArray) -> xr.DataArray:
        """Return the probability of every class for every sample: (sample, class) float32."""
        width = classes_of(self.model)
        if width is None:
            raise SchemaError("the model learned no classes: it encodes, and predicts nothing")
        found = self._apply(
            data, "class", width, lambda x: models.predict(self.model, self.params, x)
        )
        return found.rename("probability")

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
        classes = range(model.memory.classes) if label is None else (label,)
        if label is not None and not 0 <= label < model.memory.classes:
            raise SchemaError(f"label {label}: expected 0 to {model.memory.classes - 1}")
        labels, rows = np.repeat(np.array(classes, np.int64), n), np.arange(n * len(classes))
        made = updown.generate(model, self.params, labels, rows, Key(seed), steps)
        values = preprocess.undo(self.affine, made).reshape(-1, *self.info.feature_shape)
        dims = (SAMPLE, *self.info.feature_dims)
        return xr.DataArray(values, {"label": (SAMPLE, labels)}, dims, self.info.features)

    def _apply(self, data: Any, dim: str, width: int, function: Any) -> xr.DataArray:
        array = self._features(data)
        dims = list(self.info.feature_dims)
        if array.chunks is not None:
            array = array.chunk(dict.fromkeys(dims, -1))

        def block(values: np.ndarray[Any, Any]) -> Any:
            lead = values.shape[: values.ndim - len(dims)]
            x = values.reshape(-1, self.info.visible)
            return function(self._prepare(x)).reshape(*lead, width)

        found: xr.DataArray = xr.apply_ufunc(
            block,
            array,
            input_core_dims=[dims],
            output_core_dims=[[dim]],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": {dim: width}},
        )
        return found

    def _prepare(self, x: Any) -> Any:
        return preprocess.apply(self.affine, np.ascontiguousarray(x, dtype=np.float32))

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


def save_encoder(path: str, encoder: TrainedEncoder) -> None:
    """Write a model to a directory: ``weights.safetensors`` and ``model.json``."""
    save_model(path, encoder.info, {"params": encoder.params, "affine": encoder.affine})


def load_encoder(path: str) -> TrainedEncoder:
    """Read a model back; it needs nothing of the run that made it.

    Raises
    ------
    StorageError
        It is not there, or damaged.
    """
    info, flat = load_model(path)
    like = models.shapes(info.model, info.visible)
    if isinstance(info.model, DBN) and "params/0/visible_bias" not in flat:
        like = models.feed_forward(info.model, like)
    params = unflatten(like, flat, path, "params")
    count = len({name.split("/")[1] for name in flat if name.startswith("affine/")})
    affine = tuple(
        Affine(flat[f"affine/{i}/shift"], flat[f"affine/{i}/divisor"]) for i in range(count)
    )
    return TrainedEncoder(info, params, affine)
