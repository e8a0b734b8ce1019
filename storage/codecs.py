"""The codec pipeline that arrays are opened with: ``zarrs`` where it works, zarr's own elsewhere.

zarr-python takes the pipeline of an array from its configuration at the moment of opening, so
``fast_codecs`` sets that configuration for the moment only. ``zarrs`` (0.2) decodes local files
several times faster; what it cannot do (remote stores, strings, foreign byte order, codecs it
does not know) is left to the pipeline that zarr-python comes with.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.metadata import ArrayMetadata
from zarr.registry import register_pipeline
from zarr.storage import LocalStore

try:
    from zarrs.pipeline import (
        ZarrsCodecPipeline,
        array_metadata_to_codecs,
        get_codec_pipeline_impl,
    )

    HAS_ZARRS = True
except ImportError:
    HAS_ZARRS = False

# zarr's configuration is one per process, and workers open datasets in several threads.
_OPENING = threading.RLock()


class FastestPipeline(BatchedCodecPipeline):
    """zarr-python's own pipeline, which steps aside for ``zarrs`` where that can do the work."""

    @classmethod
    def from_array_metadata_and_store(cls, array_metadata: ArrayMetadata, store: Store) -> Any:
        """Return a ``zarrs`` pipeline for one array.

        Raises
        ------
        NotImplementedError
            It cannot serve this array; zarr-python then builds this class's own pipeline.
        """
        if not HAS_ZARRS or not isinstance(store, LocalStore):
            raise NotImplementedError
        dtype = array_metadata.dtype.to_native_dtype()
        if dtype.kind not in "biuf" or not dtype.isnative:
            raise NotImplementedError
        try:
            impl = get_codec_pipeline_impl(array_metadata, store, strict=True)
        except Exception as error:  # whatever it is that zarrs does not know, zarr-python may
            raise NotImplementedError from error
        python = BatchedCodecPipeline.from_codecs(array_metadata_to_codecs(array_metadata))
        return ZarrsCodecPipeline(
            metadata=array_metadata, store=store, impl=impl, python_impl=python
        )


register_pipeline(FastestPipeline)
_NAME = f"{FastestPipeline.__module__}.{FastestPipeline.__qualname__}"


@contextmanager
def fast_codecs() -> Iterator[None]:
    """Open arrays inside with the fastest pipeline; zarr's configuration is restored after."""
    with _OPENING, zarr.config.set({"codec_pipeline.path": _NAME}):
        yield
