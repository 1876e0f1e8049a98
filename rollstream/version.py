"""The version, in this one place: pyproject.toml reads it here, and so do both commands, from a checkout too."""

__version__ = "0.2.0"
