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

strategy = LocalSteps(batch=50, steps=100, shards=2)
up_down = [
    FineTune(
        name=f"updown-{sweeps}",
        epochs=epochs,
        gibbs_steps=sweeps,
        optimiser=SGD(
            learning_rate=Linear(start=start, end=end, epochs=epochs),
            momentum=0.9,
            weight_decay=1e-5,
        ),
        strategy=strategy,
    )
    # The better the memory, the longer its chains take to mix, and the more sweeps it needs.
    for sweeps, epochs, start, end in (
        (3, 20, 0.03, 0.02),
        (6, 20, 0.03, 0.02),
        (10, 40, 0.03, 0.0003),
    )
]
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
            strategy=strategy,
        ),
        Evaluate(name="greedy"),
        *up_down,
        Evaluate(),
        Encode(),
        Report(
            published={"greedy_test_error": 0.0249, "test_error": 0.0125},
            publication="Hinton, Osindero, Teh 2006",
        ),
    ),
    seed=0,
)
