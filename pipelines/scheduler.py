"""A scheduler that somebody else started: its address, its certificates, and first contact.

Dask's own errors for a wrong address or certificate name neither and may come late or never (a
dashboard's port lets a client wait for ever), so a plain socket is tried before Dask's client.
"""

import ipaddress
import socket
import ssl
from typing import NamedTuple

import dask
from distributed import Security
from distributed.comm.addressing import parse_host_port
from distributed.comm.registry import get_backend
from distributed.utils import import_term

from deepstrata.schemas.errors import ClusterError

EXAMPLES = "tcp://10.0.0.1:8786 or tls://10.0.0.1:8786"
ENCRYPTED = ("tls", "wss")
PROBED = ("tcp", "tls")
PATIENCE = 1.0  #: seconds in which a scheduler greets, or else is asked whether it speaks TLS
#: What a file of certificates or keys in PEM form says of itself.
CERTIFICATE, KEY = b" CERTIFICATE-----", b" PRIVATE KEY-----"


class Address(NamedTuple):
    """Where a scheduler listens."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> Address | None:
    """Return the parts of an address; None for ``inproc``, which has no host.

    Raises
    ------
    ClusterError
        It has no protocol of Dask, no host or no port.
    """
    scheme, separator, place = text.partition("://")
    if not separator:
        scheme, place = "tcp", text
    try:
        get_backend(scheme)
    except ValueError:
        hint = "; the dashboard is at http://, not the scheduler" if scheme[:4] == "http" else ""
        raise ClusterError(
            f"--cluster {text!r}: expected a scheduler's address such as {EXAMPLES}, found the "
            f"protocol {scheme!r}{hint}"
        ) from None
    if scheme == "inproc":
        return None
    try:
        host, port = parse_host_port(place)
    except ValueError:
        host, port = "", 0
    if not host or not 0 < port < 65536:
        raise ClusterError(
            f"--cluster {text!r}: expected a host and a port from 1 to 65535, such as {EXAMPLES}"
        )
    return Address(scheme, host, port)


def security_from(
    ca: str | None = None, cert: str | None = None, key: str | None = None
) -> Security | None:
    """Return what Dask's client needs for TLS; what is not given is in Dask's configuration."""
    fields = {"tls_ca_file": ca, "tls_client_cert": cert, "tls_client_key": key}
    given = {name: value for name, value in fields.items() if value is not None}
    return Security(require_encryption=True, **given) if given else None


def tls_context(address: Address, security: Security) -> ssl.SSLContext | None:
    """Return the context of an encrypted connection, None for an address without encryption.

    Raises
    ------
    ClusterError
        Certificates are missing, cannot be read, do not fit each other, or would not be used.
    """
    if address.scheme not in ENCRYPTED:
        if security.require_encryption:
            raise ClusterError(
                f"{address} is not encrypted, and certificates are given (or Dask's configuration "
                f"requires encryption): expected tls://{str(address).partition('://')[2]}"
            )
        return None
    files = security.get_tls_config_for_role("client")
    if not (files["ca_file"] and files["cert"]):
        raise ClusterError(
            f"{address} needs the file of a certificate authority and a certificate and key that "
            "it has signed: give --tls-ca, --tls-cert and --tls-key (in Python: "
            "connect(..., security=distributed.Security(...))), or set distributed.comm.tls."
            "ca-file, client.cert and client.key in Dask's configuration"
        )
    if not any("\n" in (name or "") for name in files.values()):  # otherwise they are no files
        _check_files(files["ca_file"], files["cert"], files["key"])
    context: ssl.SSLContext = security.get_connection_args("client")["ssl_context"]
    return context


def _check_files(ca: str, cert: str, key: str | None) -> None:
    """Check that the files can be read, are what they should be, and fit each other."""
    _check_pem("certificate authority", ca, CERTIFICATE)
    _check_pem("certificate", cert, CERTIFICATE)
    hint = "" if key else "; give --tls-key if the key is in a file of its own"
    _check_pem("key", key or cert, KEY, hint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ClusterError(f"TLS certificate authority {ca} is damaged ({error})") from None
    try:
        context.load_cert_chain(cert, key, password=lambda: _refuse(key or cert))
    except ssl.SSLError as error:
        pair = f"TLS certificate {cert} and key {key or cert}"
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ClusterError(f"{pair} do not belong together") from None
        raise ClusterError(f"{pair} cannot be used ({error})") from None


def _check_pem(what: str, path: str, label: bytes, hint: str = "") -> None:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ClusterError(f"TLS {what} {path} cannot be read: {error.strerror}") from None
    if label not in content:
        expected = f"expected PEM text with '{label.decode().strip(' -')}'"
        raise ClusterError(f"TLS {what} {path}: {expected}, found none{hint}")


def _refuse(path: str) -> str:
    """Answer in OpenSSL's stead, which would ask for a password on the terminal."""
    raise ClusterError(f"TLS key {path} is encrypted; give one without a password")


