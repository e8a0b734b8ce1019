"""JSON of the run's own, with a seal by which a file that is torn or has a flipped bit is known."""

import json
from hashlib import sha256
from typing import Any, TypeVar

from deepstrata.schemas._base import Document
from deepstrata.schemas.errors import StorageError
from deepstrata.storage import stores

D = TypeVar("D", bound=Document)


class DamagedError(StorageError):
    """A file was read, and does not hold what was once written to it."""


def seal_of(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold, whatever its layout in a file."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(url: str, content: dict[str, Any]) -> None:
    """Write an object to a JSON file, with its seal as one more member."""
    stores.write_bytes(url, _text(content))


def write_document(url: str, document: Document) -> None:
    """Write a document to a JSON file, with its seal as one more member."""
    stores.write_bytes(url, _text(json.loads(document.to_json()), indent=2))


def _text(content: dict[str, Any], indent: int | None = None) -> bytes:
    sealed = content | {"seal": seal_of(content)}
    return (json.dumps(sealed, indent=indent) + "\n").encode()


def read(url: str) -> dict[str, Any]:
    """Return what ``write`` wrote.

    Raises
    ------
    DamagedError
        The file holds something else.
    StorageError
        It is not there, or cannot be read.
    """
    try:
        content, seal = _parsed(stores.read_bytes(url))
    except ValueError as error:
        raise DamagedError(f"{url}: damaged: not the JSON that was written ({error})") from None
    _check(url, content, seal)
    return content


def read_document(kind: type[D], url: str) -> D:
    """Return what ``write_document`` wrote; a document without a seal is taken as it is.

    Raises
    ------
    DeclarationError
        It is not JSON, has unknown fields, or is of another format version.
    DamagedError
        It holds something else than what was written.
    """
    data = stores.read_bytes(url)
    try:
        content, seal = _parsed(data)
    except ValueError:
        return kind.from_json(data, where=url)
    document = kind.from_json(json.dumps(content), where=url)
    _check(url, content, seal)
    return document


def _parsed(data: bytes) -> tuple[dict[str, Any], str | None]:
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found a {type(content).__name__}")
    return content, content.pop("seal", None)


def _check(url: str, content: dict[str, Any], seal: str | None) -> None:
    if seal is not None and seal != seal_of(content):
        raise DamagedError(
            f"{url}: damaged: the content is not that which was sealed; restore it from a backup "
            '(a file that was changed by hand is read again when its "seal" is removed)'
        )
