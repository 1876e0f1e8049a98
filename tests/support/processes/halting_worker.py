"""`rollstream-worker` that halts where its environment says so: see `halts`. vLLM's processes import it too."""

import sys

if __name__ == "__main__":
    from rollstream.worker.__main__ import main
    from tests.support.processes import halts

    halts.install()
    sys.exit(main())
