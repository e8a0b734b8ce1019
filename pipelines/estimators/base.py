"""What every estimator does: declare a pipeline of its parameters, run it, keep the model."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self
from uuid import uuid4

import xarray as xr
from numpy.random import RandomState
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from deepstrata.pipelines.estimators.arrays import labelled, like
from deepstrata.pipelines.events import ignore
from deepstrata.pipelines.inprocess import in_process
from deepstrata.pipelines.model import TrainedEncoder
from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.pipelines.run import run
from deepstrata.schemas.datasets import DatasetSource
from deepstrata.schemas.optimisers import SGD
from deepstrata.schemas.stages import Scale, Stage, Standardise
from deepstrata.schemas.strategies import LocalSteps, Strategy
from deepstrata.storage import stores

#: Names of variables, apart from those that people give to dimensions.
FEATURES, LABELS = "sample_features", "sample_class"


class Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The common part; a subclass declares its stages and says what the model is used for.

    Attributes
    ----------
    model_ : TrainedEncoder
        The model with its preprocessing; it exports itself, and takes labelled data.
    history_ : xarray.DataTree
        Learning curves: a node for each training, over ``round`` and over ``epoch_end``.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Only where the data had names.
    """

    model_: TrainedEncoder
    history_: xr.DataTree

    # Parameters that every subclass has.
    visible_units: Literal["bernoulli", "gaussian"]
    momentum: float
    batch_size: int
    strategy: Strategy | None
    random_state: int | RandomState | None
    client: Any
    out: str | None

    def _train(self, X: Any, stages: tuple[Stage, ...], y: Any = None) -> Self:
        """Run a pipeline over samples, with class numbers where it learns classes."""
        data = labelled(X, self, reset=True)
        columns: dict[str, Any] = {FEATURES: data.variable}
        if y is not None:
            check_consistent_length(data, y)
            columns[LABELS] = (data.dims[0], y)
        with ExitStack() as stack:
            client = stack.enter_context(in_process()) if self.client is None else self.client
            out = self.out or stack.enter_context(_place(self.client is None))
            done = run(
                self._pipeline(data, stages, y is not None),
                client,
                out=out,
                data=xr.Dataset(columns),
                observer=ignore,
            )
            self.model_, self.history_ = done.model, done.history
        self._dims = data.dims
        return self

    def _pipeline(self, data: xr.DataArray, stages: tuple[Stage, ...], labels: bool) -> Pipeline:
        """Declare what ``fit`` runs; data in memory is cut into a shard for each place."""
        strategy = self._strategy()
        places = strategy.shards * strategy.buffer
        rows = None if data.chunks is not None else -(-len(data) // places)
        return Pipeline(
            name=type(self).__name__,
            source=DatasetSource(
                features=FEATURES, labels=LABELS if labels else None, rows_per_shard=rows
            ),
            stages=stages,
            seed=self._seed(),
        )

    def _strategy(self) -> Strategy:
        """Return how rounds are spread; one minibatch after the other unless it is said."""
        return self.strategy or LocalSteps(batch=self.batch_size, shards=1)

    def _sgd(self, learning_rate: float) -> SGD:
        return SGD(learning_rate=learning_rate, momentum=self.momentum)

    def _preprocessing(self) -> Stage:
        """Return what brings the data to the values that the visible units model."""
        return Scale() if self.visible_units == "bernoulli" else Standardise()

    def _seed(self) -> int:
        """Return the pipeline's seed: ``random_state`` itself where that is a number."""
        if isinstance(self.random_state, int):
            return self.random_state
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _samples(self, X: Any) -> xr.DataArray:
        """Return samples as the model takes them, if it is there and they are like those of fit."""
        check_is_fitted(self)
        data = labelled(X, self, reset=False)
        if isinstance(X, xr.DataArray):
            return data
        shape = (len(data), *self.model_.info.feature_shape)
        return xr.DataArray(data.data.reshape(shape), dims=self._dims)

    def transform(self, X: Any) -> Any:
        """Return codes of samples (N, V), float32 (N, H), as the kind of array that ``X`` is."""
        samples = self._samples(X)
        return like(self.model_.encode(samples), X)

    @property
    def _n_features_out(self) -> int:
        """Length of a code; scikit-learn makes the names of pandas columns of it."""
        return self.model_.code_width

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted copy that uses the same client: that one cannot be copied."""
        alone = super(Estimator, copy.copy(self)).__sklearn_clone__()
        found: Self = alone.set_params(client=self.client)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the client, which is a connection."""
        return {**super().__getstate__(), "client": None}


@contextmanager
def _place(in_memory: bool) -> Iterator[str]:
    """Yield a place for a run that nobody keeps: on disk where other processes write to it."""
    if not in_memory:
        with tempfile.TemporaryDirectory(prefix="deepstrata-") as directory:
            yield stores.join(directory, "run")
        return
    url = f"memory://deepstrata-{uuid4().hex}"
    try:
        yield url
    finally:
        stores.remove(url)
