"""784-1000-500-250-30 unrolled after Hinton & Salakhutdinov (2006); published: error 3.00."""

from deepstrata import (
    RBM,
    SGD,
    Adam,
    Autoencoder,
    Encode,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Pipeline,
    Pretrain,
    Report,
    Scale,
    Split,
    Steps,
)


def descent(rate: float) -> SGD:
    """Return the optimiser of an RBM."""
    momentum = Steps(values=(0.5, 0.9), boundaries=(5,))
    return SGD(learning_rate=rate, momentum=momentum, weight_decay=0.0002)


pipeline = Pipeline(
    name="autoencoder-mnist",
    source=FileSource(
        format="idx",
        path="path/to/mnist",
        features="image",
        labels="label",
        rows_per_shard=4000,
    ),
    stages=(
        Split(by="subset"),
        Scale(minimum=0, maximum=255),
        Pretrain(
            model=Autoencoder(
                encoder=(
                    RBM(hidden=1000),
                    RBM(hidden=500),
                    RBM(hidden=250),
                    RBM(hidden=30, hidden_units="gaussian"),
                ),
                loss="cross_entropy",
            ),
            epochs=10,
            optimiser=(*(descent(0.1),) * 3, descent(0.001)),
            strategy=LocalSteps(batch=100, steps=20, shards=2),
        ),
        FineTune(
            epochs=60,
            optimiser=Adam(learning_rate=Linear(start=1e-3, end=1e-5, epochs=60)),
            strategy=LocalSteps(batch=100, steps=20, shards=2),
        ),
        Evaluate(pca=30),
        Encode(),
        Report(
            published={"test_squared_error": 3.0, "test_pca_squared_error": 13.87},
            publication="Hinton & Salakhutdinov 2006",
        ),
    ),
    seed=0,
)
