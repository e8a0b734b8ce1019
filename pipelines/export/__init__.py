"""Trained models for other programs: ONNX, or safetensors with JSON.

A format is one function in ``FORMATS``.
"""

from collections.abc import Callable

from deepstrata.pipelines.model import TrainedEncoder, save_encoder
from deepstrata.schemas.errors import DeclarationError, StorageError
from deepstrata.storage import stores

ONNX_SUFFIX = ".onnx"


def _onnx(path: str, encoder: TrainedEncoder) -> None:
    try:
        from deepstrata.pipelines.export.onnx import save_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise DeclarationError(
            "the format onnx needs the package onnx; install it with: "
            "pip install 'deepstrata[onnx]'"
        ) from None
    save_onnx(path, encoder)


#: For each format what writes it.
FORMATS: dict[str, Callable[[str, TrainedEncoder], None]] = {
    "onnx": _onnx,
    "safetensors": save_encoder,
}


def export(encoder: TrainedEncoder, path: str, format: str | None = None) -> str:
    """Write a model with its preprocessing for other programs; return the format.

    Parameters
    ----------
    path
        Not there yet: a file for ``onnx``, a directory for ``safetensors``. Or any fsspec URL.
    format
        One of ``FORMATS``; by default ``onnx`` for a path that ends in ``.onnx``, else
        ``safetensors``.

    Raises
    ------
    DeclarationError
        There is no such format, it needs a package that is not installed, or it cannot say what a
        layer does.
    StorageError
        There is something at the path already, or it cannot be written.
    """
    format = format or ("onnx" if path.endswith(ONNX_SUFFIX) else "safetensors")
    if format not in FORMATS:
        raise DeclarationError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if stores.exists(path):
        raise StorageError(f"{path}: exists already; choose another path, or remove it")
    FORMATS[format](path, encoder)
    return format
