"""`rollstream-worker` and `python -m rollstream.worker` are the same command. It imports nothing until it is called.

vLLM's EngineCore is a new process that first imports its parent's main module, and would wait for imports here.
"""

import atexit
import os
import sys
from collections.abc import Sequence


def main() -> int:
    """See `worker.command.main`."""
    # First of all: a worker that still loads holds no jobs, so a signal ends it at once, without a traceback.
    from .operations.early_end import end_on_signals  # noqa: PLC0415 - see above

    end_on_signals()
    ended: list[int] = []
    atexit.register(_leave, ended)
    from .command import main as command  # noqa: PLC0415 - see above

    ended.append(command())
    return ended[0]


def _leave(ended: Sequence[int]) -> None:
    """End the process with this exit code after all other functions of `atexit`, without freeing what it holds.

    After vLLM was imported these are 650,000 objects, for which Python takes 2 s of a core and the kernel nothing.
    """
    if ended and "vllm" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


if __name__ == "__main__":
    sys.exit(main())
