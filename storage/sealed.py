"""JSON of the run's own, with a seal by which a file that is torn or has a flipped bit is known."""

import json
from hashlib import sha256
from typing import Any

from deepstrata.schemas.errors import StorageError
from deepstrata.storage import stores


class DamagedError(StorageError):
    """A file was read, and does not hold what was once written to it."""


def seal_of(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold, whatever its layout in a file."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(url: str, content: dict[str, Any]) -> None:
    """Write an object to a JSON file, with its seal as one more member."""
    text = json.dumps(content | {"seal": seal_of(content)})
    stores.write_bytes(url, text.encode())


def read(url: str) -> dict[str, Any]:
    """Return what ``write`` wrote.

    Raises
    ------
    DamagedError
        The file holds something else.
    StorageError
        It is not there, or cannot be read.
    """
    data = stores.read_bytes(url)
    try:
        content = json.loads(data)
        seal = content.pop("seal")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{url}: damaged: expected sealed JSON ({error})") from None
    if seal != seal_of(content):
        raise DamagedError(f"{url}: damaged: the seal does not match the content")
    found: dict[str, Any] = content
    return found
