"""All benchmarks, one after the other: ``python -m tests.benchmarks``."""

from tests.benchmarks import cd1

cd1.main()
