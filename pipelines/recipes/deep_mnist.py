"""Three hidden layers on MNIST, grown one by one (Seide et al. 2011), then tuned together."""

from deepstrata import (
    SGD,
    Dense,
    DiscriminativePretrain,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Network,
    Pipeline,
    Report,
    Scale,
    Softmax,
    Split,
)

hidden = Dense(units=500)
pipeline = Pipeline(
    name="deep-mnist",
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
        DiscriminativePretrain(
            name="grow",
            model=Network(layers=(hidden, hidden, hidden, Softmax(classes=10))),
            epochs=3,
            optimiser=SGD(learning_rate=0.1, momentum=0.9),
            strategy=LocalSteps(batch=50, steps=100, shards=2),
        ),
        FineTune(
            epochs=20,
            optimiser=SGD(
                learning_rate=Linear(start=0.1, end=0.001, epochs=20),
                momentum=0.9,
                weight_decay=1e-5,
            ),
            strategy=LocalSteps(batch=50, steps=100, shards=2),
        ),
        Evaluate(),
        Report(),
    ),
    seed=0,
)
