"""The command line. Whatever is heavy is imported by the command that needs it."""

from deepstrata.pipelines.cli import data, results, running
from deepstrata.pipelines.cli.group import cli

__all__ = ["cli", "main"]

#: In the order in which they are used.
COMMANDS = (
    data.ingest,
    data.rechunk,
    running.recipes,
    running.plan,
    running.run,
    running.resume,
    results.show,
    results.verify,
    results.export,
    results.doctor,
    results.schema,
)
cli.commands = {str(command.name): command for command in COMMANDS}


def main() -> None:
    """Run the command line; the installed program."""
    cli(prog_name="deepstrata")
