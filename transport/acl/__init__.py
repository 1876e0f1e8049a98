"""Who may send what: one table of the rights of each role, printed as `ACL SETUSER` and asked of a server by name.

Nothing here knows why a command is sent; a test holds the table to what is.
"""

from .missing import missing_rights, named, remedy
from .setuser import PLACEHOLDER, Server, User, setuser
from .table import Right, Role, rights_of

__all__ = [
    "PLACEHOLDER",
    "Right",
    "Role",
    "Server",
    "User",
    "missing_rights",
    "named",
    "remedy",
    "rights_of",
    "setuser",
]
