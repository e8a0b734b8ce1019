"""Principal components against scikit-learn's, and against projections sample by sample."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from deepstrata.ops import pca
from deepstrata.schemas.errors import DeclarationError


def samples(n, seed):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(6, 6)) * np.linspace(1, 3, 6)
    return (random.normal(size=(n, 6)) @ mixed + 5).astype(np.float32)


@pytest.mark.parametrize("components", [1, 3, 6])
def test_the_error_is_that_of_scikit_learns_projections(components):
    seen, other = samples(200, 0), samples(50, 1)
    found = pca.basis(pca.merge(*map(pca.products, np.split(seen, [30, 31]))), components)
    theirs = PCA(components).fit(seen.astype(np.float64))
    for x in (seen, other):
        projected = theirs.inverse_transform(theirs.transform(x.astype(np.float64)))
        error = pca.squared_error(found, pca.products(x))
        assert error == pytest.approx(((x - projected) ** 2).sum(), rel=1e-6, abs=1e-6)
    overlaps = np.abs((found.components * theirs.components_.T).sum(0))
    np.testing.assert_allclose(overlaps, 1, rtol=1e-6)


def test_more_components_than_features_are_refused():
    with pytest.raises(DeclarationError, match="at most 6 components, found 7"):
        pca.basis(pca.products(samples(9, 0)), 7)
