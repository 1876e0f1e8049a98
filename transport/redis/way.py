"""How one Redis is reached, from what its access says: plainly, over TLS or by a unix socket."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection

from .access import File, RedisAccess
from .password_file import SENTINELS_SETTING, SETTING, PasswordFile, PasswordFileError, read_password, warn_if_open
from .primary import PrimaryConnection, PrimaryPool
from .sentinels import ANSWER_S, Sentinels
from .tls import TlsConnection, checked_context, warn_if_unchecked
from .urls import Address

_OF_PRIMARY = frozenset({"db", "username", "password", "credential_provider"})
"""Settings that say nothing about Sentinels."""


class Way:
    """Makes pools of connections to the nodes that a URL names, or that these tell of."""

    def __init__(
        self,
        *,
        access: RedisAccess,
        tcp: type[AbstractConnection] = Connection,
        unix: type[AbstractConnection] = UnixDomainSocketConnection,
        pool: type[ConnectionPool] = ConnectionPool,
        max_connections: int | None = None,
        socket_keepalive: bool = False,
        **settings: Any,
    ) -> None:
        """Raises `RedisUrlError`, also for files that cannot be used: no later try would find them better."""
        self.access = access
        self.place = access.place()
        self._pool = pool
        self._max_connections = max_connections
        tls = {name: value for name, value in self.place.options.items() if name.startswith("ssl_")}
        options = {name: value for name, value in self.place.options.items() if name not in tls}
        self._settings: dict[str, Any] = {**settings, **_with_password(access, options, access.password_file)}
        login = dict(self.place.sentinel_login)
        self._of_sentinels = _with_password(access, login, access.sentinel_password_file, SENTINELS_SETTING)
        self._class = tcp if self.place.nodes else unix
        if self.place.nodes:
            self._settings["socket_keepalive"] = socket_keepalive
        if self.place.is_tls:
            self._class = TlsConnection
            self._settings["tls"] = checked_context(access, tls)
            warn_if_unchecked(self.place)

    def to_primary(self) -> ConnectionPool:
        """Connections to the primary that the Sentinels name, whichever it is then."""
        connection = type("PrimaryConnection", (PrimaryConnection, self._class), {})
        pool = type("PrimaryPool", (PrimaryPool, self._pool), {})
        made: ConnectionPool = pool(
            connection, self._max_connections, sentinels=self._sentinels(), service=self.place.service, **self._settings
        )
        return made

    def _sentinels(self) -> Sentinels:
        """Clients of the Sentinels: the same TLS, a login of their own, and no patience."""
        theirs = {name: value for name, value in self._settings.items() if name not in _OF_PRIMARY}
        waits = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S}
        settings: dict[str, Any] = {**theirs, **waits, **self._of_sentinels}

        def client(host: str, port: int) -> Redis:
            return Redis.from_pool(ConnectionPool(self._class, None, **settings, host=host, port=port))

        return Sentinels({node: client(*node) for node in self.place.nodes})

    def to(self, node: Address | None = None) -> ConnectionPool:
        """Connections to `node`, or else to the first that the URL names."""
        if not self.place.nodes:
            where: dict[str, Any] = {"path": self.place.path}
        else:
            where = dict(zip(("host", "port"), node or self.place.nodes[0], strict=True))
        return self._pool(self._class, self._max_connections, **self._settings, **where)


def _with_password(
    access: RedisAccess, options: dict[str, Any], file: File | None, setting: str = SETTING
) -> dict[str, Any]:
    """The options of a connection, with what gives the password if that is in a file. Raises `RedisUrlError`."""
    if file is None:
        return options
    try:
        read_password(file, setting)
    except PasswordFileError as error:
        raise access.refusal(str(error), "name a file that holds the password, and that we may read") from None
    warn_if_open(file, setting)
    provider = PasswordFile(file, username=options.pop("username", None), setting=setting)
    return {**options, "credential_provider": provider}
