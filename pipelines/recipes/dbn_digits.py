"""A deep belief net on scikit-learn's 1,797 handwritten digits: the demo, in under two minutes."""

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
)

pipeline = Pipeline(
    name="dbn-digits",
    source=FileSource(format="digits", features="image", labels="label"),
    stages=(
        Split(validation=0.1, test=0.2),
        Scale(minimum=0, maximum=16),
        Pretrain(
            model=DBN(layers=(RBM(hidden=256), RBM(hidden=256), Softmax(classes=10))),
            epochs=40,
            optimiser=SGD(learning_rate=0.1, momentum=0.5, weight_decay=0.0002),
            strategy=LocalSteps(batch=20, steps=16, shards=2),
        ),
        FineTune(
            epochs=60,
            optimiser=SGD(
                learning_rate=Linear(start=0.1, end=0.01, epochs=60),
                momentum=0.9,
                weight_decay=0.0001,
            ),
            strategy=LocalSteps(batch=20, steps=16, shards=2),
        ),
        Evaluate(),
        Encode(),
        Report(),
    ),
    seed=0,
)
