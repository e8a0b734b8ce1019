"""A deep belief net as a scikit-learn classifier."""

from typing import Any, Literal, Self

import numpy as np
import xarray as xr
from numpy.random import RandomState
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score

from deepstrata.pipelines.estimators.arrays import class_numbers, like
from deepstrata.pipelines.estimators.base import Estimator
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN
from deepstrata.schemas.stages import FineTune, Pretrain
from deepstrata.schemas.strategies import Strategy

CLASS = "class"


class DBNClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A deep belief net: RBMs trained one by one, then the whole net by backpropagation.

    Hinton & Salakhutdinov (2006). Data is brought to the range of the visible units first, by what
    ``fit`` saw: to [0, 1] for Bernoulli ones, to mean 0 and deviation 1 for each feature for
    Gaussian ones.

    Parameters
    ----------
    hidden_layer_sizes
        Hidden units of each RBM, from the bottom up; at least one.
    visible_units
        ``bernoulli`` or ``gaussian``, of the lowest RBM.
    pretrain_iter, pretrain_learning_rate
        Epochs and learning rate of each RBM; 0 epochs leave the weights as they were drawn.
    n_iter, learning_rate
        Epochs and learning rate of fine-tuning.
    momentum, batch_size
        Of stochastic gradient descent.
    strategy
        How rounds are spread over workers, such as ``deepstrata.LocalSteps(shards=4)``; its batch
        then counts in place of ``batch_size``. One minibatch after the other by default.
    random_state
        Seed; a number gives the same weights, bit for bit, each time and on any cluster.
    client
        A ``dask.distributed.Client`` to compute with; threads of this process by default.
    out
        Directory in which the run is kept, not there yet; removed after ``fit`` by default.

    Attributes
    ----------
    classes_ : numpy.ndarray
        (K,) labels, sorted.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : Backpropagation alone, in memory.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> net = DBNClassifier((64,), pretrain_iter=2, n_iter=5, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.8)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        *,
        visible_units: Literal["bernoulli", "gaussian"] = "bernoulli",
        pretrain_iter: int = 10,
        pretrain_learning_rate: float = 0.05,
        n_iter: int = 50,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        batch_size: int = 50,
        strategy: Strategy | None = None,
        random_state: int | RandomState | None = None,
        client: Any = None,
        out: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.visible_units = visible_units
        self.pretrain_iter = pretrain_iter
        self.pretrain_learning_rate = pretrain_learning_rate
        self.n_iter = n_iter
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.strategy = strategy
        self.random_state = random_state
        self.client = client
        self.out = out

    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples (N, V) and their labels (N,), numbers or text.

        Raises
        ------
        ValueError
            A parameter or the data cannot be used; the message says what to do.
        """
        self.classes_, numbers = class_numbers(y)
        first, *others = self.hidden_layer_sizes
        model = DBN(
            layers=(
                RBM(hidden=first, visible_units=self.visible_units),
                *(RBM(hidden=size) for size in others),
                Softmax(classes=len(self.classes_)),
            )
        )
        pretrain = Pretrain(
            model=model,
            epochs=self.pretrain_iter,
            optimiser=self._sgd(self.pretrain_learning_rate),
            strategy=self._strategy(),
            activations="recompute",  # a run that is kept in memory has no room for those of all
        )
        finetune = FineTune(
            epochs=self.n_iter,
            optimiser=self._sgd(self.learning_rate),
            strategy=self._strategy(),
        )
        return self._train(X, (self._preprocessing(), pretrain, finetune), numbers)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class (N, K) float32, as the kind of array ``X`` is."""
        found = self._probability(X)
        return like(found.assign_coords({CLASS: self.classes_}), X)

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each sample (N,), as the kind of array ``X`` is."""
        found = xr.apply_ufunc(
            _likeliest,
            self._probability(X),
            input_core_dims=[[CLASS]],
            kwargs={"classes": self.classes_},
            dask="parallelized",
            output_dtypes=[self.classes_.dtype],
        )
        return like(found.rename("class"), X)

    def _probability(self, X: Any) -> xr.DataArray:
        samples = self._samples(X)
        return self.model_.predict(samples)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of samples (N, V) whose likeliest class is their label (N,)."""
        predicted = np.asarray(self.predict(X))
        return float(accuracy_score(np.asarray(y), predicted, sample_weight=sample_weight))


def _likeliest(probability: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> Any:
    return classes[probability.argmax(axis=-1)]
