"""Models that explain a sample by few of many atoms. Sizes of the data come from the data.

Both are trained without labels. A sample x of V features has a code z of A numbers, of which most
are zero, and a dictionary W turns it back: ``x = z W``.
"""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.shapes import Shape, shape_after


class _Sparse(Declaration):
    atoms: PositiveInt
    """Numbers of a code, and rows of the dictionary."""
    penalty: PositiveFloat = 1.0
    """Weight of the codes' absolute values beside the squared error, in units of the data: more
    of it leaves more zeros."""
    steps: PositiveInt = 50
    """Steps of inference, the same for every sample."""


class SparseCoding(_Sparse):
    """Sparse coding: ``|x - z W|**2 + penalty * |z|_1``, atoms no longer than 1.

    Olshausen & Field (1996); Lee, Battle, Raina, Ng (2007). Each code is inferred, so encoding
    costs ``steps`` passes; a ``PSD`` learns to predict it in one.
    """

    kind: Literal["sparse_coding"] = "sparse_coding"
    inference: Literal["fista", "line_search"] = "fista"
    """FISTA (Beck & Teboulle 2009), or all coordinates at once and a line search along the joint
    direction (Raina, Madhavan, Ng 2009)."""


class PSD(_Sparse):
    """Predictive sparse decomposition (Kavukcuoglu, Ranzato, LeCun 2008): codes and a predictor.

    ``|x - z W|**2 + penalty * |z|_1 + prediction_weight * |z - p|**2``, atoms of length 1, where
    ``p = gain * tanh(x K + bias)`` is what the model encodes with once it is trained.
    """

    kind: Literal["psd"] = "psd"
    prediction_weight: PositiveFloat = 1.0
    """Pull of codes and predictions towards each other."""
    steps: PositiveInt = 20
    """Steps of FISTA from the prediction, while training."""


@shape_after.register(SparseCoding)
@shape_after.register(PSD)
def _(layer: SparseCoding | PSD, shape: Shape) -> Shape:
    return (layer.atoms,)
