"""Where a server may listen, and whether host or port is at fault where it cannot."""

from __future__ import annotations

import errno
import socket

NO_SUCH_ADDRESS = "no such address; give one of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
_OF_HOST = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}
"""Not here; a family that this machine lacks; an address of one network card that does not say of which."""

Address = tuple[socket.AddressFamily, str]


def resolve(host: str, port: int) -> Address:
    """The family and the address to bind. Raises `OSError` for a name that is none."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except UnicodeError:  # a part of the name is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from None
    return family, str(address[0])


def is_of_host(error: OSError) -> bool:
    """Whether the host is why nobody can listen there, and not the port."""
    return isinstance(error, socket.gaierror) or error.errno in _OF_HOST
