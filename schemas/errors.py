"""Errors that a user can act on: each message says what, where, expected, found, and what to do."""


class DeepstrataError(Exception):
    """Base of every error that the command line shows as one message with exit status 2."""


class DeclarationError(DeepstrataError, ValueError):
    """A declaration contradicts itself or refers to something that is not there."""


class SchemaError(DeepstrataError, ValueError):
    """Data does not look as its schema says: variable, dimension, dtype, range or format."""


class DataError(DeepstrataError, ValueError):
    """A value in the data cannot be used: NaN without a mask, a label out of range."""


class StorageError(DeepstrataError, OSError):
    """A file, store or run directory is missing, damaged, in the way, or cannot be written."""


class BadShardError(StorageError):
    """Rows of the data cannot be read, or are not those that the run inspected."""


class DivergenceError(DeepstrataError, ArithmeticError):
    """Training came to infinity or NaN."""


class ClusterError(DeepstrataError, RuntimeError):
    """The cluster cannot be reached, or its workers cannot run this pipeline."""
