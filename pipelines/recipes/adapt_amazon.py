"""Sentiment of reviews across four domains, adapted by mSDA; measured: transfer ratio 1.13.

Chen et al. (2012), on Amazon's reviews of books, dvds, electronics and kitchen appliances (Blitzer,
Dredze, Pereira 2007): whether each of the 5,000 most frequent words and pairs of words occurs. The
autoencoders see the text of all domains, training and test part alike, and no label. A linear SVM
then sees the training labels of one domain; without autoencoders its transfer ratio is 1.52.
"""

from deepstrata import MSDA, CrossDomain, FileSource, Pipeline, Report, Solve, Split

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
        Solve(name="msda", model=MSDA(depth=3, noise=0.7), parts=("train", "test")),
        CrossDomain(domain="domain"),
        Report(),
    ),
    seed=0,
)
