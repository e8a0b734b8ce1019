"""Ready-made pipelines: each a short file that uses public names only."""
