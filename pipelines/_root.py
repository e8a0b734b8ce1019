"""Installed as ``deepstrata/__init__.py``: the public names."""

__version__ = "0.1.0"
