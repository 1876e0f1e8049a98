"""Gateways of stub workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway.chat_tokenizer import write_chat_tokenizer
from tests.support.gateway.served import Gateway, gateway_of
from tests.support.partials.partial_steps import serving

VOCAB = 512


@pytest.fixture(scope="session")
def chat_tokenizer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tiny_model, tmp_path_factory.mktemp("chat") / "tokenizer")


@pytest.fixture
async def alone(redis_url: str, policy: str, chat_tokenizer: Path) -> AsyncIterator[Gateway]:
    """A gateway without any worker."""
    async with gateway_of(redis_url, policy, chat_tokenizer) as gateway:
        yield gateway


@pytest.fixture
async def gateway(redis_url: str, policy: str, alone: Gateway) -> AsyncIterator[Gateway]:
    """A gateway with a stub worker, which takes no time to sample."""
    async with serving(redis_url, policy, stub_vocab_size=VOCAB, stub_tokens_per_s=0):
        yield alone
