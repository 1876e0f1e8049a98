"""A password file that belongs to another user, as one that is mounted into a container, may be readable for all."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from rollstream.transport.redis.password_file import warn_if_open

SOMEBODY = 54321


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
@pytest.mark.parametrize(
    ("owner", "mode", "warns"),
    [
        (SOMEBODY, 0o444, False),
        (SOMEBODY, 0o640, False),
        (SOMEBODY, 0o446, True),
        (SOMEBODY, 0o464, True),
        (0, 0o444, True),
        (0, 0o400, False),
    ],
)
def test_only_what_somebody_here_can_mend_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, owner: int, mode: int, warns: bool
) -> None:
    tmp_path.chmod(0o755)  # /run/secrets lets all in
    file = tmp_path / "password"
    file.touch(mode)
    file.chmod(mode)
    os.chown(file, owner, owner)

    with caplog.at_level(logging.WARNING, logger="rollstream"):
        warn_if_open(file)

    assert bool(caplog.records) == warns
