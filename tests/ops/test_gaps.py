"""Gaps: the same whatever the split of samples, and only where there is something to hide."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import gaps, models
from deepstrata.ops.gaps import Gaps
from deepstrata.ops.partials import Batch
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Dense
from deepstrata.schemas.sparse import SparseCoding

GAPS = Gaps(0.3, Key(5))
N, V = 50, 70


def batch(masked=True):
    random = np.random.default_rng(0)
    x = random.normal(size=(N, V)).astype(np.float32)
    return Batch(1000 + np.arange(N), x, mask=random.random((N, V)) < 0.6 if masked else None)


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_hidden_was_there_and_is_seen_no_more(masked):
    whole = batch(masked)
    seen, hidden = gaps.hide(whole, GAPS)
    there = np.ones((N, V), bool) if whole.mask is None else whole.mask
    assert not (hidden & ~there).any()
    np.testing.assert_array_equal(seen.mask, there & ~hidden)
    assert not seen.x[~seen.mask].any()
    np.testing.assert_array_equal(seen.x[seen.mask], whole.x[seen.mask])
    assert 0.25 < hidden.sum() / there.sum() < 0.35


def test_samples_have_the_gaps_of_their_rows():
    whole = batch()
    order = np.random.default_rng(1).permutation(N)[:20]
    some = Batch(whole.rows[order], whole.x[order], mask=whole.mask[order])
    np.testing.assert_array_equal(gaps.hide(some, GAPS)[1], gaps.hide(whole, GAPS)[1][order])


def test_errors_are_measured_where_values_are_hidden():
    whole = batch()
    _, hidden = gaps.hide(whole, GAPS)
    found = gaps.measure(whole, GAPS, lambda seen: seen.x + 2)
    assert found["gaps"] == hidden.sum()
    wanted = ((whole.x[hidden] - 2) ** 2).sum()
    assert found["gap_squared_error"] == pytest.approx(wanted, rel=1e-5)


def test_any_array_library_will_do():
    whole = batch()
    strict = whole._replace(
        x=array_api_strict.asarray(whole.x), mask=array_api_strict.asarray(whole.mask)
    )
    found = gaps.measure(strict, GAPS, lambda seen: seen.x + 2)
    assert found == gaps.measure(whole, GAPS, lambda seen: seen.x + 2)


@pytest.mark.parametrize(
    "model",
    [
        Autoencoder(encoder=(Dense(units=4, activation="tanh"),), output="linear"),
        SparseCoding(atoms=30, penalty=0.1),
    ],
)
def test_models_fill_without_looking_at_what_is_hidden(model):
    seen, hidden = gaps.hide(batch(), GAPS)
    params = models.init(model, V, Key(2))
    dirty = seen._replace(x=np.where(seen.mask, seen.x, np.float32(np.nan)))
    made = models.fill(model, params, dirty)
    assert made.shape == (N, V)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, models.fill(model, params, seen))


def test_sparse_codes_explain_what_is_there_and_not_the_zeros_of_gaps():
    model = SparseCoding(atoms=20, penalty=0.01)
    params = models.init(model, V, Key(3))
    code = np.zeros((N, 20), np.float32)
    code[np.arange(N), np.arange(N) % 20] = 3.0
    whole = Batch(np.arange(N), code @ params.dictionary)
    seen, hidden = gaps.hide(whole, GAPS)
    filled = models.fill(model, params, seen)
    blind = models.reconstruct(model, params, seen.x)
    error, other = (((y - whole.x)[hidden] ** 2).mean() for y in (filled, blind))
    assert error < 0.5 * other
