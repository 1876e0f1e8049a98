"""`rollstream-worker` and `python -m rollstream.worker` are the same command. Imports nothing until it is called.

vLLM's EngineCore is a new process that imports its parent's main module first: what stands here it would wait for.
"""

import sys


def main() -> int:
    """See `worker.command.main`."""
    # First of all: a worker that still loads holds nothing, and ends at once without a traceback.
    from .operations.process_end import end_on_signals  # noqa: PLC0415 - see above

    end_on_signals()
    from .command import main as command  # noqa: PLC0415 - see above

    return command()


if __name__ == "__main__":
    sys.exit(main())
