"""A denoising autoencoder as a scikit-learn transformer."""

from typing import Any, Literal, Self

from numpy.random import RandomState

from deepstrata.pipelines.estimators.codes import Coder
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.layers import Dense
from deepstrata.schemas.noise import MaskingNoise
from deepstrata.schemas.stages import Pretrain
from deepstrata.schemas.strategies import Strategy


class DenoisingAutoencoder(Coder):
    """Codes from which samples can be made again though parts of them were hidden.

    Vincent et al. (2010): one hidden layer of logistic units and a decoder with the transposed
    weights. Data is brought to the range of the visible units first, by what ``fit`` saw.

    Parameters
    ----------
    n_components
        Hidden units.
    visible_units
        ``bernoulli`` for data that is scaled to [0, 1] (cross-entropy), ``gaussian`` for data that
        is standardised (squared error).
    noise
        Share of the values that are hidden while training; 0 gives a plain autoencoder.
    learning_rate, momentum, batch_size
        Of stochastic gradient descent.
    n_iter
        Epochs.
    strategy
        How rounds are spread over workers, such as ``deepstrata.LocalSteps(shards=4)``; its batch
        then counts in place of ``batch_size``. One minibatch after the other by default.
    random_state
        Seed; a number gives the same weights, bit for bit, each time and on any cluster.
    client
        A ``dask.distributed.Client`` to compute with; threads of this process by default.
    out
        Directory in which the run is kept, not there yet; removed after ``fit`` by default.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits().data
    >>> DenoisingAutoencoder(32, n_iter=2, random_state=0).fit_transform(digits).shape
    (1797, 32)
    """

    def __init__(
        self,
        n_components: int = 256,
        *,
        visible_units: Literal["bernoulli", "gaussian"] = "bernoulli",
        noise: float = 0.25,
        learning_rate: float = 0.05,
        momentum: float = 0.5,
        batch_size: int = 10,
        n_iter: int = 10,
        strategy: Strategy | None = None,
        random_state: int | RandomState | None = None,
        client: Any = None,
        out: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.visible_units = visible_units
        self.noise = noise
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.strategy = strategy
        self.random_state = random_state
        self.client = client
        self.out = out

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on samples (N, V); ``y`` is not used.

        Raises
        ------
        ValueError
            A parameter or the data cannot be used; the message says what to do.
        """
        is_binary = self.visible_units == "bernoulli"
        model = Autoencoder(
            encoder=(Dense(units=self.n_components),),
            output="logistic" if is_binary else "linear",
            loss="cross_entropy" if is_binary else "squared_error",
            tied=True,
            noise=MaskingNoise(rate=self.noise) if self.noise else None,
        )
        training = Pretrain(
            model=model,
            epochs=self.n_iter,
            optimiser=self._sgd(self.learning_rate),
            strategy=self._strategy(),
        )
        return self._train(X, (self._preprocessing(), training))
