"""What estimators do whose codes can be turned back into samples."""

from typing import Any

import dask.array as da
import xarray as xr
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from deepstrata.pipelines.estimators.base import Estimator
from deepstrata.pipelines.model import UNIT


class Coder(Estimator):
    """An estimator with ``inverse_transform``."""

    def inverse_transform(self, X: Any) -> Any:
        """Return the samples (N, V) that codes (N, n_components) stand for, in the data's units."""
        check_is_fitted(self)
        codes = X
        if not isinstance(X, xr.DataArray):
            values = X if isinstance(X, da.Array) else check_array(X, estimator=self)
            codes = xr.DataArray(values, dims=(self._dims[0], UNIT))
        found = self.model_.decode(codes)
        return found if codes is X else found.data.reshape(len(found), self.n_features_in_)
