"""``python -m deepstrata.pipelines.cli``."""

from deepstrata.pipelines.cli import main

main()
