"""Chat formats, each made once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from rollstream.producer.gateway.chat import ChatFormat
from tests.support.chat.tokenizers import saved


@pytest.fixture(scope="session")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatFormat]:
    """The format of a family by its name."""
    folder = tmp_path_factory.mktemp("chat")
    return cache(lambda family: ChatFormat.of(saved(family, folder / family)))
