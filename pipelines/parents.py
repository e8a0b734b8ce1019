"""The parent of a transfer: the trained model that layers are taken from, found and checked."""

from typing import NamedTuple

from deepstrata.ops import transfer
from deepstrata.pipelines.model import TrainedEncoder, load_encoder
from deepstrata.schemas.datasets import FileSource
from deepstrata.schemas.errors import DeclarationError, StorageError
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import Apply, Transfer
from deepstrata.schemas.trees import Tree
from deepstrata.storage import runs, stores
from deepstrata.storage.models import DOCUMENT


class Parent(NamedTuple):
    """A trained model, and the run that made it."""

    url: str
    """As declared, absolute."""
    encoder: TrainedEncoder
    fingerprint: str | None
    """Of the run; None where the directory is that of a model alone."""

    @property
    def digest(self) -> str:
        """SHA-256 of the model's arrays."""
        return self.encoder.info.digest


def open_parent(stage: Transfer) -> Parent:
    """Read the model that a stage takes layers from.

    Raises
    ------
    StorageError
        It is not there, its run has not finished, or it is damaged.
    """
    url = model = stores.absolute(stage.run)
    where, fingerprint = f"stage {stage.name!r}: {stage.run}", None
    if stores.exists(runs.manifest_url(url)):
        manifest = runs.read_manifest(url)
        if manifest.status != "finished":
            raise StorageError(
                f"{where}: expected a finished run, found one that is {manifest.status}; "
                f"go on with it: deepstrata resume {stage.run}"
            )
        fingerprint, model = manifest.fingerprint, stores.join(url, "model")
    if not stores.exists(stores.join(model, DOCUMENT)):
        found = "neither in it" if model == url else "a run that trained no model"
        raise StorageError(
            f"{where}: expected the directory of a finished run (with a {runs.MANIFEST}) or of a "
            f"model (with a {DOCUMENT}), found {found if stores.exists(url) else 'no such path'}; "
            f"declare another {stage.name}.run"
        )
    return Parent(url, load_encoder(model), fingerprint)


def taken(stage: Transfer, parent: Parent, visible: int) -> tuple[Tree, ...]:
    """Return the parameters of the layers that a stage takes, for samples of so many features.

    Raises
    ------
    DeclarationError
        Layers or scaling of the parent do not fit the new model or its data.
    """
    encoder, where = parent.encoder, f"stage {stage.name!r}: {stage.run}"
    others = encoder.info.visible
    try:
        found = transfer.take(stage.model, stage.taken, visible, encoder.model, encoder.params)
    except DeclarationError as error:
        hint = f"; its samples had {others} features, these have {visible}"
        raise DeclarationError(f"{where}: {error}{hint if others != visible else ''}") from None
    scaling = encoder.affine if stage.scaling == "parent" else ()
    if any(affine.shift.shape not in ((), (visible,)) for affine in scaling):
        raise DeclarationError(
            f"{where}: expected a scaling for {visible} features, found one for {others}; declare "
            f"{stage.name}.scaling='own' and a Scale or Standardise stage"
        )
    return found


def check_parents(pipeline: Pipeline, visible: int) -> None:
    """Check the parent of a transfer before anything runs.

    Parameters
    ----------
    visible
        Features of a sample in the source. What an ``Apply`` makes of files that are yet to be
        ingested is checked when the stage runs.

    Raises
    ------
    StorageError, DeclarationError
        As ``open_parent`` and ``taken`` do.
    """
    applied = any(isinstance(stage, Apply) for stage in pipeline.stages)
    for stage in pipeline.stages:
        if isinstance(stage, Transfer):
            parent = open_parent(stage)
            if applied and isinstance(pipeline.source, FileSource):
                visible = parent.encoder.info.visible
            taken(stage, parent, visible)
