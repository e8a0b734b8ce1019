"""Stages: the steps of a pipeline, in the order in which they are declared."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from deepstrata.schemas.autoencoders import Autoencoder, visible_function
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.functions import Argument, Function
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import (
    MSDA,
    GenerativeDBN,
    Layered,
    Learner,
    Model,
    Net,
    Network,
    has_weights,
)
from deepstrata.schemas.optimisers import SGD, Optimiser, watches
from deepstrata.schemas.shapes import shape_after
from deepstrata.schemas.sparse import SparseCoding
from deepstrata.schemas.stacks import below_learners, learners_of, stack_of
from deepstrata.schemas.strategies import LocalSteps
from deepstrata.schemas.training import NamedStage, Optimisers, TrainingStage

Fraction = Annotated[float, Field(ge=0, lt=1)]
Part = Literal["train", "validation", "test"]


class Apply(NamedStage):
    """Preprocess with a function of an ``xarray.Dataset`` that returns one, lazily."""

    kind: Literal["apply"] = "apply"
    function: Function
    arguments: dict[str, Argument] = {}
    """Passed on as keyword arguments."""


class Split(NamedStage):
    """Assign every sample to training, validation or test.

    With ``by``, a variable names each sample's part; otherwise (or for what ``by`` calls
    ``train``) fractions of every shard are drawn by key, or taken from its end.
    """

    kind: Literal["split"] = "split"
    by: str | None = None
    """Variable along the sample dimension: strings, or numbers with CF ``flag_meanings``."""
    validation: Fraction = 0.0
    test: Fraction = 0.0
    shuffle: bool = True
    """Draw the fractions by key; False takes them from the end of each shard (time series)."""

    @model_validator(mode="after")
    def _some_left(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                "validation and test leave nothing to train on: expected less than 1 together, "
                f"found {self.validation} and {self.test}"
            )
        return self


class Scale(NamedStage):
    """Map the features linearly to [0, 1]: ``(x - minimum) / (maximum - minimum)``."""

    kind: Literal["scale"] = "scale"
    minimum: float | None = None
    """Found in the training part when not given; likewise ``maximum``."""
    maximum: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if None not in (self.minimum, self.maximum) and not self.minimum < self.maximum:  # type: ignore[operator]
            raise ValueError(
                f"expected a minimum below the maximum, found {self.minimum} and {self.maximum}"
            )
        return self


class Standardise(NamedStage):
    """Subtract the mean and divide by the standard deviation of the training part.

    Only values that are present count. A feature of which training has none stays as it is.
    """

    kind: Literal["standardise"] = "standardise"
    per: Literal["feature", "dataset"] = "feature"
    """Statistics of each feature, or of all together."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation."""


def _check_alone(model: Model | None) -> None:
    """Refuse a model that would be a layer of a network, if it were told how samples lie."""
    if isinstance(model, Autoencoder | ConvolutionalPSD | ConvolutionalRBM):
        shape_after(model, (1,))


class Pretrain(TrainingStage):
    """Train the layers of a model one by one; each reads the code of the one below.

    They need no labels, but for the memory of a ``GenerativeDBN``. What has no weights, such as
    ``Pooling``, passes codes on between them.
    """

    kind: Literal["pretrain"] = "pretrain"
    metric: ClassVar[str] = "squared_error"
    """Of the validation samples, after every epoch: what is to fall."""
    model: Model
    optimiser: Optimisers = SGD(learning_rate=0.05, momentum=0.5)
    """One for all layers, or one each."""
    activations: Literal["auto", "recompute", "store"] = "auto"
    """What a layer above the first reads: recomputed with each shard, or stored once as Zarr."""
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("train",)
    """Parts whose features are learned from. Labels are not, so adaptation may use all of them."""
    visible_bias: Literal["zero", "mean"] = "zero"
    """Where visible biases begin: at zero, or where they give the mean of each feature without any
    hidden unit (Hinton 2010, section 8): for rare features, such as words, at their log-odds."""

    @property
    def stack(self) -> tuple[Any, ...]:
        """The layers at the bottom of the model up to the last that is trained."""
        return stack_of(self.model)

    @property
    def pretrained(self) -> tuple[Learner | SparseCoding | AssociativeMemory, ...]:
        """The layers that are trained, each as a model by itself, in the order of training."""
        return learners_of(self.model)

    @property
    def between(self) -> tuple[Network | None, ...]:
        """What lies right below each of them and has no weights; None where nothing does."""
        return below_learners(self.model)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if not self.pretrained:
            raise ValueError(
                "expected a model whose first layer with weights is an RBM, an Autoencoder or a "
                "PSD, convolutional or not: there is nothing to pretrain; FineTune(model=...) "
                "trains one from fresh weights, and Solve(model=...) an MSDA"
            )
        _check_alone(self.model)
        if isinstance(self.optimiser, tuple) and len(self.optimiser) != len(self.pretrained):
            raise ValueError(
                f"expected one optimiser, or one for each of the {len(self.pretrained)} layers; "
                f"found {len(self.optimiser)}"
            )
        if self.visible_bias == "mean":
            for layer in self.pretrained:
                self._check_visible_bias(layer)
        if self.parts != ("train",) and isinstance(self.model, GenerativeDBN):
            raise ValueError(
                f"parts={self.parts}: the memory of a GenerativeDBN learns labels, which are those "
                "of the training part; leave parts out"
            )
        return self

    @staticmethod
    def _check_visible_bias(layer: Any) -> None:
        if not isinstance(layer, RBM | Autoencoder) or visible_function(layer) is None:
            raise ValueError(
                f"visible_bias='mean' ({layer.kind}): expected an RBM, or an Autoencoder whose "
                "decoder ends with a Dense layer of logistic or linear units; leave it out"
            )


