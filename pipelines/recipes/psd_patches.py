"""Edges from photographs: predictive sparse decomposition of patches (Kavukcuoglu et al. 2008)."""

from deepstrata import (
    PSD,
    SGD,
    Encode,
    Evaluate,
    FileSource,
    Linear,
    LocalSteps,
    Pipeline,
    Pretrain,
    Report,
    Split,
)

pipeline = Pipeline(
    name="psd-patches",
    source=FileSource(format="patches", features="image"),
    stages=(
        Split(validation=0.05, test=0.1),
        Pretrain(
            model=PSD(atoms=144, penalty=2.0),
            epochs=30,
            optimiser=SGD(learning_rate=Linear(start=0.01, end=0.001, epochs=30), momentum=0.9),
            strategy=LocalSteps(batch=100, steps=16, shards=2),
        ),
        Evaluate(),
        Encode(),
        Report(examples=144),
    ),
    seed=0,
)
