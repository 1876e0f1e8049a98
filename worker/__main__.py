"""`rollstream-worker` and `python -m rollstream.worker` are the same command. It imports nothing until it is called.

vLLM's EngineCore is a new process that first imports its parent's main module, and would wait for imports here.
"""

import sys


def main() -> int:
    """See `worker.command.main`."""
    # First of all: a worker that still loads holds no jobs, so a signal ends it at once, without a traceback.
    from .operations.early_end import end_on_signals  # noqa: PLC0415 - see above

    end_on_signals()
    from .command import main as command  # noqa: PLC0415 - see above

    return command()


if __name__ == "__main__":
    sys.exit(main())
