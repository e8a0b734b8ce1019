"""A net that generates digits of a class (Hinton, Osindero, Teh 2006); published: 1.25 % error."""

from deepstrata import (
    RBM,
    SGD,
    AssociativeMemory,
    Encode,
    Evaluate,
    FileSource,
    FineTune,
    GenerativeDBN,
    Linear,
    LocalSteps,
    Pipeline,
    Pretrain,
    Report,
    Scale,
    Split,
    Steps,
)

pipeline = Pipeline(
    name="dbn-generative-mnist",
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
            model=GenerativeDBN(
                layers=(RBM(hidden=500), RBM(hidden=500)),
                memory=AssociativeMemory(hidden=2000, classes=10),
            ),
            epochs=30,
            optimiser=SGD(
                learning_rate=Linear(start=0.1, end=0.01, epochs=30),
                momentum=Steps(values=(0.5, 0.9), boundaries=(5,)),
                weight_decay=0.0002,
            ),
            strategy=LocalSteps(batch=100, steps=50, shards=2),
        ),
        Evaluate(name="greedy"),
        FineTune(
            name="updown",
            epochs=100,
            gibbs_steps=3,
            optimiser=SGD(
                learning_rate=Linear(start=0.02, end=0.0002, epochs=100),
                momentum=0.9,
                weight_decay=1e-5,
            ),
            strategy=LocalSteps(batch=100, steps=50, shards=2),
        ),
        Evaluate(),
        Encode(),
        Report(
            published={"greedy_test_error": 0.0249, "test_error": 0.0125},
            publication="Hinton, Osindero, Teh 2006",
        ),
    ),
    seed=0,
)