def is_private(address: Address) -> bool:
    """Tell whether a connection is encrypted, or does not leave this machine."""
    if address.scheme in ENCRYPTED:
        return True
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(place[0]).is_loopback for *_, place in found)


def prepare(address: Address, security: Security | None, seconds: float) -> Security:
    """Return what Dask's client needs, when certificates are in order and a scheduler answers.

    Raises
    ------
    ClusterError
        Certificates are missing or wrong, nothing answers, something else than a scheduler does, or
        one side refuses the other's certificate.
    """
    security = security or loaded(str(address))
    context = tls_context(address, security)
    if address.scheme in PROBED:
        with _connected(address, seconds) as connection:
            if context is None:
                _greet_plain(address, connection, seconds)
            else:
                _greet_encrypted(address, connection, context, security)
    return security


def loaded(address: str) -> Security:
    """Return what Dask is configured to use: of files, or of a loader of the user's."""
    loader = dask.config.get("distributed.client.security-loader")
    found: Security | None = import_term(loader)({"address": address}) if loader else None
    return found or Security()


def _connected(address: Address, seconds: float) -> socket.socket:
    try:
        return socket.create_connection((address.host, address.port), timeout=seconds)
    except socket.gaierror as error:
        raise ClusterError(f"{address}: no host {address.host!r} is known ({error})") from None
    except OSError as error:
        raise unanswered(address, seconds, error) from None


def unanswered(address: object, seconds: float, error: BaseException) -> ClusterError:
    """Return the error for a scheduler that is not there."""
    return ClusterError(
        f"no scheduler answers at {address} within {seconds:g} seconds ({error}); "
        "is the address right, and is `dask scheduler` running there?"
    )


def _greet_plain(address: Address, connection: socket.socket, seconds: float) -> None:
    """Wait for the first bytes: a scheduler speaks first, TLS and HTTP wait to be spoken to."""
    if _first_bytes(connection, PATIENCE):
        return
    if _speaks_tls(address):
        raise ClusterError(
            f"the scheduler at {address} speaks TLS: use tls://{str(address).partition('://')[2]}"
        )
    if not _first_bytes(connection, seconds):
        raise ClusterError(
            f"what listens at {address} is no Dask scheduler; is this another port of it, such as "
            "the dashboard's?"
        )


def _first_bytes(connection: socket.socket, seconds: float) -> bytes:
    connection.settimeout(seconds)
    try:
        return connection.recv(8)
    except OSError:
        return b""


def _speaks_tls(address: Address) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=PATIENCE) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it answers in TLS that it wants a certificate
    except OSError:
        return False


def _shown(file: str) -> str:
    return "memory" if "\n" in file else file


def _greet_encrypted(
    address: Address, connection: socket.socket, context: ssl.SSLContext, security: Security
) -> None:
    files = security.get_tls_config_for_role("client")
    ca, cert = _shown(files["ca_file"]), _shown(files["cert"])
    try:
        with context.wrap_socket(connection) as secure:
            answer = secure.recv(8)
    except ssl.SSLCertVerificationError as error:
        raise ClusterError(
            f"the certificate of the scheduler at {address} is not accepted "
            f"({error.verify_message}): is it signed by the authority in {ca}?"
        ) from None
    except (ssl.SSLEOFError, ConnectionError):
        answer = b""
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            raise ClusterError(
                f"what listens at {address} does not speak TLS; is it the scheduler's port, and "
                "was the scheduler started with --tls-ca-file, --tls-cert and --tls-key?"
            ) from None
        answer = b""
    except OSError as error:
        raise unanswered(address, connection.gettimeout() or 0, error) from None
    if not answer:
        raise ClusterError(
            f"the scheduler at {address} closed the connection: it does not accept the "
            f"certificate in {cert}; is that signed by the authority that the scheduler trusts?"
        )
