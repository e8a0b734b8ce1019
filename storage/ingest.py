"""Ingest: other formats into Zarr with the default layout, in memory bounded by a block of rows."""

from collections.abc import Callable, Mapping

from deepstrata.schemas.datasets import DatasetSchema, Variable
from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Option, declared
from deepstrata.storage import writing
from deepstrata.storage.datasets import describe, open_dataset
from deepstrata.storage.encoding import stored_as
from deepstrata.storage.formats import FORMATS, Content


def _open(
    format: str, source: str | None, sample_dim: str | None, options: Mapping[str, Option]
) -> Content:
    if format not in FORMATS:
        there = ", ".join(sorted(FORMATS))
        raise SchemaError(f"unknown format {format!r}; expected one of: {there}")
    opener: Callable[..., Content] = FORMATS[format]
    checked = declared(format, dict(options))
    content = opener(source, sample_dim, *([] if checked is None else [checked]))
    for name, variable in content.template.variables.items():
        stored_as(str(name), variable, content.sample_dim)
    return content


def ingest(
    format: str,
    source: str | None,
    dest: str,
    *,
    sample_dim: str | None = None,
    **options: Option,
) -> DatasetSchema:
    """Write a source of another format to a Zarr store.

    Parameters
    ----------
    format
        A name in ``FORMATS``.
    source
        File, directory or URL; None for a format that brings its own data.
    dest
        Of the store. An incomplete one is replaced; anything else there is in the way.
    sample_dim
        Dimension that counts samples; the format's default otherwise.
    **options
        Of the format: see ``deepstrata.schemas.formats``.

    Returns
    -------
    DatasetSchema
        What was written.

    Raises
    ------
    SchemaError
        The format is unknown, or the source is not of it, truncated or empty.
    DeclarationError
        The format has no such option, or a value does not fit.
    StorageError
        The source is not there, or the store cannot be written. What was begun at ``dest`` is
        removed, or left incomplete where that is not possible; it never looks whole.
    """
    content = _open(format, source, sample_dim, options)
    with content.template:
        try:
            _write(content, dest)
        except Exception:
            if writing.is_incomplete(dest):
                writing.discard(dest)
            raise
    return describe(open_dataset(dest), content.sample_dim)


def _write(content: Content, dest: str) -> None:
    template, dim = content.template, content.sample_dim
    if content.blocks is None:
        writing.write_dataset(template, dest, dim)
        return
    layout = writing.create(dest, template, None, dim)
    start = 0
    for rows in content.blocks(layout.shard_rows):
        count = len(next(iter(rows.values())))
        for name, values in rows.items():
            writing.write_rows(dest, name, start, values)
        start += count
    writing.finish(dest)


def describe_source(
    format: str, source: str | None, sample_dim: str | None = None, **options: Option
) -> DatasetSchema:
    """Describe what ``ingest`` would write, from headers alone.

    Chunks are those (or the shards) that the store will have, so that a plan can count them.

    Raises
    ------
    SchemaError, DeclarationError, StorageError
        As ``ingest`` does, as far as headers tell.
    """
    content = _open(format, source, sample_dim, options)
    with content.template as template:
        layout = writing.layout_of(template, content.sample_dim)
        schema = describe(template, content.sample_dim)
    variables = tuple(
        _as_stored(variable, content.sample_dim, layout.shard_rows) for variable in schema.variables
    )
    return schema.model_copy(update={"variables": variables})


def _as_stored(variable: Variable, sample_dim: str, rows: int) -> Variable:
    if variable.shape is None:
        return variable
    dims, lengths = variable.dims, dict(zip(variable.dims, variable.shape, strict=True))
    if sample_dim in dims:
        dims = (sample_dim, *(dim for dim in dims if dim != sample_dim))
    shape = tuple(lengths[dim] for dim in dims)
    whole = {dim: length or 1 for dim, length in lengths.items()} | {sample_dim: rows}
    chunks = tuple(whole[dim] for dim in dims)
    return variable.model_copy(update={"dims": dims, "shape": shape, "chunks": chunks})
