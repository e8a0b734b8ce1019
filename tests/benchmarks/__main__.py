"""Benchmarks one after the other, each in a process of its own: ``python -m tests.benchmarks``."""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

NAMES = ("cd1", "convolution", "raina", "sparse", "reading", "rounds", "outofcore")


def summary(name: str) -> str:
    """Return the first line of a benchmark's description, without importing what it needs."""
    text = Path(__file__).with_name(f"{name}.py").read_text()
    return f"{name:10s} {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}"


def main() -> int:
    """Run what is named, or all; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="\n".join(["Benchmarks:", *(f"  {summary(name)}" for name in NAMES)]),
        epilog="Other options (--repeats, --folder) go to each; NAME --help shows its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all")
    parser.add_argument("--quick", action="store_true", help="small: that it runs, not how fast")
    parser.add_argument("--repeats", metavar="N", help="repetitions of each measurement")
    parser.add_argument("--folder", metavar="PATH", help="where to make temporary files")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    options = ["--quick"] * given.quick
    for option in ("repeats", "folder"):
        if (value := getattr(given, option)) is not None:
            options += [f"--{option}", value]
    failed = []
    for name in given.names or NAMES:
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *options]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
