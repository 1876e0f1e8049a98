"""Does the server at an address speak TLS, or Redis' protocol without it? Asked when no connection can be made."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from rollstream.transport.redis.urls import Address

_LIMIT_S = 2.0
_NO_TLS = (None, "WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for an answer that is no TLS, or for a closed connection."""


async def speaks_tls(node: Address) -> bool:
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


async def speaks_plainly(node: Address) -> bool:
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
