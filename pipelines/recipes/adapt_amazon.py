"""Sentiment of reviews across four domains, adapted by denoising autoencoders; measured: 1.13.

Autoencoders see the text of all domains, training and test part alike, and no label: one of
rectified units (Glorot, Bordes, Bengio 2011), and marginalised ones in closed form (Chen et al.
2012). A linear SVM then sees the training labels of one domain. The figure is the transfer ratio;
plain features have 1.52. The data are Amazon's reviews of books, dvds, electronics and kitchen
appliances (Blitzer, Dredze, Pereira 2007): whether each of the 5,000 most frequent words and pairs
of words occurs.
"""

from deepstrata import (
    MSDA,
    Adam,
    Autoencoder,
    CrossDomain,
    Dense,
    FileSource,
    Linear,
    LocalSteps,
    MaskingNoise,
    Pipeline,
    Pretrain,
    Report,
    Solve,
    Split,
)

pipeline = Pipeline(
    name="adapt-amazon",
    source=FileSource(
        format="svmlight",
        path="path/to/amazon_reviews",
        features="features",
        labels="label",
        rows_per_shard=2000,
        options={
            "features": 5000,
            "zero_based": True,
            "binary": True,
            "names": "(?P<domain>[a-z]+)_(?P<subset>train|test)",
        },
    ),
    stages=(
        Split(by="subset"),
        Pretrain(
            name="denoising",
            model=Autoencoder(
                encoder=(Dense(units=1000, activation="relu"),),
                tied=True,
                loss="cross_entropy",
                noise=MaskingNoise(rate=0.7),
            ),
            parts=("train", "test"),
            visible_bias="mean",
            epochs=10,
            optimiser=Adam(learning_rate=Linear(start=0.002, end=0.00002, epochs=10)),
            strategy=LocalSteps(batch=100, steps=20, shards=2),
        ),
        CrossDomain(
            name="sdae",
            domain="domain",
            square_roots=True,
            costs=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        ),
        Solve(name="msda", model=MSDA(depth=3, noise=0.7), parts=("train", "test")),
        CrossDomain(domain="domain"),
        Report(),
    ),
    seed=0,
)
