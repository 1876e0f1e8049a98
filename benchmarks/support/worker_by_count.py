"""A worker that admits sequences by their count alone, however full its engine's memory is."""

import sys


def serve() -> int:
    """As `rollstream-worker`."""
    from rollstream.worker.__main__ import main as worker  # noqa: PLC0415 - vLLM's processes import this module again
    from rollstream.worker.delivery.admission import Admission  # noqa: PLC0415

    setattr(Admission, "hold_to", lambda _admission, _bound: None)  # noqa: B010 - the one difference
    return worker()


if __name__ == "__main__":
    sys.exit(serve())
