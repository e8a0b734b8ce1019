"""What is computed: pure functions of arrays, keys and declarations."""

if not __name__.startswith("deepstrata."):
    raise ImportError(f"import this package as deepstrata.{__name__}")
