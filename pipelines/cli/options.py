"""Options that several commands take."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distributed import Security

TLS = "deepstrata.tls"


def _changes(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` pairs; a value is JSON, or else text."""
    changes: dict[str, Any] = {}
    for text in values:
        field, equals, value = text.partition("=")
        if not equals or not field:
            form = str(option.metavar).lower()
            raise click.BadParameter(f"{text!r}: expected {form}", param=option)
        try:
            changes[field] = json.loads(value)
        except ValueError:
            changes[field] = value
    return changes


def options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
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
format_option = click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_changes,
    help="Option of the format, such as rate=8000. VALUE is JSON or else text. May be given "
    "several times.",
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


tls_options = options(
    _tls_option("--tls-ca", "Certificate authority (PEM) of a tls:// cluster. What is not given "
                "is taken from Dask's configuration."),
    _tls_option("--tls-cert", "Certificate (PEM) of this client, signed by that authority."),
    _tls_option("--tls-key", "Its key (PEM), if it is not in the same file."),
)  # fmt: skip
cluster_options = options(
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


def memory_size(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
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


def security() -> "Security | None":
    """Return what the options for TLS say."""
    from deepstrata.pipelines.scheduler import security_from

    return security_from(**click.get_current_context().meta.get(TLS, {}))
