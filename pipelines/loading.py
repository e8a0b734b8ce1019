"""Finding a pipeline: a recipe's name, a Python file, ``module:name``, or a JSON file."""

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import cloudpickle
from pydantic import ValidationError

from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.schemas._base import explain
from deepstrata.schemas.datasets import DatasetSource, ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.pipelines import Pipeline as Declared

RECIPES = "deepstrata.pipelines.recipes"


def recipes() -> dict[str, str]:
    """Return the name of every recipe and the first line of its description."""
    folder = Path(__file__).parent / "recipes"
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return {name.replace("_", "-"): _summary(import_module(f"{RECIPES}.{name}")) for name in names}


def _summary(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().partition("\n")[0]


def load_pipeline(spec: str, data: str | None = None) -> Declared:
    """Return the pipeline that ``spec`` names.

    Parameters
    ----------
    spec
        The name of a recipe, the path of a ``.py`` file that defines ``pipeline`` or of a ``.json``
        file, or ``module:name``.
    data
        Replaces the path of the pipeline's source.

    Raises
    ------
    DeclarationError
        There is no such thing, or it does not declare a pipeline.
    """
    try:
        pipeline = _find(spec)
    except ValidationError as error:
        raise DeclarationError(explain(error, spec)) from None
    if not isinstance(pipeline, Declared):
        raise DeclarationError(
            f"{spec}: expected a deepstrata.Pipeline, found {type(pipeline).__name__}"
        )
    if data is None:
        return pipeline
    if isinstance(pipeline.source, DatasetSource):
        raise DeclarationError(f"{spec}: reads a dataset handed over in Python, not --data")
    return pipeline.replace(**{"source.path": _store_in(pipeline, data)})


def _store_in(pipeline: Declared, data: str) -> str:
    """Return ``data``, or the one Zarr store in it where it is a folder around a store."""
    stores = sorted(Path(data).glob("*.zarr")) if "://" not in data else []
    whole = any((Path(data) / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))
    if isinstance(pipeline.source, ZarrSource) and len(stores) == 1 and not whole:
        return str(stores[0])
    return data


def _find(spec: str) -> object:
    known = recipes()
    if spec in known:
        return import_module(f"{RECIPES}.{spec.replace('-', '_')}").pipeline
    path = Path(spec)
    if path.suffix in (".py", ".json"):
        if not path.is_file():
            raise DeclarationError(f"{spec}: no such file")
        return _from_file(path)
    module, colon, name = spec.partition(":")
    if colon:
        return _attribute(_imported(module, spec), name, spec)
    raise DeclarationError(
        f"{spec!r}: expected a recipe ({', '.join(known)}), the path of a .py or .json file, "
        "or module:name"
    )


def _imported(module: str, spec: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return import_module(module)
    except ImportError as error:
        raise DeclarationError(f"{spec}: cannot import {module!r}: {error}") from None
    finally:
        sys.path.remove("")


def _attribute(module: ModuleType, name: str, spec: str) -> object:
    if not hasattr(module, name):
        there = [k for k, v in vars(module).items() if isinstance(v, Declared)]
        raise DeclarationError(
            f"{spec}: no {name!r}; pipelines there: {', '.join(there) or 'none'}"
        )
    return getattr(module, name)


def _from_file(path: Path) -> object:
    if path.suffix == ".json":
        return Pipeline.from_json(path.read_bytes(), where=str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DeclarationError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Functions of the file reach workers by value: they cannot import it by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return _attribute(module, "pipeline", str(path))
