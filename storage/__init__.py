"""Where things rest: Zarr, xarray and safetensors, in and out."""

if not __name__.startswith("deepstrata."):
    raise ImportError(f"import this package as deepstrata.{__name__}")
