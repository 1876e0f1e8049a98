"""`rollstream` and `python -m producer` are the same command; Ctrl-C while it still loads is as quiet as later."""

import sys


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        from producer.cli import app  # noqa: PLC0415 - most of a second, in which Ctrl-C must find us here
    except KeyboardInterrupt:
        sys.exit(130)
    app(prog_name="rollstream")


if __name__ == "__main__":
    main()