class Transfer(NamedStage):
    """Begin a model with layers that another run has trained, its parent.

    They go on seeing what they were trained on: unless ``scaling="own"``, all trainings of this
    pipeline scale their data as the parent did, and it has no Scale or Standardise.
    """

    kind: Literal["transfer"] = "transfer"
    run: str
    """The parent: the directory of a finished run or of a saved model, a path or any fsspec URL.
    What is taken is copied into the run, which then needs the parent no more."""
    model: Annotated[Net, Field(discriminator="kind")]
    """What a ``FineTune`` goes on with; layers that are not taken begin with fresh weights."""
    layers: PositiveInt | str | None = None
    """How many layers are taken from the bottom, or the last of them by its name or number; by
    default all below the one that gives classes or targets."""
    scaling: Literal["parent", "own"] = "parent"
    """Scale the data as the parent did, or as this pipeline says."""

    @property
    def taken(self) -> int:
        """How many layers are taken."""
        if self.layers is None:
            return self.model.body
        if isinstance(self.layers, str):
            return self.model.number_of(self.layers) + 1
        return self.layers

    @property
    def trunk(self) -> Net:
        """The layers that are taken, as a model of their own."""
        return self.model.bottom(self.taken)

    @model_validator(mode="after")
    def _there(self) -> Self:
        most = len(self.model.layers)
        if not 1 <= self.taken <= most:
            raise ValueError(f"expected 1 to {most} layers to take, found {self.taken}")
        return self


class FineTune(TrainingStage):
    """Train all layers of a model together, from pretrained or fresh weights.

    By backpropagation a net with a softmax learns classes, one with a loss targets, an autoencoder
    its input; a ``GenerativeDBN`` learns both by up-down. Nets count samples by the source's
    ``weights``.
    """

    kind: Literal["finetune"] = "finetune"
    model: Model | None = None
    """Trained from fresh weights; by default the model of ``start`` goes on."""
    start: str | None = None
    """Name of a stage above that trains or takes layers; the nearest by default."""
    optimiser: Optimiser = SGD(learning_rate=0.1, momentum=0.9)
    metric: Literal["loss", "error"] = "loss"
    """Of the validation samples, after every epoch: what ``early_stopping``, ``keep="best"`` and
    ``ReduceOnPlateau`` want to see fall."""
    labelled: PositiveInt | None = None
    """Training samples of each class that are used, drawn by key, the same in all stages; all by
    default."""
    learning_rates: dict[str, NonNegativeFloat] = {}
    """Factors on the optimiser's rate by a layer's name or number. 0 freezes a layer: nothing
    changes it, and backpropagation ends above frozen layers at the bottom."""
    gibbs_steps: PositiveInt | None = None
    """Sweeps of a ``GenerativeDBN``'s memory in each step of up-down; its own by default."""

    @model_validator(mode="after")
    def _can_classify(self) -> Self:
        if self.model is not None and self.start is not None:
            raise ValueError("give a model (fresh weights) or a start (trained ones), not both")
        _check_alone(self.model)
        return self

    def factors(self, model: Model) -> tuple[float, ...]:
        """Return the factor on the learning rate of each layer; ``()`` where none is declared.

        Raises
        ------
        ValueError
            The model has no layers, or not one of these; one is named twice, or none with weights
            is left to train.
        """
        if not self.learning_rates:
            return ()
        if not isinstance(model, Layered):
            raise ValueError(f"expected a model of layers, found kind {model.kind!r}")
        found: dict[int, float] = {}
        for name, factor in self.learning_rates.items():
            number = model.number_of(name)
            if number in found:
                raise ValueError(f"layer {number} is named twice, by number and by name")
            found[number] = factor
        weighted = [i for i, own in enumerate(model.layers) if has_weights(own)]
        if not any(found.get(i, 1.0) for i in weighted):
            raise ValueError("every layer with weights has a factor of 0: nothing is left to train")
        return tuple(found.get(i, 1.0) for i in range(len(model.layers)))


