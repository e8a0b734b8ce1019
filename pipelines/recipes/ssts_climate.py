"""Sea surface temperatures with their land missing: a denoising autoencoder beside a PCA (EOFs)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata import (
    Adam,
    Apply,
    Autoencoder,
    Dense,
    Encode,
    Evaluate,
    FileSource,
    Linear,
    MaskingNoise,
    Pipeline,
    Pretrain,
    Report,
    Split,
    Standardise,
    Synchronous,
)

Numbers = npt.NDArray[Any]


def anomalies(dataset: xr.Dataset, variable: str, until: str) -> xr.Dataset:
    """Return what a variable differs by from the mean of its calendar month.

    Parameters
    ----------
    dataset
        With a coordinate ``time``.
    until
        Last time that means are taken of, such as ``2017-12``. The coordinate ``part`` calls
        samples up to then ``train``, and later ones ``test``.
    """
    values = dataset[variable]
    known = values.sel(time=slice(None, until))
    means = known.groupby("time.month").mean().load()
    found = xr.apply_ufunc(
        _deviation,
        values,
        values["time.month"],
        means,
        input_core_dims=[["lat", "lon"], [], ["month", "lat", "lon"]],
        output_core_dims=[["lat", "lon"]],
        dask="parallelized",
        output_dtypes=[values.dtype],
        keep_attrs="override",
    )
    part = np.where(values["time"] <= known["time"][-1], "train", "test")
    return dataset.assign({variable: found}).assign_coords(part=("time", part))


def _deviation(values: Numbers, months: Numbers, means: Numbers) -> Numbers:
    """Return (time, lat, lon) values less the means (month, lat, lon) of their months."""
    found: Numbers = values - means[months - 1]
    return found


pipeline = Pipeline(
    name="ssts-climate",
    source=FileSource(
        format="netcdf",
        path="path/to/ersst_v5_sst.mnmean.nc",
        features="sst",
        sample_dim="time",
        missing="absent",
        rows_per_shard=16,
    ),
    stages=(
        Apply(function=anomalies, arguments={"variable": "sst", "until": "2017-12"}),
        Split(by="part"),
        Standardise(per="dataset"),
        Pretrain(
            model=Autoencoder(
                encoder=(Dense(units=30, activation="linear"),),
                output="linear",
                tied=True,
                noise=MaskingNoise(rate=0.2),
            ),
            epochs=200,
            optimiser=Adam(learning_rate=Linear(start=1e-3, end=1e-5, epochs=200)),
            strategy=Synchronous(batch=16, shards=2, buffer=3),
        ),
        Evaluate(parts=("train", "test"), pca=30, gaps=0.2),
        Encode(),
        Report(examples=16),
    ),
    seed=0,
)
