"""A Gaussian-Bernoulli RBM on air temperature over North America, codes kept with their times."""

from deepstrata import (
    RBM,
    SGD,
    Encode,
    Evaluate,
    LocalSteps,
    Pipeline,
    Pretrain,
    Report,
    Split,
    Standardise,
    Steps,
    ZarrSource,
)

pipeline = Pipeline(
    name="rbm-climate",
    source=ZarrSource(
        path="path/to/air_temperature.zarr", features="air", sample_dim="time", rows_per_shard=365
    ),
    stages=(
        Split(validation=0.1, test=0.1, shuffle=False),
        Standardise(),
        Pretrain(
            model=RBM(hidden=256, visible_units="gaussian"),
            epochs=60,
            optimiser=SGD(learning_rate=0.001, momentum=Steps(values=(0.5, 0.9), boundaries=(5,))),
            strategy=LocalSteps(batch=25, steps=32, shards=2),
        ),
        Evaluate(),
        Encode(),
        Report(),
    ),
    seed=0,
)
