"""784-500-500-2000-10 on MNIST after Hinton & Salakhutdinov (2006); published: 1.2 % error."""

from deepstrata import (
    DBN,
    RBM,
    SGD,
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
    Softmax,
    Split,
    Steps,
)

pipeline = Pipeline(
    name="dbn-mnist",
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
            model=DBN(
                layers=(RBM(hidden=500), RBM(hidden=500), RBM(hidden=2000), Softmax(classes=10))
            ),
            epochs=30,
            optimiser=SGD(
                learning_rate=Linear(start=0.1, end=0.01, epochs=30),
                momentum=Steps(values=(0.5, 0.9), boundaries=(5,)),
                weight_decay=0.0002,
            ),
            strategy=LocalSteps(batch=100, steps=50, shards=2),
        ),
        FineTune(
            epochs=30,
            optimiser=SGD(
                learning_rate=Linear(start=0.4, end=0.004, epochs=30),
                momentum=0.9,
                weight_decay=1e-5,
            ),
            strategy=LocalSteps(batch=50, steps=100, shards=2),
        ),
        Evaluate(),
        Encode(),
        Report(published={"test_error": 0.012}, publication="Hinton & Salakhutdinov 2006"),
    ),
    seed=0,
)
