"""`rollstream exporter` as it is, but for how often it reads Redis: a day of the trial is minutes long.

`python -m tests.autoscaling.exporter URL POLICY PORT`
"""

from __future__ import annotations

import asyncio
import sys

from rollstream.producer.observe import exporter
from rollstream.schemas import Keys

FRESH_S = 0.05


def main(url: str, policy: str, port: str) -> int:
    exporter.FRESH_S = FRESH_S
    return asyncio.run(exporter.export(url, Keys(policy), host="127.0.0.1", port=int(port), say=lambda _line: None))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
