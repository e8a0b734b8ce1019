"""Three denoising autoencoders on MNIST after Vincent et al. (2010); published: 1.28 % error."""

from deepstrata import (
    SGD,
    Autoencoder,
    Dense,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    MaskingNoise,
    Network,
    Pipeline,
    Pretrain,
    Report,
    Scale,
    Softmax,
    Split,
)

layer = Autoencoder(
    encoder=(Dense(units=1000),), tied=True, loss="cross_entropy", noise=MaskingNoise(rate=0.25)
)
pipeline = Pipeline(
    name="sdae-mnist",
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
            model=Network(layers=(layer, layer, layer, Softmax(classes=10))),
            epochs=20,
            optimiser=SGD(learning_rate=Linear(start=0.1, end=0.01, epochs=20), momentum=0.5),
            strategy=LocalSteps(batch=20, steps=100, shards=2),
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
        Report(published={"test_error": 0.0128}, publication="Vincent et al. 2010"),
    ),
    seed=0,
)
