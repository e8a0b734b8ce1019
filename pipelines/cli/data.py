"""Commands that prepare data."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from deepstrata.pipelines.cli.group import cli
from deepstrata.pipelines.cli.options import format_option, memory_size


@cli.command(
    epilog="""
    deepstrata ingest idx mnist/ mnist.zarr
    deepstrata ingest csv table.csv table.zarr
    deepstrata ingest netcdf air.nc air.zarr --sample-dim time
    deepstrata ingest images photos/ photos.zarr --option size=[32,32]
    deepstrata ingest wav fsdd/ fsdd.zarr --option 'names=(?P<label>[0-9])_(?P<speaker>[a-z]+)'
    deepstrata ingest svmlight reviews/ reviews.zarr --option features=5000
    deepstrata ingest hdf5 usps.h5 usps.zarr
    deepstrata ingest digits - digits.zarr
"""
)
@click.argument("format")
@click.argument("source")
@click.argument("dest")
@click.option("--sample-dim", metavar="NAME", help="Dimension that counts samples.")
@format_option
def ingest(
    format: str, source: str, dest: str, sample_dim: str | None, options: dict[str, Any]
) -> None:
    """Write files of another format as Zarr, in shards of a good size.

    DEST becomes a Zarr v3 group. FORMAT is one of

    \b
      idx       the four files of an MNIST-like set, gzipped or not
      npy, npz  one array of NumPy, or several
      csv       a table with a header, gzipped or not
      netcdf, zarr
      hdf5      arrays of one group, or of groups alike such as train and test
                options: groups, variables
      images    a folder for each class; options: size, mode
      wav       recordings, as spectrograms in dB
                options: frame, hop, frames, rate, floor
      svmlight  sparse text, one file or several; options: features, zero_based
      digits    scikit-learn's, which need no SOURCE: give "-"
      patches   cut from pictures of a Zarr group, or of scikit-learn's with "-"
                options: size, patches

    images, wav and svmlight take the options names and test too: regular expressions that find
    variables, and the test set, in the paths of files; images and wav take shuffle.
    docs/formats.md says more.
    """
    from deepstrata.pipelines.report.terminal import console_for, schema_table
    from deepstrata.schemas.formats import declared
    from deepstrata.storage.ingest import ingest as write

    if options:
        declared(format, options)
    path = None if source == "-" else source
    schema = write(format, path, dest, sample_dim=sample_dim, **options)
    console_for(sys.stdout).print(schema_table(schema, dest))


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
    callback=memory_size,
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
