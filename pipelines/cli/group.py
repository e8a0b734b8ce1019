"""The program itself: its errors, its exit status, and what every command shares."""

import shlex
import traceback
from typing import Any

import click

import deepstrata
from deepstrata.schemas.errors import DeepstrataError

DEBUG, RUN = "deepstrata.debug", "deepstrata.run"
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
BAD_INPUT, DIFFERENT, INTERRUPTED = 2, 1, 130


def _remember_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[DEBUG] = True


class _Command(click.Command):
    """A command that takes ``--debug`` too, so that it may stand at the end of the line."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _debug_option()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are: a shell line must not be wrapped."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the whole traceback of an error.",
    )


class _Group(click.Group):
    """Turns what a user can act on into one message and an exit status."""

    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are used

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DeepstrataError as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            else:
                _say(f"error: {error}")
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            _say(_how_to_go_on(ctx.meta.get(RUN)))
            ctx.exit(INTERRUPTED)


def _say(text: str) -> None:
    from deepstrata.pipelines.progress import plain

    click.echo(plain(text), err=True)


def _how_to_go_on(path: str | None) -> str:
    """Return what to say after Ctrl-C."""
    from deepstrata.storage import runs

    if path is None:
        return "interrupted"
    try:
        runs.open_run_directory(path)
    except DeepstrataError:
        return "interrupted before the run began; nothing is kept"
    return (
        "interrupted: the run is kept up to its last checkpoint; go on with\n"
        f"  deepstrata resume {shlex.quote(path)}"
    )


@click.group(cls=_Group, context_settings=SETTINGS)
@click.version_option(deepstrata.__version__, prog_name="deepstrata")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the whole traceback of an error.",
)
def cli() -> None:
    """Train deep networks on arrays bigger than memory, where they live: Zarr, xarray, Dask.

    PIPELINE is the name of a recipe (see `deepstrata recipes`), the path of a Python file that
    defines `pipeline`, the path of a JSON file, or module:name.

    Exit status: 0 done, 1 two runs differ or doctor found a fault, 2 something is wrong with the
    input, 130 interrupted.
    """
