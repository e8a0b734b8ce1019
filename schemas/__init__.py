"""What things are: frozen declarations with a JSON form."""

if not __name__.startswith("deepstrata."):
    raise ImportError(f"import this package as deepstrata.{__name__}")
