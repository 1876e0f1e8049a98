"""`rollstream-worker` and `python -m worker` are the same command. Imports nothing until it is called.

vLLM's EngineCore is a new process that imports its parent's main module first: what stands here it would wait for.
"""

import signal
import sys


def main() -> int:
    """See `worker.command.main`."""
    # A worker that loads its model holds nothing yet: it may end at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from worker.command import main as command  # noqa: PLC0415 - see above

    return command()


if __name__ == "__main__":
    sys.exit(main())
