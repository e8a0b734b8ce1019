"""Noise on the input of denoising autoencoders, addressed by row and value.

Vincent, Larochelle, Lajoie, Bengio, Manzagol (2010), "Stacked denoising autoencoders".
Letters: N samples, V features.
"""

from functools import singledispatch
from typing import Any

from deepstrata.ops.backend import namespace
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.keys import Key
from deepstrata.schemas.noise import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from deepstrata.schemas.trees import Array


@singledispatch
def corrupt(noise: Any, x: Array, rows: Array, key: Key) -> tuple[Array, Array | None]:
    """Return samples with noise, (N, V), and which values were changed.

    Parameters
    ----------
    x
        (N, V); not changed.
    rows
        (N,) int64 global rows of the samples.

    Returns
    -------
    seen
        (N, V).
    changed
        (N, V) bool; None where noise is on all values alike, or on none.
    """
    raise NotImplementedError(f"no noise is registered for {type(noise).__name__}")


@corrupt.register
def _(noise: None, x: Array, rows: Array, key: Key) -> tuple[Array, Array | None]:
    return x, None


@corrupt.register
def _(noise: MaskingNoise, x: Array, rows: Array, key: Key) -> tuple[Array, Array | None]:
    xp = namespace(x)
    changed = uniform(key, rows, x.shape[1], like=x) < noise.rate
    return xp.where(changed, xp.zeros_like(x), x), changed


@corrupt.register
def _(noise: GaussianNoise, x: Array, rows: Array, key: Key) -> tuple[Array, Array | None]:
    drawn = namespace(x).astype(normal(key, rows, x.shape[1], like=x), x.dtype)
    return x + noise.deviation * drawn, None


@corrupt.register
def _(noise: SaltAndPepperNoise, x: Array, rows: Array, key: Key) -> tuple[Array, Array | None]:
    xp = namespace(x)
    drawn = uniform(key, rows, x.shape[1], like=x)
    low, high = xp.full_like(x, noise.low), xp.full_like(x, noise.high)
    changed = drawn < noise.rate
    return xp.where(changed, xp.where(drawn < 0.5 * noise.rate, low, high), x), changed
