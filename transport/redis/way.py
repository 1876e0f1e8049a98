"""How one Redis is reached, from a URL that was read: plainly, over TLS or by a unix socket."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, RedisSSLContext

from .urls import Address, RedisUrl, RedisUrlError, parse

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class Way:
    """Makes pools of connections to the nodes that a URL names, or that these tell of."""

    def __init__(
        self,
        *,
        url: str,
        tcp: type[AbstractConnection] = Connection,
        unix: type[AbstractConnection] = UnixDomainSocketConnection,
        pool: type[ConnectionPool] = ConnectionPool,
        max_connections: int | None = None,
        socket_keepalive: bool = False,
        **settings: Any,
    ) -> None:
        """Raises `RedisUrlError`, also for certificates that cannot be read: no later try would find them better."""
        self.place = parse(url)
        self._pool = pool
        self._max_connections = max_connections
        self._settings: dict[str, Any] = {**settings, **self.place.options}
        if not self.place.nodes:
            self._class = unix
            return
        self._settings["socket_keepalive"] = socket_keepalive
        self._class = SSLConnection if self.place.is_tls else tcp
        if self.place.is_tls:
            self._settings.setdefault("ssl_password", "")  # without one OpenSSL asks the terminal, and waits
            _check_tls(self.place, self._settings)

    def to(self, node: Address | None = None) -> ConnectionPool:
        """Connections to `node`, or else to the first that the URL names."""
        if not self.place.nodes:
            where: dict[str, Any] = {"path": self.place.path}
        else:
            where = dict(zip(("host", "port"), node or self.place.nodes[0], strict=True))
        return self._pool(self._class, self._max_connections, **self._settings, **where)


def _check_tls(place: RedisUrl, settings: dict[str, Any]) -> None:
    """Reads what every connection will read."""
    named = {name.removeprefix("ssl_"): value for name, value in settings.items() if name.startswith("ssl_")}
    for name in _FILES:
        if name in settings:
            _check_file(place, name, settings[name])
    try:
        RedisSSLContext(cert_reqs=named.pop("cert_reqs", "required"), **named).get()
    except (OSError, ValueError, TypeError) as error:  # ssl.SSLError is an OSError; a key alone is a TypeError
        what = ", ".join(name for name in settings if name.startswith("ssl_") and name != "ssl_password")
        problem = getattr(error, "reason", None) or getattr(error, "strerror", None) or "they do not fit together"
        raise RedisUrlError(str(place), f"{what or 'TLS'}: cannot be used: {problem}", "check the files") from None


def _check_file(place: RedisUrl, name: str, path: str) -> None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a plain path of the operator's
            file.read(1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "no path"
        raise RedisUrlError(str(place), f"{name}={path}: {problem}", "name a PEM file that can be read") from None