class Solve(NamedStage):
    """Find the weights of a model in closed form, by one pass over the data for each layer."""

    kind: Literal["solve"] = "solve"
    model: MSDA
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("train",)
    """Parts whose features are used. Labels never are, so adaptation may use all of them."""


class CrossDomain(NamedStage):
    """Train a linear classifier on each domain's labels, and test it on every domain.

    A linear SVM learns from the training part of one domain, from the features as they are and from
    the codes of a trained model, and is measured on the test part of all. ``transfer_ratio`` is the
    mean over pairs of different domains of ``e(source, target) / e_raw(target, target)``: of the
    error after transfer to that of an SVM trained on the target's own labels and plain features
    (Glorot, Bordes, Bengio 2011). 1 means that nothing is lost by the transfer.
    """

    kind: Literal["cross_domain"] = "cross_domain"
    domain: str
    """Variable along the samples that holds whole numbers, best with CF ``flag_meanings``."""
    start: str | None = None
    """Name of the stage that trained the model; the nearest one above by default."""
    costs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Weights of the errors (the C of an SVM) from which cross-validation within the training part
    of the source chooses."""
    square_roots: bool = False
    """Let the machines see the square roots of codes, with their signs: of rectified units, whose
    activations grow with the length of a text. Plain features stay as they are."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Of the cross-validation."""
    samples: PositiveInt = 2000
    """Most training samples a domain may have: one task learns from all of them, in memory."""


class Evaluate(NamedStage):
    """Measure a trained model on parts of the data."""

    kind: Literal["evaluate"] = "evaluate"
    start: str | None = None
    """Name of the stage that trained the model; the nearest one above by default."""
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("validation", "test")
    """Parts without samples are left out."""
    pca: PositiveInt | None = None
    """Components of a principal component analysis of the training part whose squared error is
    measured beside the model's."""
    gaps: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the values present that are hidden, drawn by key, to measure how well they are
    filled in: ``gap_squared_error``, the mean over hidden values; with ``pca`` beside it that of
    its components, fitted to what is left, and of the training mean, ``gap_variance``."""


class Encode(NamedStage):
    """Write the codes of every sample to Zarr, with the samples' coordinates."""

    kind: Literal["encode"] = "encode"
    start: str | None = None
    """Name of the stage that trained the model; the nearest one above by default."""
    path: str | None = None
    """Where to write; ``codes.zarr`` in the run directory by default."""
    layer: NonNegativeInt | None = None
    """Layer whose output is the code; the last one below the softmax by default."""


class Report(NamedStage):
    """Write one HTML file that shows the run."""

    kind: Literal["report"] = "report"
    examples: PositiveInt = 32
    """Filters, reconstructions and samples shown."""
    published: dict[str, float] = {}
    """What others have reached, by the run's metric, such as ``{"test_error": 0.0125}``: ``run``,
    ``show`` and the report show it beside the run's own."""
    publication: str = ""
    """Who published it: authors and year."""


Stage = Annotated[
    Apply
    | Split
    | Scale
    | Standardise
    | Transfer
    | Solve
    | Pretrain
    | DiscriminativePretrain
    | FineTune
    | Evaluate
    | CrossDomain
    | Encode
    | Report,
    Field(discriminator="kind"),
]


#: Stages that train by rounds.
Fitting = Pretrain | DiscriminativePretrain | FineTune


def decides(stage: Fitting) -> bool:
    """Tell whether the ends of epochs decide how a training goes on, or what is kept of it."""
    inner = stage.optimiser if isinstance(stage.optimiser, tuple) else (stage.optimiser,)
    outer = (stage.strategy.outer,) if isinstance(stage.strategy, LocalSteps) else ()
    return (
        stage.early_stopping is not None
        or stage.keep == "best"
        or any(watches(optimiser) for optimiser in (*inner, *outer))
    )
