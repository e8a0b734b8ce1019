"""Commands that look at runs and machines."""

import json
import shlex
import sys
from typing import TYPE_CHECKING

import click

from deepstrata.pipelines.cli.group import DIFFERENT, cli
from deepstrata.pipelines.cli.options import security, tls_options

if TYPE_CHECKING:
    from deepstrata.pipelines.run import Run


@cli.command()
@click.argument("path", metavar="RUN")
def show(path: str) -> None:
    """Show what became of a run: status, results, stages."""
    from deepstrata.pipelines.report.terminal import console_for, run_table, stages_table
    from deepstrata.pipelines.run import open_run

    found = open_run(path)
    console = console_for(sys.stdout)
    console.print(run_table(found.manifest, path, report_of(found, path)))
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

    Says "same" if weights and results are, or names all that differs; then the exit
    status is 1.
    """
    from deepstrata.pipelines.verify import verify as compare

    verdict = compare(first, second)
    click.echo(verdict.text)
    if not verdict.same:
        context.exit(DIFFERENT)


@cli.command(
    epilog="""
    deepstrata export runs/dbn-digits-1 digits.onnx
    deepstrata export runs/dbn-digits-1/model digits-model --format safetensors
"""
)
@click.argument("path", metavar="RUN|MODEL")
@click.argument("dest", metavar="OUT")
@click.option(
    "--format",
    metavar="onnx|safetensors",
    help="By default onnx where OUT ends in .onnx, else safetensors.",
)
def export(path: str, dest: str, format: str | None) -> None:
    """Write a trained model for other programs.

    RUN|MODEL is a run's directory or that of a model. OUT, not there yet, becomes one file
    (onnx), or a directory with weights.safetensors and model.json (safetensors). Preprocessing
    is part of both.
    """
    from deepstrata.pipelines.export import export as write
    from deepstrata.pipelines.model import load_encoder

    written = write(load_encoder(path), dest, format)
    click.echo(f"{dest}: written as {written}")


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

    found = security()
    if found is not None and cluster is None:
        raise click.UsageError("--tls-ca, --tls-cert and --tls-key are for --cluster tls://...")
    checks = list(examine(cluster, found))
    console_for(sys.stdout).print(checks_table(checks))
    if any(check.status == "fail" for check in checks):
        context.exit(DIFFERENT)


@cli.command()
def schema() -> None:
    """Write the JSON schema of a pipeline."""
    from deepstrata.schemas.pipelines import Pipeline

    click.echo(json.dumps(Pipeline.model_json_schema(), indent=2))


def report_of(run: "Run", path: str) -> str | None:
    """Return the report's path below the run's as it was given."""
    return run.report and run.report.replace(run.path, path, 1)
