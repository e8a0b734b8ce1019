"""What a step is worth, against simulation."""

import numpy as np
import pytest

from deepstrata.pipelines.planning.shuffling import Mix, design_effect, intraclass, worth

SHARDS, ROWS, DRAWS = 12, 40, 6000


def population(likeness: float, seed: int = 0) -> np.ndarray:
    """Numbers in (shards, rows); those of a shard share a part of their variance."""
    random = np.random.default_rng(seed)
    own = random.normal(size=(SHARDS, ROWS))
    shared = random.normal(size=(SHARDS, 1))
    values = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own
    return values - values.mean()


def correlation(values: np.ndarray) -> float:
    """The intraclass correlation of a finite population, over all pairs of a shard."""
    pairs = values.sum(axis=1) ** 2 - (values**2).sum(axis=1)
    return float(pairs.sum() / (SHARDS * ROWS * (ROWS - 1)) / values.var())


def step_means(values: np.ndarray, batch: int, places: int, buffer: int) -> np.ndarray:
    """Draw steps as the engine does: a place permutes the rows of its shards together."""
    random, means = np.random.default_rng(1), []
    for _ in range(DRAWS):
        order = random.permutation(SHARDS)[: places * buffer].reshape(places, buffer)
        rows = [random.permutation(values[shards].ravel())[:batch] for shards in order]
        means.append(np.concatenate(rows).mean())
    return np.asarray(means)


@pytest.mark.parametrize("likeness", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(
    ("batch", "places", "buffer"), [(20, 1, 1), (20, 4, 1), (20, 1, 4), (30, 3, 2), (5, 2, 6)]
)
def test_the_design_effect_is_that_of_a_simulation(
    likeness: float, batch: int, places: int, buffer: int
) -> None:
    values = population(likeness)
    mix = Mix(batch, places, buffer, SHARDS, ROWS)
    total, count = values.size, mix.samples
    simple = values.var() / count * (total - count) / (total - 1)
    found = step_means(values, batch, places, buffer).var() / simple
    # The relative error of a variance from n draws is about sqrt(2 / n): 1.8 % here.
    assert design_effect(mix, correlation(values)) == pytest.approx(found, rel=0.08)


def test_far_from_all_shards_it_is_kish_s_formula() -> None:
    mix = Mix(batch=50, places=4, buffer=1, shards=100_000, rows=1000)
    assert design_effect(mix, 0.03) == pytest.approx(1 + (50 - 1) * 0.03, rel=1e-3)


@pytest.mark.parametrize(("places", "buffer"), [(1, 1), (4, 1), (2, 2), (1, 8)])
def test_sorted_data_is_worth_about_a_sample_a_shard(places: int, buffer: int) -> None:
    mix = Mix(100, places, buffer, 64, 1000)
    assert worth(mix, 1.0) == pytest.approx(places * buffer, rel=0.2)
    assert mix.drawn == places * buffer
    assert mix.share == places * buffer / 64


def test_one_shard_and_all_of_them_are_as_good_as_everything() -> None:
    assert worth(Mix(32, 1, 1, 1, 500), 1.0) == 32
    assert worth(Mix(32, 1, 8, 8, 500), 1.0) == 32


def test_labels_in_order_are_alike_and_shuffled_ones_are_not() -> None:
    labels = np.repeat(np.arange(10), 1000)
    starts = list(range(0, 10_000, 500))
    assert intraclass(labels, starts) == pytest.approx(1.0)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(intraclass(shuffled, starts)) < 0.002


@pytest.mark.parametrize("likeness", [0.05, 0.3])
def test_the_estimate_is_the_correlation_that_the_labels_were_drawn_with(likeness: float) -> None:
    """With that probability a sample has its shard's label, twice over: a pair is then alike."""
    random = np.random.default_rng(0)
    own = random.integers(0, 5, (2000, 1))
    drawn = random.integers(0, 5, (2000, 30))
    labels = np.where(random.random((2000, 30)) < np.sqrt(likeness), own, drawn)
    found = intraclass(labels.ravel(), list(range(0, 60_000, 30)))
    assert found == pytest.approx(likeness, abs=0.01)


def test_one_class_has_no_correlation() -> None:
    assert intraclass(np.zeros(10, int), [0, 5]) == 0.0
