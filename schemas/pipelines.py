"""The pipeline: a source, stages and a seed, checked as a whole when it is declared."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from deepstrata.schemas._base import Document, explain
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.datasets import Source
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import (
    MSDA,
    GenerativeDBN,
    Layered,
    Model,
    classifies,
    fits_targets,
    is_supervised,
)
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Fitting,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Stage,
    Standardise,
    Transfer,
    decides,
)

#: Stages that others go on from, and those that do.
Start = Solve | Pretrain | DiscriminativePretrain | Transfer | FineTune
Using = FineTune | Evaluate | CrossDomain | Encode
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
#: Without dots, which separate a stage from its field in ``replace``.
STAGE_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
#: Names that a run gives to stages of its own.
RESERVED = ("ingest", "inspect")
#: Stages come in this order; those of one rank may be mixed.
RANKS = {
    Apply: 0,
    Split: 1,
    Scale: 2,
    Standardise: 2,
    Transfer: 3,
    Solve: 4,
    Pretrain: 4,
    DiscriminativePretrain: 4,
    FineTune: 4,
}
ONCE = (Split, Transfer, Report)


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError("expected letters, digits, '_', '.' and '-', the first no punctuation")
    return name


Name = Annotated[
    str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": NAME})
]


class Pipeline(Document):
    """What is read, what is done with it, and the seed that every random number follows from."""

    name: Name
    source: Source
    stages: tuple[Stage, ...]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What to do with a shard that cannot be read, or is not what it was when the run began:
    ``stop`` with an error, to go on when it is mended, or ``skip`` it: the run then ends as over a
    store in which it was bad from the start, and counts what it left out."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_names()
        self._check_order()
        self._check_scaling()
        for stage in self.stages:
            if isinstance(stage, Using):
                self._check_start(stage)
            self._check_columns(stage)
            if isinstance(stage, Fitting) and decides(stage):
                self._check_validation(stage)
            if isinstance(stage, Pretrain) and self.source.masked:
                _check_chains(stage)
        self._check_outputs()
        return self

    def _check_columns(self, stage: Stage) -> None:
        """Check that the source names what a stage learns, and nothing that it passes over."""
        source = self.source
        learns_labels = isinstance(stage, CrossDomain) or self.classes_of(stage) is not None
        if learns_labels and source.labels is None:
            hint = "set its labels=... to the variable with the class numbers"
            if source.targets is not None:
                hint += (
                    f", or, to learn its targets {source.targets!r}, declare a Network(loss=...) "
                    "that ends in another layer than a Softmax"
                )
            raise ValueError(
                f"stage {stage.name!r} needs labels, and the source names none: {hint}"
            )
        if not isinstance(stage, FineTune):
            return
        model = self.model_of(stage)
        if fits_targets(model) and source.targets is None:
            raise ValueError(
                f"stage {stage.name!r} needs targets for its loss {model.loss!r}, and the source "
                "names none: set its targets=... to the variable that is to be predicted"
            )
        if source.weights is not None and not isinstance(model, Layered):
            raise ValueError(
                f"stage {stage.name!r}: weights={source.weights!r} have no effect on a model of "
                f"the kind {model.kind!r}, which takes all samples alike; leave them out"
            )

    def _check_names(self) -> None:
        seen: set[str] = set()
        for stage in self.stages:
            if not re.fullmatch(STAGE_NAME, stage.name):
                raise ValueError(
                    f"stage name {stage.name!r}: expected letters, digits, '_' and '-', the first "
                    "no punctuation"
                )
            if stage.name in RESERVED or stage.name in type(self).model_fields:
                raise ValueError(f"the stage name {stage.name!r} is reserved; choose another")
            if stage.name in seen:
                raise ValueError(f"two stages are called {stage.name!r}; give one another name")
            seen.add(stage.name)

    def _check_order(self) -> None:
        highest, last = 0, ""
        for stage in self.stages:
            rank = RANKS.get(type(stage), highest)
            if rank < highest:
                raise ValueError(
                    f"stage {stage.name!r} ({stage.kind}) stands after {last}; move it up: "
                    "the order is apply, split, scale or standardise, transfer, then training"
                )
            if type(stage) in RANKS:
                highest, last = rank, f"{stage.name!r} ({stage.kind})"
        for kind in ONCE:
            names = [stage.name for stage in self.stages if isinstance(stage, kind)]
            if len(names) > 1:
                raise ValueError(
                    f"expected one {kind.__name__} stage at most, found {', '.join(names)}"
                )

    def _check_scaling(self) -> None:
        transfer = next((stage for stage in self.stages if isinstance(stage, Transfer)), None)
        if transfer is None or transfer.scaling == "own":
            return
        for stage in self.stages:
            if isinstance(stage, Scale | Standardise):
                raise ValueError(
                    f"stage {stage.name!r} ({stage.kind}) comes on top of the scaling that stage "
                    f"{transfer.name!r} takes over with its layers; leave it out, or declare "
                    f"{transfer.name}.scaling='own'"
                )

    def _check_start(self, stage: Using) -> None:
        model = self.model_of(stage)
        if isinstance(stage, FineTune):
            self._check_tuning(stage, model)
        if isinstance(stage, Evaluate):
            self._check_measurable(stage, model)
        if isinstance(stage, Encode) and stage.layer is not None:
            layers = _depth(self.start_of(stage), model)
            if stage.layer >= layers:
                raise ValueError(
                    f"stage {stage.name!r}: layer={stage.layer} is not there; the model it encodes "
                    f"with has the layers 0 to {layers - 1}"
                )

    def _check_tuning(self, stage: FineTune, model: Model) -> None:
        if not is_supervised(model) and not isinstance(model, Autoencoder):
            raise ValueError(
                f"stage {stage.name!r}: the model has no Softmax on top and no loss, so there is "
                "nothing to fine-tune it for; make it a DBN or a Network whose last layer is a "
                "Softmax(classes=...), a Network(loss=...), an Autoencoder or a GenerativeDBN"
            )
        if stage.metric == "error" and fits_targets(model) and model.loss == "squared_error":
            raise ValueError(
                f"stage {stage.name!r}: metric='error' is a share of samples that are "
                "misclassified, which a squared error knows none of; leave it at 'loss'"
            )
        if stage.gibbs_steps and not isinstance(model, GenerativeDBN):
            raise ValueError(
                f"stage {stage.name!r}: gibbs_steps={stage.gibbs_steps} has no effect on a "
                "model without a memory, which learns by backpropagation; leave it out, or "
                "make the model a GenerativeDBN"
            )
        if stage.labelled and not classifies(model):
            raise ValueError(
                f"stage {stage.name!r}: labelled={stage.labelled} draws labels, and the model "
                "learns without any; leave it out"
            )
        try:
            stage.factors(model)
        except ValueError as error:
            raise ValueError(f"stage {stage.name!r}: learning_rates: {error}") from None

    def _check_measurable(self, stage: Evaluate, model: Model) -> None:
        if isinstance(model, MSDA):
            raise ValueError(
                f"stage {stage.name!r}: an MSDA neither classifies nor reconstructs; measure what "
                "its codes are worth with CrossDomain(domain=...)"
            )
        if stage.gaps is not None and classifies(model):
            raise ValueError(
                f"stage {stage.name!r}: gaps={stage.gaps} measures how a model fills in values, "
                "and this one tells classes apart; leave gaps out"
            )
        start = self.start_of(stage)
        if isinstance(start, Transfer) and not classifies(model):
            raise ValueError(
                f"stage {stage.name!r}: the layers that stage {start.name!r} takes classify "
                "nothing yet; put a FineTune between"
            )

    def _check_validation(self, stage: Fitting) -> None:
        """Check that there is something for the ends of epochs to decide by."""
        why = f"stage {stage.name!r}: early_stopping, keep='best' and ReduceOnPlateau need "
        if stage.monitor == 0:
            raise ValueError(
                f"{why}validation samples to look at, found monitor=0; set it to how many, such as "
                "1000"
            )
        split = next((s for s in self.stages if isinstance(s, Split)), None)
        if split is None or (split.by is None and split.validation == 0):
            raise ValueError(
                f"{why}a validation part, found none; add Split(validation=0.1), or Split(by=...) "
                "with a variable that names each sample's part"
            )
        if isinstance(stage, Pretrain) and "validation" in stage.parts:
            raise ValueError(
                f"{why}samples that are not learned from; take validation out of parts"
            )

    def _check_outputs(self) -> None:
        written: dict[str | None, str] = {}
        for stage in self.stages:
            if not isinstance(stage, Encode):
                continue
            if stage.path is not None and stage.path == getattr(self.source, "path", None):
                raise ValueError(
                    f"stage {stage.name!r} would write over what the source reads, {stage.path}; "
                    "give it another path"
                )
            if stage.path in written:
                raise ValueError(
                    f"stages {written[stage.path]!r} and {stage.name!r} both write to "
                    f"{stage.path or 'codes.zarr in the run directory'}; give one another path"
                )
            written[stage.path] = stage.name

    def start_of(self, stage: Using) -> Start | None:
        """Return the stage whose trained model ``stage`` goes on from; None for a fresh model.

        Raises
        ------
        ValueError
            It names a stage that does not exist above it, or there is none.
        """
        if isinstance(stage, FineTune) and stage.model is not None:
            return None
        above: dict[str, Start] = {}
        for other in self.stages:
            if other.name == stage.name:
                break
            if isinstance(other, Start):
                above[other.name] = other
        if stage.start is not None and stage.start not in above:
            there = ", ".join(above) or "none"
            raise ValueError(
                f"stage {stage.name!r}: start={stage.start!r} is not a training stage above it; "
                f"there are: {there}"
            )
        if not above:
            raise ValueError(f"stage {stage.name!r}: no training stage above it")
        return above[stage.start] if stage.start else list(above.values())[-1]

    def model_of(self, stage: Stage) -> Model:
        """Return the model that ``stage`` trains, measures or encodes with."""
        if isinstance(stage, Start) and stage.model is not None:
            return stage.model
        if isinstance(stage, Using):
            start = self.start_of(stage)
            if isinstance(start, Transfer) and not isinstance(stage, FineTune):
                return start.trunk
            if start is not None:
                return self.model_of(start)
        raise ValueError(f"stage {stage.name!r} has no model")

    def classes_of(self, stage: Stage) -> int | None:
        """Return how many classes ``stage`` learns to tell apart; None where it needs no labels."""
        if not isinstance(stage, Fitting):
            return None
        model = self.model_of(stage)
        if isinstance(stage, Pretrain) and not isinstance(model, GenerativeDBN):
            return None
        return model.classes if classifies(model) else None

    def stage(self, name: str) -> Stage:
        """Return the stage called ``name``.

        Raises
        ------
        DeclarationError
            There is none; the message lists those there are.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        there = ", ".join(stage.name for stage in self.stages)
        raise DeclarationError(f"pipeline {self.name!r}: no stage {name!r}; it has: {there}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, checked anew.

        A key is a field of the pipeline (``seed``), of its source (``source.path``) or of a stage
        (``pretrain.epochs``, ``pretrain.strategy.shards``, ``pretrain.model.layers.0.hidden``).

        Raises
        ------
        DeclarationError
            No such field, or a value that does not fit; the field is named.
        """
        data = self.model_dump(mode="json")
        for path, value in changes.items():
            self._set(data, path, value)
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise DeclarationError(explain(error, f"pipeline {self.name!r}")) from None

    def _set(self, data: dict[str, Any], path: str, value: Any) -> None:
        first, *rest = path.split(".")
        names = {stage.name: i for i, stage in enumerate(self.stages)}
        if first in names and rest:
            place, steps = data["stages"][names[first]], rest
        elif first in data:
            place, steps = data, [first, *rest]
        else:
            raise DeclarationError(
                f"{path}: no such field; expected STAGE.FIELD with one of the stages "
                f"{', '.join(names) or '(none)'}, or one of {', '.join(data)}"
            )
        for step in steps[:-1]:
            place = place[_index(place, step, path)]
        place[_index(place, steps[-1], path)] = value


def _check_chains(stage: Pretrain) -> None:
    """Refuse what cannot learn from samples with values that are absent."""
    first = stage.pretrained[0]
    if isinstance(first, RBM) and first.persistent:
        raise ValueError(
            f"stage {stage.name!r}: an RBM with persistent=True takes no mask, and the source has "
            "values that are absent; set persistent=False"
        )


def _depth(start: Start | None, model: Model) -> int:
    """Return how many layers a trained model has whose output can be the code."""
    if isinstance(model, MSDA):
        return model.depth
    if isinstance(model, Autoencoder):
        return len(model.encoder)
    if isinstance(start, Pretrain) and not isinstance(model, GenerativeDBN):
        return len(start.stack)
    return len(model.layers) if isinstance(model, Layered | GenerativeDBN) else 1


def _index(place: Any, step: str, path: str) -> int | str:
    if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
        return int(step)
    if isinstance(place, dict) and step in place:
        return step
    if isinstance(place, dict | list):
        names = place if isinstance(place, dict) else map(str, range(len(place)))
        there = f"there are: {', '.join(names) or 'none'}"
    else:
        there = f"found {place!r}, which has none"
    raise DeclarationError(f"{path}: no field {step!r}; {there}")
