"""A convolutional net on MNIST after LeCun et al. (1998), no distortions; published: .95 %."""

from deepstrata import (
    SGD,
    Convolution,
    Dense,
    Dropout,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Network,
    Pipeline,
    Pooling,
    Report,
    Scale,
    Softmax,
    Split,
)

halves = Pooling(size=(2, 2))
pipeline = Pipeline(
    name="cnn-mnist",
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
        FineTune(
            model=Network(
                input_shape=(28, 28, 1),
                layers=(
                    Convolution(maps=32, kernel=(5, 5), initial_weights="he", pooling=halves),
                    Convolution(maps=64, kernel=(5, 5), initial_weights="he", pooling=halves),
                    Dense(units=512, activation="relu", initial_weights="he"),
                    Dropout(rate=0.5),
                    Softmax(classes=10),
                ),
            ),
            epochs=20,
            optimiser=SGD(learning_rate=Linear(start=0.05, end=0.0005, epochs=20), momentum=0.9),
            strategy=LocalSteps(batch=50, steps=20, shards=2),
        ),
        Evaluate(),
        Report(published={"test_error": 0.0095}, publication="LeNet-5, LeCun et al. 1998"),
    ),
    seed=0,
)
