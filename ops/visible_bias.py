"""Visible biases that give the mean of the data before anything is learned.

Hinton (2010), "A practical guide to training restricted Boltzmann machines", section 8. Without it
the weights of rare features first learn how rare these are, and tied ones keep it.

Letters: V visible units.
"""

from functools import singledispatch

import numpy as np

from deepstrata.ops import moments
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.moments import Moments
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.autoencoders import Autoencoder, visible_function
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.trees import Array, Tree


@singledispatch
def with_visible_bias(params: Tree, bias: Array) -> Tree:
    """Return parameters with other visible biases, (V,)."""
    raise NotImplementedError(f"no visible bias is registered for {type(params).__name__}")


@with_visible_bias.register
def _(params: RBMParams, bias: Array) -> RBMParams:
    return params._replace(visible_bias=bias)


@with_visible_bias.register
def _(params: AutoencoderParams, bias: Array) -> AutoencoderParams:
    *below, last = params.decoder
    return params._replace(decoder=(*below, last._replace(bias=bias)))


def at_mean(model: RBM | Autoencoder, params: Tree, found: Moments) -> Tree:
    """Return parameters whose visible biases alone give the mean of each feature.

    Of logistic units they are log-odds, of a mean to which one value of 1 and one of 0 are added:
    a feature that is always 0 has a bias, too.

    Parameters
    ----------
    params
        Of the model, NumPy arrays.
    found
        Moments of the V features, NumPy arrays.
    """
    if visible_function(model) == "linear":
        bias = moments.mean(found)
    else:
        bias = np.log((found.total + 1.0) / (found.n - found.total + 1.0))
    return with_visible_bias(params, bias.astype(np.float32))
