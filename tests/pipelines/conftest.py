"""Fixtures of the engine."""

from fixtures import bars_path, client, out

__all__ = ["bars_path", "client", "out"]
