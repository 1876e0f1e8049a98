"""Where a server listens, and under which names it may be asked there."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address

from rollstream.transport.addresses import NO_SUCH_ADDRESS, is_of_host

from .errors import ServerSetupError

_UNSENT_MS = 30_000
"""A client that takes nothing for so long loses its connection."""


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ServerSetupError`, which names the port if it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ServerSetupError(f"--host {host}", NO_SUCH_ADDRESS) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if is_of_host(error):
            raise ServerSetupError(f"--host {host}", NO_SUCH_ADDRESS) from None
        advice = "give another --port, or --port auto for a free one"
        raise ServerSetupError(f"port {port} of {host}", f"{error.strerror}; {advice}") from None
    return listening


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(address.partition("%")[0]).is_loopback


def known_hosts(host: str, bound: str) -> frozenset[str] | None:
    """Names under which the server may be asked. Any, where others reach it: then the token keeps strangers out.

    At a loopback address another name means that a site in this machine's browser has pointed its own name here.
    """
    if not is_loopback(bound):
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", in_url(host), in_url(bound)})


def in_url(host: str) -> str:
    """`host` as it stands in a URL."""
    return f"[{host}]".lower() if ":" in host else host.lower()


def url_of(host: str, bound: str, port: int) -> str:
    """What to open in a browser. At every address of the machine, its name stands for them."""
    is_any = ip_address(bound.partition("%")[0]).is_unspecified
    return f"http://{in_url(socket.gethostname() if is_any else host)}:{port}/"


def host_name(host: str) -> str:
    """The name in a Host header, without its port. Empty if it is none."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name = host
    elif not (port.isascii() and port.isdigit()):
        return ""
    return name.lower()
