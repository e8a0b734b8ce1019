"""A restricted Boltzmann machine as a scikit-learn transformer."""

from typing import Any, Literal, Self

from numpy.random import RandomState

from deepstrata.pipelines.estimators.arrays import like
from deepstrata.pipelines.estimators.codes import Coder
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.stages import Pretrain
from deepstrata.schemas.strategies import Strategy


class RBMEncoder(Coder):
    """Codes of samples: the hidden probabilities of an RBM trained by contrastive divergence.

    Data is brought to the range of the visible units first, by what ``fit`` saw: to [0, 1] for
    Bernoulli ones, to mean 0 and deviation 1 for each feature for Gaussian ones.

    Parameters
    ----------
    n_components
        Hidden units.
    visible_units
        ``bernoulli`` or ``gaussian``.
    gibbs_steps
        The k of CD-k.
    persistent
        Keep the negative chains from step to step (Tieleman 2008).
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

    See Also
    --------
    sklearn.neural_network.BernoulliRBM : The same model, in memory.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits().data
    >>> RBMEncoder(n_components=32, n_iter=2, random_state=0).fit_transform(digits).shape
    (1797, 32)
    """

    def __init__(
        self,
        n_components: int = 256,
        *,
        visible_units: Literal["bernoulli", "gaussian"] = "bernoulli",
        gibbs_steps: int = 1,
        persistent: bool = False,
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
        self.gibbs_steps = gibbs_steps
        self.persistent = persistent
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
        model = RBM(
            hidden=self.n_components,
            visible_units=self.visible_units,
            gibbs_steps=self.gibbs_steps,
            persistent=self.persistent,
        )
        training = Pretrain(
            model=model,
            epochs=self.n_iter,
            optimiser=self._sgd(self.learning_rate),
            strategy=self._strategy(),
        )
        return self._train(X, (self._preprocessing(), training))

    def score_samples(self, X: Any) -> Any:
        """Return minus the free energy (N,): the log-probability, but for a constant.

        That constant, the logarithm of the partition function, is the same for all samples.
        """
        samples = self._samples(X)
        return like(-self.model_.free_energy(samples), X)
