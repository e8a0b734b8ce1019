"""The command line. Whatever is heavy is imported by the command that needs it."""

import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import deepstrata
from deepstrata.schemas.errors import DeepstrataError

if TYPE_CHECKING:
    from distributed import Client, Security

    from deepstrata.pipelines.run import Run
    from deepstrata.schemas.pipelines import Pipeline

DEBUG, RUN, TLS = "deepstrata.debug", "deepstrata.run", "deepstrata.tls"
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


def _changes(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``stage.field=value`` pairs; a value is JSON, or else text."""
    changes: dict[str, Any] = {}
    for text in values:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise click.BadParameter(f"{text!r}: expected stage.field=value", param=option)
        try:
            changes[field] = json.loads(value)
        except ValueError:
            changes[field] = value
    return changes


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


set_option = click.option(
    "--set",
    "changes",
    metavar="STAGE.FIELD=VALUE",
    multiple=True,
    callback=_changes,
    help="Declare a field anew, such as pretrain.epochs=5, source.path=x.zarr or seed=1. "
    "VALUE is JSON or else text. May be given several times.",
)
data_option = click.option(
    "--data", metavar="PATH", help="Read this instead of the path that the pipeline names."
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Write one JSON object to the last line of standard output, all else to standard error.",
)


def _remember_tls(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta.setdefault(TLS, {})[str(option.name).removeprefix("tls_")] = value


def _tls_option(name: str, text: str) -> Callable[[Any], Any]:
    return click.option(name, metavar="FILE", expose_value=False, callback=_remember_tls, help=text)


tls_options = _options(
    _tls_option("--tls-ca", "Certificate authority (PEM) of a tls:// cluster. What is not given "
                "is taken from Dask's configuration."),
    _tls_option("--tls-cert", "Certificate (PEM) of this client, signed by that authority."),
    _tls_option("--tls-key", "Its key (PEM), if it is not in the same file."),
)  # fmt: skip
cluster_options = _options(
    click.option(
        "--cluster",
        default="local",
        show_default=True,
        metavar="local|threads|cuda|ADDRESS",
        help="Worker processes on this machine, threads of this process, a worker for each GPU, "
        "or the address of a running scheduler, tcp:// or tls://.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Workers (or threads) to start; one for each core by default. "
        "Their number never changes a result.",
    ),
    tls_options,
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


@cli.command(
    epilog="""
    deepstrata ingest idx mnist/ mnist.zarr
    deepstrata ingest csv table.csv table.zarr
    deepstrata ingest netcdf air.nc air.zarr --sample-dim time
    deepstrata ingest digits - digits.zarr
"""
)
@click.argument("format")
@click.argument("source")
@click.argument("dest")
@click.option("--sample-dim", metavar="NAME", help="Dimension that counts samples.")
def ingest(format: str, source: str, dest: str, sample_dim: str | None) -> None:
    """Write files of another format as Zarr, in shards of a good size.

    DEST becomes a Zarr v3 group. FORMAT is one of idx (the four files of an MNIST-like set,
    gzipped or not), npy, npz, csv,
    netcdf, zarr and digits (scikit-learn's, which need no SOURCE: give "-").
    """
    from deepstrata.pipelines.report.terminal import console_for, schema_table
    from deepstrata.storage.ingest import ingest as write

    schema = write(format, None if source == "-" else source, dest, sample_dim=sample_dim)
    console_for(sys.stdout).print(schema_table(schema, dest))


def _bytes(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Parse a size such as ``512MiB``."""
    from dask.utils import parse_bytes

    if text is None:
        return None
    try:
        found = int(parse_bytes(text))
    except ValueError:
        found = 0
    if found < 1:
        raise click.BadParameter(f"{text!r}: expected a size such as 512MiB", param=option)
    return found


@cli.command(
    epilog="""
    deepstrata rechunk slow.zarr fast.zarr
    deepstrata rechunk slow.zarr fast.zarr --sample-dim time --rows 365 --variables air,sst
    deepstrata rechunk air.nc air.zarr --memory 2GiB
"""
)
@click.argument("source", metavar="SRC")
@click.argument("dest", metavar="DEST")
@click.option("--sample-dim", metavar="NAME", help="Dimension that counts samples.")
@click.option(
    "--rows", type=click.IntRange(min=1), metavar="N", help="Samples of a shard; chosen by default."
)
@click.option("--variables", metavar="A,B", help="Data variables to keep; all by default.")
@click.option(
    "--memory",
    default="512MiB",
    show_default=True,
    metavar="SIZE",
    callback=_bytes,
    help="Memory to take, beside what the program itself takes.",
)
def rechunk(
    source: str,
    dest: str,
    sample_dim: str | None,
    rows: int | None,
    variables: str | None,
    memory: int,
) -> None:
    """Write a badly chunked store anew, once, in shards of a good size.

    SRC is a Zarr group (v2 or v3) or a netCDF file; DEST becomes a Zarr v3 group with the same
    values as they are stored, coordinates and attributes. Memory is bounded whatever the chunks;
    a store that is chunked along its features alone is copied twice, the first time to
    DEST.rechunk. DEST is complete in the end, or not there.
    """
    from deepstrata.pipelines.report.terminal import console_for, copied_lines, schema_table
    from deepstrata.storage.rechunk import rechunk as write

    names = variables.split(",") if variables else None
    with _bars() as report:
        done = write(
            source,
            dest,
            sample_dim=sample_dim,
            rows=rows,
            variables=names,
            memory=memory,
            report=report,
        )
    console = console_for(sys.stdout)
    console.print(schema_table(done.schema, dest))
    for line in copied_lines(done):
        console.print(line)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for every variable on standard error while it is a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TaskID

    from deepstrata.pipelines.progress import plain

    console, tasks = Console(file=sys.stderr), dict[str, TaskID]()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(escape(plain(name)), total=total)
            bars.update(tasks[name], completed=done)

        yield report


@cli.command()
def recipes() -> None:
    """List the ready-made pipelines."""
    from deepstrata.pipelines.loading import recipes as known
    from deepstrata.pipelines.report.terminal import console_for, facts_table

    console_for(sys.stdout).print(facts_table(known().items()))


@cli.command(
    epilog="""
    deepstrata plan dbn-digits
    deepstrata plan my_pipeline.py --data s3://bucket/train.zarr --set pretrain.strategy.shards=8
"""
)
@click.argument("pipeline")
@_options(data_option, set_option)
@click.option("--json", "as_json", is_flag=True, help="Write the plan as one JSON object.")
@click.option(
    "--worker-memory",
    metavar="SIZE",
    callback=_bytes,
    help="Memory limit of a worker, such as 4GiB: a plan that does not fit is refused.",
)
def plan(
    pipeline: str,
    data: str | None,
    changes: dict[str, Any],
    as_json: bool,
    worker_memory: int | None,
) -> None:
    """Say what a pipeline will do, before anything runs.

    Shards, rounds, tasks, bytes read and decoded in vain, how well it shuffles, and the peak
    memory of a worker. Nothing runs; of the data only metadata is read, and labels of up to 64
    MiB. What `run` would refuse is refused here, with exit status 2.
    """
    from deepstrata.pipelines import planning

    limits = planning.Limits(worker_bytes=worker_memory)
    made = planning.plan(_load(pipeline, data, changes))
    click.echo(json.dumps(made.to_dict(limits)) if as_json else made.text(limits))
    planning.check_plan(made, limits)


@cli.command(
    epilog="""
    deepstrata run dbn-digits
    deepstrata run dbn-mnist --data data/mnist --workers 2 --json
    deepstrata run my_pipeline.py --cluster tcp://10.0.0.1:8786 --set finetune.epochs=5
"""
)
@click.argument("pipeline")
@_options(data_option, set_option, cluster_options, json_option)
@click.option(
    "--out",
    metavar="RUN",
    help="Directory for the run, not there yet; runs/NAME-1, runs/NAME-2, ... by default.",
)
def run(
    pipeline: str,
    data: str | None,
    changes: dict[str, Any],
    cluster: str,
    workers: int | None,
    as_json: bool,
    out: str | None,
) -> None:
    """Run a pipeline.

    It leaves a run directory: checkpoints, model, codes, history and a report in HTML. Ctrl-C
    stops it; `deepstrata resume RUN` goes on from the last checkpoint.
    """
    from deepstrata.pipelines.run import run as start
    from deepstrata.pipelines.sources import check_source
    from deepstrata.storage import runs

    declared = _load(pipeline, data, changes)
    check_source(declared)
    path = out or runs.free_path(declared.name)
    runs.check_free(path)

    def work(client: "Client", observer: Any) -> "Run":
        return start(declared, client, out=path, observer=observer)

    _carry_out(work, path, cluster, workers, as_json)


@cli.command(
    epilog="""
    deepstrata resume runs/dbn-digits-1
    deepstrata resume runs/dbn-digits-1 --set finetune.epochs=80
"""
)
@click.argument("path", metavar="RUN")
@_options(set_option, cluster_options, json_option)
def resume(
    path: str, changes: dict[str, Any], cluster: str, workers: int | None, as_json: bool
) -> None:
    """Go on with a run from its last checkpoint.

    It comes to the same weights, bit for bit, as without the stop. With --set, the stages that
    depend on the change are run again and all others are kept.
    """
    from deepstrata.pipelines.run import resume as go_on
    from deepstrata.storage import runs

    runs.open_run_directory(path)

    def work(client: "Client", observer: Any) -> "Run":
        return go_on(path, client, changes=changes or None, observer=observer)

    _carry_out(work, path, cluster, workers, as_json)


@cli.command()
@click.argument("path", metavar="RUN")
def show(path: str) -> None:
    """Show what became of a run: status, results, stages."""
    from deepstrata.pipelines.report.terminal import console_for, run_table, stages_table
    from deepstrata.pipelines.run import open_run

    found = open_run(path)
    console = console_for(sys.stdout)
    console.print(run_table(found.manifest, path, _report_of(found, path)))
    if found.manifest.stages:
        console.print()
        console.print(stages_table(found.manifest))
    if found.manifest.status in ("interrupted", "failed"):
        console.print(f"\ngo on with\n  deepstrata resume {shlex.quote(path)}")


@cli.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@click.pass_context
def verify(context: click.Context, first: str, second: str) -> None:
    """Compare two runs, bit for bit.

    Says "same" if weights and results are, or names the first thing that differs; then the exit
    status is 1.
    """
    from deepstrata.pipelines.verify import verify as compare

    verdict = compare(first, second)
    click.echo(verdict.text)
    if not verdict.same:
        context.exit(DIFFERENT)


@cli.command(
    epilog="""
    deepstrata doctor
    deepstrata doctor --cluster tcp://10.0.0.1:8786
"""
)
@click.option("--cluster", metavar="ADDRESS", help="Look at the workers of this scheduler.")
@tls_options
@click.pass_context
def doctor(context: click.Context, cluster: str | None) -> None:
    """Check this machine, its packages and a cluster.

    Says of each fault what to do about it. Exit status 1 if something fails; 0 with warnings.
    """
    from deepstrata.pipelines.doctor import examine
    from deepstrata.pipelines.report.terminal import checks_table, console_for

    security = _security()
    if security is not None and cluster is None:
        raise click.UsageError("--tls-ca, --tls-cert and --tls-key are for --cluster tls://...")
    checks = list(examine(cluster, security))
    console_for(sys.stdout).print(checks_table(checks))
    if any(check.status == "fail" for check in checks):
        context.exit(DIFFERENT)


@cli.command()
def schema() -> None:
    """Write the JSON schema of a pipeline."""
    from deepstrata.schemas.pipelines import Pipeline

    click.echo(json.dumps(Pipeline.model_json_schema(), indent=2))


def _load(spec: str, data: str | None, changes: dict[str, Any]) -> "Pipeline":
    from deepstrata.pipelines.loading import load_pipeline

    pipeline = load_pipeline(spec, data)
    return pipeline.replace(**changes) if changes else pipeline


def _carry_out(
    work: Callable[["Client", Any], "Run"],
    path: str,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Do the work on a cluster, with progress on standard error, and show its results."""
    from deepstrata.pipelines.interrupts import connected
    from deepstrata.pipelines.progress import observer_for
    from deepstrata.pipelines.report.terminal import console_for, results_table, summary

    click.get_current_context().meta[RUN] = path
    with (
        observer_for(sys.stderr) as observer,
        connected(cluster, workers, security=_security(), observer=observer) as client,
    ):
        done = work(client, observer)
    table = results_table(done.manifest, path, _report_of(done, path))
    console_for(sys.stderr if as_json else sys.stdout).print(table)
    if as_json:
        click.echo(json.dumps(summary(done.manifest, done.path)))


def _security() -> "Security | None":
    """Return what the options for TLS say."""
    from deepstrata.pipelines.scheduler import security_from

    return security_from(**click.get_current_context().meta.get(TLS, {}))


def _report_of(run: "Run", path: str) -> str | None:
    """Return the report's path below the run's as it was given."""
    return run.report and run.report.replace(run.path, path, 1)


def main() -> None:
    """Run the command line; the installed program."""
    cli(prog_name="deepstrata")


if __name__ == "__main__":
    main()
