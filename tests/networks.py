"""Hosts of their own on one machine: Linux's network namespaces, joined by a bridge.

This process is on the bridge too. Addresses are of 198.18.0.0/15, which is kept for tests
(RFC 2544); everything goes when the namespaces do.
"""

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import Literal, Self

Cut = Literal["unplugged", "silent"]
BRIDGE = "bridge"


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.strip())
        raise


def why_not() -> str | None:
    """Return why this machine has no namespaces for us; None where it has."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and Linux's ip command to make network namespaces"
    try:
        with Network("probe"):
            return None
    except subprocess.CalledProcessError as error:
        return f"cannot make network namespaces: {' '.join(error.cmd)}: {error.stderr.strip()}"


class Network:
    """A bridge with a host for each name and a link to this process."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._prefix = f"ds{os.getpid()}"
        self._net = f"198.18.{os.getpid() % 250}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._space(stack, "hub")
            _ip("-n", self._name("hub"), "link", "add", BRIDGE, "type", "bridge")
            _ip("-n", self._name("hub"), "link", "set", BRIDGE, "up")
            for host in self.hosts:
                self._space(stack, host)
                self._join(host, "eth0", "netns", self._name(host))
                inside = ("-n", self._name(host))
                _ip(*inside, "link", "set", "lo", "up")
                _ip(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
                _ip(*inside, "link", "set", "eth0", "up")
            self._join("here", self._prefix)
            # A namespace's links go some time after it; this one's name must be free at once.
            stack.callback(_ip, "link", "delete", self._prefix)
            _ip("address", "add", f"{self._net}.254/24", "dev", self._prefix)
            _ip("link", "set", self._prefix, "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _space(self, stack: ExitStack, host: str) -> None:
        _ip("netns", "add", self._name(host))
        stack.callback(_ip, "netns", "delete", self._name(host))

    def _join(self, host: str, interface: str, *where: str) -> None:
        """Lay a cable from the bridge to an interface, which may be in another namespace."""
        _ip("-n", self._name("hub"), "link", "add", host, "type", "veth",
            "peer", "name", interface, *(where or ("netns", str(os.getpid()))))  # fmt: skip
        self._set(host, "master", BRIDGE, "up")

    def _set(self, host: str, *state: str) -> None:
        _ip("-n", self._name("hub"), "link", "set", host, *state)

    def address(self, host: str) -> str:
        return f"{self._net}.{self.hosts.index(host) + 1}"

    def inside(self, host: str) -> list[str]:
        """Return what to put before a command that shall run on a host."""
        return ["ip", "netns", "exec", self._name(host)]

    def cut(self, host: str, how: Cut) -> None:
        """Pull a host's cable, or drop what it sends and gets while its link seems well."""
        self._set(host, *(("down",) if how == "unplugged" else ("nomaster",)))

    def mend(self, host: str) -> None:
        """Put the cable back."""
        self._set(host, "master", BRIDGE, "up")
