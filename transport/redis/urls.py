"""Read Redis URLs for producers, workers and the command line; show them without credentials."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote

from rollstream.schemas.errors import SchemaError

CLUSTER_PREFIXES = "redis+cluster:// or rediss+cluster://"
SENTINEL_FORM = "redis+sentinel://host:26379,host:26379/service"
KNOWN = (
    f"redis://, rediss:// (TLS), unix:///path or, for a cluster, {CLUSTER_PREFIXES}, "
    f"or, with Sentinels, {SENTINEL_FORM} (or rediss+sentinel://)"
)
ENCODE = "percent-encode special characters of user and password: % is %25, / is %2F, ? is %3F, # is %23, @ is %40"
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel", "unix")
_OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval"})
_TLS_OPTIONS = frozenset({
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
    "ssl_check_hostname",
})  # fmt: skip
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
"""The login of the Sentinels themselves, which is not that of the servers that they watch."""
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,100}")
_CHOICES: Mapping[str, Mapping[str, str | bool]] = {
    "ssl_cert_reqs": {"required": "required", "optional": "optional", "none": "none"},
    "ssl_check_hostname": {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False},
}
_OPTION = re.compile(r"[A-Za-z0-9_]{1,40}=")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_LONGEST_LABEL = 63
_LONGEST_PATH = 107
"""The most bytes that Linux takes as the path of a socket."""

Address = tuple[str, int]


class RedisUrlError(SchemaError):
    """Raised for an invalid Redis URL. No field has a password; `url` is the part of the URL that may be shown."""

    def __init__(self, url: str, problem: str, advice: str) -> None:
        super().__init__(f"{url}: {problem}; {advice}")
        self.url = url
        self.problem = problem
        self.advice = advice


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """A Redis URL that was read. Its `str()` is for logs and errors and has no credentials."""

    shown: str
    scheme: str
    nodes: tuple[Address, ...]
    """One node, those of a cluster that the URL names, or the Sentinels; none for a unix socket."""
    path: str
    """The path of a unix socket; else empty."""
    options: Mapping[str, Any] = field(repr=False)
    """Options of redis-py's connection: database, login, TLS and names."""
    service: str = ""
    """What the Sentinels call the servers that they watch; empty without Sentinels."""
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)
    """User and password of the Sentinels, as redis-py's connection calls them."""

    def __str__(self) -> str:
        return self.shown

    @property
    def is_cluster(self) -> bool:
        """Whether the URL names nodes of a Redis Cluster."""
        return self.scheme.endswith("+cluster")

    @property
    def is_sentinel(self) -> bool:
        """Whether the URL names Sentinels, which say where the primary is."""
        return self.scheme.endswith("+sentinel")

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.startswith("rediss")

    @property
    def is_unchecked(self) -> bool:
        """Whether any certificate is believed."""
        return self.options.get("ssl_cert_reqs") == "none"


def parse(url: str) -> RedisUrl:
    """Read a URL. Raises `RedisUrlError`, which says what is wrong and shows nothing that may be a password."""
    try:
        return _Parser(url).parsed()
    except _Refusal as refusal:
        raise RedisUrlError(without_password(url), f"not a Redis URL: {refusal.problem}", refusal.advice) from None


def without_password(url: str) -> str:
    """`url` for logs and errors, without login and options; only the scheme if the URL cannot be read."""
    try:
        return _Parser(url).shown()
    except _Refusal:
        scheme, found, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
        return f"{scheme}://***" if found and scheme in _SCHEMES else "***"


class _Refusal(Exception):
    def __init__(self, problem: str, advice: str = f"write {KNOWN}") -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice


