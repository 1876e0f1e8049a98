"""Workers that start at the same moment on one disk: neither takes the other's new folder for a dead one's."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from rollstream.worker import cache_folder
from rollstream.worker.cache_folder import CacheFolder


@pytest.mark.parametrize("is_gone", [True, False], ids=["it is gone", "it is being removed"])
def test_a_folder_that_another_worker_takes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    flock, taken = fcntl.flock, list[Path]()

    def late(lock: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob("rollstream-*"))
            if not is_gone:
                raise BlockingIOError
            cache_folder._remove_left(taken[0])
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    cache = CacheFolder(tmp_path)

    cache.open()

    assert (cache.folder / ".lock").exists()
    assert taken != [cache.folder]
    cache_folder._remove_left(cache.folder)
    assert cache.folder.exists()
    cache.close()
    assert not cache.folder.exists()
