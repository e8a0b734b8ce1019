"""scikit-learn's own checks; the bits of a pipeline; arrays come back as they were given."""

import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import xarray as xr
from distributed import Client
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepstrata import (
    DBN,
    RBM,
    SGD,
    DatasetSource,
    DBNClassifier,
    DenoisingAutoencoder,
    FineTune,
    LocalSteps,
    Pipeline,
    Pretrain,
    RBMEncoder,
    Scale,
    Softmax,
    open_run,
)
from deepstrata.pipelines.events import ignore
from deepstrata.pipelines.run import run
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.trees import flatten

N, SIDE, V = 90, 3, 9


@parametrize_with_checks(
    [
        RBMEncoder(4, n_iter=1),
        DenoisingAutoencoder(4, n_iter=1),
        DBNClassifier(
            (12,),
            visible_units="gaussian",
            pretrain_iter=1,
            n_iter=6,
            learning_rate=0.5,
            batch_size=10,
        ),
    ]
)
def test_scikit_learn_accepts_them(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    """Samples of two noisy patterns, between -1 and 3."""
    random = np.random.default_rng(0)
    return random.random((N, V)) + 2.0 * (random.random((N, 1)) < 0.5) * (np.arange(V) < 4) - 0.5


@pytest.fixture(scope="module")
def y(X: np.ndarray) -> np.ndarray:
    return np.where(X[:, :4].mean(axis=1) > 1, "high", "low")


@pytest.fixture(scope="module")
def encoder(X: np.ndarray) -> RBMEncoder:
    return RBMEncoder(5, n_iter=2, batch_size=10, random_state=3).fit(X)


def classifier(**settings: Any) -> DBNClassifier:
    fast = {"pretrain_iter": 2, "n_iter": 20, "batch_size": 10, "random_state": 3}
    rates = {"pretrain_learning_rate": 0.1, "learning_rate": 0.5}
    return DBNClassifier((8, 6), **(fast | rates | settings))


@pytest.fixture(scope="module")
def net(X: np.ndarray, y: np.ndarray) -> DBNClassifier:
    return classifier().fit(X, y)


def weights(estimator: Any) -> dict[str, np.ndarray]:
    return flatten(estimator.model_.params)


def assert_same_weights(a: Any, b: Any) -> None:
    assert weights(a).keys() == weights(b).keys()
    for name, leaf in weights(a).items():
        np.testing.assert_array_equal(leaf, weights(b)[name], err_msg=name)


def pictures(X: Any) -> xr.DataArray:
    """Samples with two dimensions of features, labelled."""
    data = X.reshape(N, SIDE, SIDE)
    return xr.DataArray(data, {"time": np.arange(N) * 10}, ("time", "y", "x"), name="picture")


def test_weights_are_those_of_the_pipeline_on_any_cluster(X, y, net, client, out) -> None:
    labels = (y == "low").astype(np.int64)
    data = xr.Dataset({"x": (("n", "v"), X), "y": ("n", labels)})
    steps = LocalSteps(batch=10, shards=1)
    declared = Pipeline(
        name="by-hand",
        source=DatasetSource(features="x", labels="y"),
        stages=(
            Scale(),
            Pretrain(
                model=DBN(layers=(RBM(hidden=8), RBM(hidden=6), Softmax(classes=2))),
                epochs=2,
                optimiser=SGD(learning_rate=0.1, momentum=0.9),
                strategy=steps,
            ),
            FineTune(epochs=20, optimiser=SGD(learning_rate=0.5, momentum=0.9), strategy=steps),
        ),
        seed=3,
    )
    by_hand = run(declared, client, out=out, data=data, observer=ignore)
    assert_same_weights(net, classifier(client=client).fit(X, y))
    found = flatten(by_hand.model.params)
    for name, leaf in weights(net).items():
        np.testing.assert_array_equal(leaf, found[name], err_msg=name)


def test_places_of_a_strategy_share_the_work_and_the_bits(X, client: Client) -> None:
    spread = RBMEncoder(5, n_iter=2, strategy=LocalSteps(batch=5, shards=3), random_state=1)
    alone = clone(spread).fit(X)
    assert_same_weights(alone, spread.set_params(client=client).fit(X))
    assert alone.history_["pretrain/layer-0"].sizes["round"] == 2  # one for 6 batches of 3 places


@pytest.mark.parametrize("lazy", [False, True])
def test_labelled_data_keeps_its_labels(X, y, lazy: bool) -> None:
    data = pictures(X).chunk(time=40) if lazy else pictures(X)
    labels = xr.DataArray(y, dims="time")
    fitted = classifier().fit(data, labels)
    codes, likeliest = fitted.transform(data), fitted.predict(data)
    assert codes.dims == ("time", "unit")
    assert (codes.chunks is not None) == (likeliest.chunks is not None) == lazy
    for found in (codes, likeliest, fitted.predict_proba(data)):
        np.testing.assert_array_equal(found["time"], data["time"])
    np.testing.assert_array_equal(fitted.predict_proba(data)["class"], ["high", "low"])
    assert fitted.score(data, labels) > 0.9
    assert fitted.n_features_in_ == V
    np.testing.assert_array_equal(fitted.predict(X), likeliest)


def test_dask_arrays_stay_lazy(X, y, net: DBNClassifier, encoder: RBMEncoder) -> None:
    data = da.from_array(X, chunks=(40, 5))
    for use in (net.transform, net.predict_proba):
        assert isinstance(use(data), da.Array)
        np.testing.assert_allclose(use(data), use(X), rtol=1e-5)
    assert isinstance(net.predict(data), da.Array)
    np.testing.assert_array_equal(net.predict(data), net.predict(X))
    back = encoder.inverse_transform(encoder.transform(data))
    assert isinstance(back, da.Array)
    assert back.shape == data.shape
    assert encoder.score_samples(data).shape == (N,)
    fitted = classifier().fit(data, da.from_array(y, chunks=30))
    np.testing.assert_array_equal(fitted.classes_, ["high", "low"])
    assert fitted.score(data, da.from_array(y)) > 0.9


def test_an_encoder_knows_what_is_likely_and_what_codes_mean(X, encoder: RBMEncoder) -> None:
    back = encoder.inverse_transform(encoder.transform(X))
    assert back.shape == X.shape
    assert X.min() <= back.min()
    assert back.max() <= X.max()
    np.testing.assert_allclose(back.mean(), X.mean(), atol=0.5)
    labelled = pictures(X)
    fitted = clone(encoder).fit(labelled)
    again = fitted.inverse_transform(fitted.transform(labelled))
    assert again.dims == labelled.dims
    np.testing.assert_array_equal(again["time"], labelled["time"])
    np.testing.assert_allclose(fitted.score_samples(labelled), encoder.score_samples(X), rtol=1e-5)


@pytest.mark.parametrize("units", ["bernoulli", "gaussian"])
def test_a_denoising_autoencoder_makes_samples_again(units) -> None:
    X = load_digits(n_class=3).data[:150]
    fitted = DenoisingAutoencoder(
        24, visible_units=units, n_iter=30, learning_rate=0.1 if units == "bernoulli" else 0.01,
        random_state=0,
    ).fit(X)  # fmt: skip
    back = fitted.inverse_transform(fitted.transform(X))
    assert ((back - X) ** 2).sum() < 0.4 * ((X - X.mean(axis=0)) ** 2).sum()
    assert fitted.model_.model.noise.rate == 0.25
    assert clone(fitted).set_params(noise=0, n_iter=1).fit(X).model_.model.noise is None


def test_likelihoods_are_those_of_the_machine(X, encoder: RBMEncoder) -> None:
    """A machine with few hidden units can be summed over them by hand."""
    p = encoder.model_.params
    v = (X - X.min()) / (X.max() - X.min())
    states = (np.arange(2**5)[:, None] >> np.arange(5)) & 1
    energy = v @ p.weights @ states.T + states @ p.hidden_bias
    wanted = v @ p.visible_bias + np.log(np.exp(energy).sum(axis=1))
    np.testing.assert_allclose(encoder.score_samples(X), wanted, rtol=1e-4)


def test_they_work_in_pipelines_and_searches() -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:150], y[:150]
    encoder = RBMEncoder(16, n_iter=20, batch_size=10, random_state=0)
    search = GridSearchCV(
        make_pipeline(encoder, LogisticRegression()),
        {"rbmencoder__learning_rate": [0.1, 0.3]},
        cv=2,
    )
    assert search.fit(X, y).best_score_ > 0.8


