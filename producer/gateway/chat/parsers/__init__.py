"""How models write calls of tools in their replies, one module a way of writing.

What is no whole call of a known tool stays text: nothing is repaired, and nothing here raises.
"""

from .names import NAMES, parser_named
from .parsed import FoundCall, Known, Parsed, Parser

__all__ = ["NAMES", "FoundCall", "Known", "Parsed", "Parser", "parser_named"]
