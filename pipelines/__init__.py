"""How it flows: graphs, strategies, plans, runs, clusters, reports and the command line."""

if not __name__.startswith("deepstrata."):
    raise ImportError(f"import this package as deepstrata.{__name__}")