class _Parser:
    """Splits the text at the URL's separators, and refuses it if a separator may be part of a password."""

    def __init__(self, url: str) -> None:
        if not isinstance(url, str):
            raise _Refusal("it is no text")
        self.scheme, found, rest = url.partition("://")
        if not found or self.scheme not in _SCHEMES:
            raise _Refusal("it begins otherwise")
        if "#" in rest or not rest.isprintable() or " " in rest:
            raise _Refusal("it holds a # or a space", ENCODE)
        before, _, self.query = rest.partition("?")
        if "@" in self.query or not all(map(_OPTION.match, filter(None, self.query.split("&")))):
            raise _Refusal("what follows its ? is no name=value", ENCODE)
        authority, slash, path = before.partition("/")
        self.path = slash + path
        self.login, self.at, self.hosts = authority.rpartition("@")
        if "@" in self.path and self.scheme != "unix":
            raise _Refusal("there is an @ after a /", ENCODE)
        self.nodes = self._nodes()
        self.service = self._service() if self.scheme.endswith("+sentinel") else ""
        self.database = self._database()

    def shown(self) -> str:
        secret = bool(self.login) or re.search(r"(^|&)(sentinel_)?(username|password)=", self.query)
        return f"{self.scheme}://{'***@' if secret else ''}{self.hosts}{self.path}"

    def parsed(self) -> RedisUrl:
        options = self._options()
        login = {ours: options.pop(name) for name, ours in _OF_SENTINELS.items() if name in options}
        for name, value in self._credentials().items():
            if name in options:
                raise _Refusal(f"it says {name} twice", "write it before the @ or after the ?, not both")
            options[name] = value
        if self.database is not None and options.setdefault("db", self.database) != self.database:
            raise _Refusal("it names two databases", "write one, after the / or as db=")
        if self.scheme.endswith("+cluster") and options.get("db"):
            raise _Refusal("a Redis Cluster has database 0 alone", "leave the database out")
        return RedisUrl(
            shown=self.shown(),
            scheme=self.scheme,
            nodes=self.nodes,
            path=self._socket(),
            options=options,
            service=self.service,
            sentinel_login=login,
        )

    def _nodes(self) -> tuple[Address, ...]:
        if self.scheme == "unix":
            self._socket()
            return ()
        hosts = self.hosts.split(",")
        if not self.scheme.endswith(("+cluster", "+sentinel")):
            if len(hosts) > 1:
                problem = f"for a cluster write {CLUSTER_PREFIXES}, and with Sentinels {SENTINEL_FORM}"
                raise _Refusal("it names several nodes", problem)
            return (_node(self.hosts or "localhost"),)
        if "@" in self.login:
            raise _Refusal("one login is for all nodes of a cluster", "write it once, before the first")
        if not all(hosts):
            raise _Refusal("there is a comma without a node", "write host:port,host:port")
        port = SENTINEL_PORT if self.scheme.endswith("+sentinel") else DEFAULT_PORT
        return tuple(_node(host, port) for host in hosts)

    def _service(self) -> str:
        """The service in the path, of which the database stays."""
        service, slash, database = self.path.removeprefix("/").partition("/")
        if not _SERVICE.fullmatch(service):
            raise _Refusal("it names no service of the Sentinels", f"write {SENTINEL_FORM}, such as /mymaster")
        self.database_path = slash + database
        return service

    def _socket(self) -> str:
        if self.scheme != "unix":
            return ""
        if self.hosts or not self.path.strip("/"):
            raise _Refusal("it names no path of a socket", "write unix:///path/of/redis.sock, with three slashes")
        path = _decoded(self.path)
        if len(path.encode()) > _LONGEST_PATH or "\0" in path:
            raise _Refusal(f"a socket's path has at most {_LONGEST_PATH} bytes", "put the socket elsewhere")
        return path

    def _database(self) -> int | None:
        path = self.database_path if self.service else self.path
        if self.scheme == "unix" or not path.strip("/"):
            return None
        return _database(path.removeprefix("/").removesuffix("/"))

    def _credentials(self) -> dict[str, str]:
        username, _, password = self.login.partition(":")
        found = {"username": _decoded(username), "password": _decoded(password)}
        return {name: value for name, value in found.items() if value}

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        known = _OPTIONS | _TLS_OPTIONS if self.scheme.startswith("rediss") else _OPTIONS
        known |= _OF_SENTINELS.keys() if self.service else frozenset()
        for part in filter(None, self.query.split("&")):
            name, _, value = part.partition("=")
            if name not in known:
                raise self._unknown(name, known)
            if name in found:
                raise _Refusal(f"it says {name} twice", "write it once")
            found[name] = _value(name, _decoded(value))
        return found

    @staticmethod
    def _unknown(name: str, known: frozenset[str]) -> _Refusal:
        advice = f"it may set {', '.join(sorted(known))}"
        if name in _TLS_OPTIONS:
            advice += "; TLS is rediss://"
        elif near := difflib.get_close_matches(name, known, 1):
            advice += f"; do you mean {near[0]}?"
        return _Refusal(f"it must not set {name!r}", advice)


def _node(text: str, default_port: int = DEFAULT_PORT) -> Address:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        host = _decoded(host)
        if not bracket or (port and not port.startswith(":")) or not _is_ipv6(host):
            raise _Refusal("an IPv6 address is written [::1]:6379")
    elif text.count(":") > 1:
        raise _Refusal("it has too many colons", f"an IPv6 address is written [::1]:6379; {ENCODE}")
    else:
        host, colon, port = text.partition(":")
        port = colon + port
        if not _HOST.fullmatch(host) or any(len(label) > _LONGEST_LABEL for label in host.split(".")):
            raise _Refusal("it has no valid host name", f"write {KNOWN}; {ENCODE}")
    return host, _port(port.removeprefix(":")) if port else default_port


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise _Refusal("its port is no number from 1 to 65535", f"write host:port; {ENCODE}")
    return int(text)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _database(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise _Refusal("its database is no number", f"write redis://host:port/0; {ENCODE}")
    return int(text)


def _value(name: str, text: str) -> str | int | float | bool:
    if name == "db":
        return _database(text)
    if name == "health_check_interval":
        if not (text.isascii() and text.isdecimal() and len(text) <= 9):
            raise _Refusal(f"{name} is no number of seconds", "write it as 30")
        return int(text)
    if name in _CHOICES:
        if text.lower() not in _CHOICES[name]:
            raise _Refusal(f"{name} is none of {', '.join(_CHOICES[name])}", "write one of them")
        return _CHOICES[name][text.lower()]
    if not text or (name == "client_name" and not (text.isascii() and text.isprintable() and " " not in text)):
        raise _Refusal(f"{name} is empty or holds a space", "write it without, or leave it out")
    return text


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _Refusal("its percent-encoding is no UTF-8", ENCODE) from None
