"""USPS digits from ten labels a class, by layers trained on MNIST (digits-mnist16) and without."""

from deepstrata import (
    SGD,
    Dense,
    Dropout,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Network,
    Pipeline,
    Report,
    Softmax,
    Split,
    Transfer,
)

model = Network(
    layers=(
        Dense(units=500, activation="relu", initial_weights="he", name="low"),
        Dropout(rate=0.3),
        Dense(units=500, activation="relu", initial_weights="he", name="high"),
        Dropout(rate=0.3),
        Softmax(classes=10),
    )
)
few = {
    "labelled": 10,
    "epochs": 100,
    "optimiser": SGD(learning_rate=Linear(start=0.03, end=0.003, epochs=100), momentum=0.9),
    "strategy": LocalSteps(batch=20, steps=20, shards=1, buffer=4),
}
pipeline = Pipeline(
    name="transfer-digits",
    source=FileSource(
        format="hdf5",
        path="path/to/usps.h5",
        features="data",
        labels="target",
        rows_per_shard=2500,
    ),
    stages=(
        Split(by="subset"),
        Transfer(run="path/to/digits-mnist16", model=model),
        FineTune(name="scratch", model=model, **few),
        Evaluate(name="without", start="scratch"),
        FineTune(start="transfer", learning_rates={"low": 0.1, "high": 0.3}, **few),
        Evaluate(start="finetune"),
        Report(),
    ),
    seed=0,
)
