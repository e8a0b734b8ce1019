"""Commands that plan and run pipelines."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from deepstrata.pipelines.cli.group import RUN, cli
from deepstrata.pipelines.cli.options import (
    cluster_options,
    data_option,
    json_option,
    memory_size,
    options,
    security,
    set_option,
)
from deepstrata.pipelines.cli.results import report_of

if TYPE_CHECKING:
    from distributed import Client

    from deepstrata.pipelines.run import Run
    from deepstrata.schemas.pipelines import Pipeline


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
@options(data_option, set_option)
@click.option("--json", "as_json", is_flag=True, help="Write the plan as one JSON object.")
@click.option(
    "--worker-memory",
    metavar="SIZE",
    callback=memory_size,
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
    from deepstrata.pipelines.parents import check_parents

    limits = planning.Limits(worker_bytes=worker_memory)
    declared = _load(pipeline, data, changes)
    made = planning.plan(declared)
    check_parents(declared, made.visible)
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
@options(data_option, set_option, cluster_options, json_option)
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
@options(set_option, cluster_options, json_option)
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
        connected(cluster, workers, security=security(), observer=observer) as client,
    ):
        done = work(client, observer)
    table = results_table(done.manifest, path, report_of(done, path))
    console_for(sys.stderr if as_json else sys.stdout).print(table)
    if as_json:
        click.echo(json.dumps(summary(done.manifest, done.path)))
