"""Addresses, certificates and versions: what is refused before anything is connected."""

import copy
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from distributed.versions import get_versions
from outside import Certificates

from deepstrata import ClusterError
from deepstrata.pipelines import scheduler, versions
from deepstrata.pipelines.cli import cli
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.events import Notice
from deepstrata.pipelines.scheduler import Address, parse, security_from


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://10.0.0.1:8786", Address("tcp", "10.0.0.1", 8786)),
        ("tls://[::1]:8786", Address("tls", "::1", 8786)),
        ("host:1", Address("tcp", "host", 1)),
        ("inproc://10.0.0.1/1/2", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    found = parse(text)
    assert found == address
    assert found is None or str(found).endswith(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("http://127.0.0.1:8787/status", "protocol 'http'; the dashboard is at http://"),
        ("udp://127.0.0.1:8786", "found the protocol 'udp'"),
        ("tcp://127.0.0.1", "expected a host and a port"),
        ("tcp://127.0.0.1:x", "expected a host and a port"),
        ("tcp://127.0.0.1:8786/status", "expected a host and a port"),
        ("tcp://127.0.0.1:65536", "port from 1 to 65535"),
        ("tcp://:8786", "expected a host and a port"),
        ("tcp://nowhere.invalid:8786", "no host 'nowhere.invalid' is known"),
    ],
)
def test_addresses_that_are_none(text: str, match: str) -> None:
    with pytest.raises(ClusterError, match=match), connect(text):
        pass


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("tcp://127.0.0.1:8786", True),
        ("tcp://localhost:8786", True),
        ("tcp://192.0.2.1:8786", False),
        ("tls://192.0.2.1:8786", True),
        ("ws://192.0.2.1:8786", False),
    ],
)
def test_what_others_could_reach(text: str, private: bool) -> None:
    address = parse(text)
    assert address is not None
    assert scheduler.is_private(address) is private


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where something listens and says nothing, as a web server does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_what_is_no_scheduler(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepstrata.pipelines.cluster.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(scheduler, "PATIENCE", 0.2)
    with pytest.raises(ClusterError, match="is no Dask scheduler.*dashboard"), connect(silent):
        pass


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    made = Certificates(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "empty.pem").write_text("")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return {
        "ca": made.ca,
        "cert": made.cert,
        "key": made.key,
        "other": Certificates(other).key,
        "empty": str(tmp_path / "empty.pem"),
        "none": str(tmp_path / "none.pem"),
        "folder": str(tmp_path),
        "damaged": str(damaged),
    }


@pytest.mark.parametrize(
    ("ca", "cert", "key", "match"),
    [
        ("none", "cert", "key", "authority .*none.pem cannot be read: No such file"),
        ("folder", "cert", "key", "authority .* cannot be read: Is a directory"),
        ("empty", "cert", "key", "authority .*empty.pem: expected PEM text with 'CERTIFICATE'"),
        ("damaged", "cert", "key", "authority .*damaged.pem is damaged"),
        ("ca", "key", "key", "certificate .*key.pem: expected PEM text with 'CERTIFICATE'"),
        ("ca", "cert", None, "key .*cert.pem: .*'PRIVATE KEY'.*give --tls-key"),
        ("ca", "cert", "other", "cert.pem and key .*key.pem do not belong together"),
        ("ca", None, None, "give --tls-ca, --tls-cert and --tls-key"),
    ],
)
def test_files_that_will_not_do(
    files: dict[str, str], ca: str, cert: str | None, key: str | None, match: str
) -> None:
    given = (ca, cert, key)
    security = security_from(*(files[name] if name else None for name in given))
    with (
        pytest.raises(ClusterError, match=match),
        connect("tls://127.0.0.1:1", security=security),
    ):
        pass


def test_an_encrypted_key_asks_nobody(files: dict[str, str], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_private_key(Path(files["key"]).read_bytes(), None)
    locked = key.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    security = security_from(files["ca"], files["cert"], str(tmp_path / "locked.pem"))
    with (
        pytest.raises(ClusterError, match=r"locked\.pem is encrypted"),
        connect("tls://127.0.0.1:1", security=security),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "dbn-digits", "--cluster", "local"), "takes no certificates"),
        (("run", "dbn-digits", "--cluster", "tcp://127.0.0.1:1"), "is not encrypted"),
        (("doctor",), "are for --cluster"),
    ],
)
def test_options_that_would_do_nothing(
    arguments: tuple[str, ...], message: str, files: dict[str, str], tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path / "run")) if arguments[0] == "run" else ()
    result = CliRunner().invoke(cli, [*arguments, *out, "--tls-ca", files["ca"]])
    assert result.exit_code == 2
    assert message in result.stderr


def compare(**elsewhere: dict[str, str]) -> list[str]:
    """Return what is said when the scheduler or a worker has other versions than this process."""
    here = get_versions(packages=versions.COMPARED)
    found: dict[str, Any] = {"client": here, "scheduler": here, "workers": {"tcp://a:1": here}}
    for where, packages in elsewhere.items():
        other = copy.deepcopy(here)
        other["packages"] |= packages
        if where == "scheduler":
            found["scheduler"] = other
        else:
            found["workers"][f"tcp://{where}:1"] = other
    said: list[str] = []

    def observe(event: object) -> None:
        assert isinstance(event, Notice)
        said.append(event.text)

    client: Any = SimpleNamespace(get_versions=lambda packages: found)
    versions.check_versions(client, observe)
    return said


def test_equal_versions_need_no_words() -> None:
    assert compare() == []


@pytest.mark.parametrize("package", ["dask", "distributed"])
@pytest.mark.parametrize(("where", "name"), [("scheduler", "the scheduler"), ("b", "tcp://b:1")])
def test_another_dask_is_refused(package: str, where: str, name: str) -> None:
    with pytest.raises(ClusterError, match=rf"{name} has {package} 1\.0, this is {package} \d"):
        compare(**{where: {package: "1.0"}})


def test_another_python_is_refused_and_another_patch_is_told() -> None:
    major, minor, patch, *_ = get_versions()["packages"]["python"].split(".")
    with pytest.raises(ClusterError, match=rf"worker tcp://b:1 has python {major}\.999\.0, this"):
        compare(b={"python": f"{major}.999.0.final.0"})
    (text,) = compare(b={"python": f"{major}.{minor}.{int(patch) + 1}.final.0"})
    assert text.startswith(f"python is {major}.{minor}.{int(patch) + 1} on worker tcp://b:1, ")


@pytest.mark.parametrize("package", ["numpy", "numba", "zarr", "xarray", "cloudpickle", "msgpack"])
def test_other_packages_are_told_once(package: str) -> None:
    (text,) = compare(b={package: "1.0"}, c={package: "1.0"})
    assert text.startswith(f"{package} is 1.0 on worker tcp://b:1 and 1 more, ")


def test_a_scheduler_computes_nothing() -> None:
    assert compare(scheduler={"numpy": "1.0", "zarr": "1.0"}) == []
