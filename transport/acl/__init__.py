"""Who may send what: one table of the rights of each role, printed as `ACL SETUSER` and asked of a server by name.

Nothing here knows why a command is sent; a test holds the table to what is.
"""

from .missing import is_old, missing_rights, named, other_login, remedy
from .setuser import LOCKED, Server, User, setuser
from .table import Right, Role, rights_of

__all__ = [
    "LOCKED",
    "Right",
    "Role",
    "Server",
    "User",
    "is_old",
    "missing_rights",
    "named",
    "other_login",
    "remedy",
    "rights_of",
    "setuser",
]
