"""`rollstream` and `python -m rollstream` are the same command; Ctrl-C while it still loads is as quiet as later."""

import os
import sys


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        # Most of a second, in which Ctrl-C must find us here.
        from rollstream.producer.cli.app import app  # noqa: PLC0415 - see above
        from rollstream.producer.cli.shell.completion import prepare  # noqa: PLC0415 - see above
        from rollstream.producer.cli.usage import usage_problem  # noqa: PLC0415 - see above
    except KeyboardInterrupt:
        sys.exit(130)
    if not prepare() and (problem := usage_problem(sys.argv[1:], os.environ)):
        sys.stderr.write(f"rollstream: {problem}\n")
        sys.exit(2)
    app(prog_name="rollstream")


if __name__ == "__main__":
    main()