def test_a_client_is_shared_by_clones_and_left_out_of_pickles(client: Client, X) -> None:
    original = RBMEncoder(4, n_iter=1, client=client, random_state=0)
    assert clone(original).client is client
    fitted = pickle.loads(pickle.dumps(original.fit(X)))
    assert fitted.client is None
    np.testing.assert_array_equal(fitted.transform(X), original.transform(X))


def test_a_run_is_kept_where_it_is_asked_for(X, tmp_path) -> None:
    out = str(tmp_path / "run")
    fitted = RBMEncoder(4, n_iter=1, random_state=0, out=out).fit(X)
    kept = open_run(out)
    assert kept.manifest.status == "finished"
    assert kept.history["pretrain"].equals(fitted.history_["pretrain"])
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_random_states_are_seeds(X) -> None:
    def codes(state: Any) -> np.ndarray:
        return RBMEncoder(4, n_iter=1, random_state=state).fit_transform(X)

    np.testing.assert_array_equal(codes(5), codes(5))
    np.testing.assert_array_equal(codes(np.random.RandomState(5)), codes(np.random.RandomState(5)))
    assert (codes(5) != codes(6)).any()


def with_a_gap(X: np.ndarray) -> np.ndarray:
    return np.where(np.arange(X.size).reshape(X.shape) == 17, np.nan, X)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda X: scipy.sparse.csr_array(X), TypeError, "[Ss]parse"),
        (with_a_gap, ValueError, "contains NaN"),
        (lambda X: da.from_array(with_a_gap(X)), DataError, "not finite"),
        (lambda X: da.from_array(X)[:, 0], ValueError, "expected 2 dimensions"),
        (lambda X: da.from_array(X).astype(str), ValueError, "expected numbers"),
        (lambda X: da.from_array(X)[da.from_array(X[:, 0]) > 0], ValueError, "compute_chunk_sizes"),
        (lambda X: da.from_array(X[:, :4]), ValueError, "4 features"),
    ],
)
def test_what_cannot_be_used_is_said(data, error, message, X, encoder: RBMEncoder) -> None:
    use = encoder.transform if message == "4 features" else clone(encoder).fit
    with pytest.raises(error, match=message):
        use(data(X))


def test_as_many_labels_as_samples(X, y) -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier().fit(da.from_array(X), y[:-1])
