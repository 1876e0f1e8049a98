"""Why no TLS connection to a Redis comes about, and what to do. Asked once a connection has failed.

redis-py's own error often says no more than that the connection was closed: under TLS 1.3 a server refuses our
certificate after the handshake, and a server that expects TLS closes on a plain command. So the server is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions

from .access import RedisAccess
from .sentinel_errors import SentinelError, SentinelsAwayError
from .tls import checked_context
from .urls import Address, RedisUrl, RedisUrlError

_LIMIT_S = 2.0
_ALERT_S = 1.0
"""How long after a handshake a refusal of our certificate may take to come."""
_MOST_NODES = 3
_NO_TLS = (
    None,
    "WRONG_VERSION_NUMBER",
    "UNEXPECTED_EOF_WHILE_READING",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)
"""OpenSSL's reasons for an answer that is no TLS, or for a closed connection."""
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's codes (X509_V_ERR_...) of what is wrong with a certificate."""


class Problem(NamedTuple):
    """What is wrong with the encryption, and what to do about it."""

    text: str
    advice: str


async def tls_problem(error: BaseException | None, access: RedisAccess) -> Problem | None:
    """What is wrong, if `error` came of the encryption or of its lack; None if not, or if it is not known."""
    if refused := next((each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError)), None):
        return _of_theirs(refused, access)
    if isinstance(error, SentinelError) and not isinstance(error, SentinelsAwayError):
        return None  # a Sentinel has answered
    try:
        place = access.place()
    except RedisUrlError:
        return None
    if not isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return None
    nodes = place.nodes[:_MOST_NODES]
    found = await asyncio.gather(*(_problem_at(node, place, access) for node in nodes))
    return next(filter(None, found), None)


async def _problem_at(node: Address, place: RedisUrl, access: RedisAccess) -> Problem | None:
    if not place.is_tls:
        advice = f"write {place.scheme.replace('redis', 'rediss')}://"
        return Problem("it speaks TLS", advice) if await _speaks_tls(node) else None
    try:
        return await _refusal(node, place, access)
    except ssl.SSLError as error:
        if error.reason not in _NO_TLS:
            return _of_handshake(error, place, access)
    except (OSError, TimeoutError, RedisUrlError):
        pass
    advice = f"write {place.scheme.replace('rediss', 'redis')}://, or name its tls-port"
    return Problem("it speaks no TLS", advice) if await _speaks_plainly(node) else None


def _of_handshake(error: ssl.SSLError, place: RedisUrl, access: RedisAccess) -> Problem:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_theirs(error, access)
    return _of_ours(error.reason or "", access, place)


async def _refusal(node: Address, place: RedisUrl, access: RedisAccess) -> Problem | None:
    """Shake hands as a client would, then listen: a server that takes our certificate says nothing."""
    tls = {name: value for name, value in place.options.items() if name.startswith("ssl_")}
    context = checked_context(access, tls).get()
    async with asyncio.timeout(_LIMIT_S + _ALERT_S):
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_connection(*node, ssl=context)
        try:
            async with asyncio.timeout(_ALERT_S):
                said = await reader.read(16)
        except TimeoutError:
            return None
        finally:
            await _closed(writer)
    return None if said else _of_ours("it hung up after the handshake", access, place)


def _of_theirs(error: ssl.SSLCertVerificationError, access: RedisAccess) -> Problem:
    said = (error.verify_message or error.reason or str(error)).rstrip(".")
    if error.verify_code == _EXPIRED:
        return Problem(
            f"its certificate is not to be trusted ({said})", "have it renewed; or this machine's clock is wrong"
        )
    if error.verify_code == _NOT_YET_VALID:
        return Problem(f"its certificate is not to be trusted ({said})", "see its first day, and this machine's clock")
    if error.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
        return Problem(
            f"its certificate is not to be trusted ({said})",
            "write a name into the URL that the certificate has, or have one made for this name (subjectAltName)",
        )
    option = access.called("ssl_ca_certs")
    return Problem(
        f"its certificate is not to be trusted ({said})", f"name the file of the CA that signed it: {option}"
    )


def _of_ours(reason: str, access: RedisAccess, place: RedisUrl) -> Problem:
    """What the server has against us, by its alert."""
    cert, key = access.called("ssl_certfile"), access.called("ssl_keyfile")
    said = reason.replace("_", " ").lower()
    file = place.options.get("ssl_certfile")
    if file is None:
        return Problem(f"it wants a certificate of ours ({said})", f"give {cert} and {key}")
    if "EXPIRED" in reason:
        return Problem(f"our certificate has expired ({cert}={file})", "have it renewed")
    advice = "have one made by a CA that it trusts (its tls-ca-cert-file), valid now"
    return Problem(f"it refuses our certificate ({cert}={file}: {said})", advice)


async def _speaks_tls(node: Address) -> bool:
    """Whether a TLS handshake is answered in TLS, with any certificate; a refusal counts too."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_LIMIT_S):
            _, writer = await asyncio.open_connection(*node, ssl=anybody)
    except ssl.SSLError as error:
        return error.reason not in _NO_TLS
    except (OSError, TimeoutError):
        return False
    await _closed(writer)
    return True


async def _speaks_plainly(node: Address) -> bool:
    """Whether a PING is answered as Redis answers, even if only with a demand for a password."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_connection(*node)
            writer.write(b"PING\r\n")
            answer = await reader.read(16)
    except (OSError, TimeoutError):
        return False
    await _closed(writer)
    return answer.startswith((b"+PONG", b"-"))


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            await writer.wait_closed()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the errors from which it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
