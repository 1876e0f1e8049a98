"""Makes what the application is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rollstream.schemas import Keys

from ..batches.tokenizer_folder import read_tokenizer
from ..client import AsyncClient
from ..observe.served import Served
from ..redis_io.connection import Connection
from .answers.decoder import Decoder
from .chat import ChatFormat
from .completions import Completions
from .conversations import Conversations
from .errors import ApiError
from .gate import Rules
from .orders import Orders
from .parts_feed import PartsFeed
from .requests.asked import Terms
from .requests.chat import chat_asked
from .requests.completion import completion_asked
from .settings import GatewaySettings
from .site import Kind, Site
from .tokenizing import Tokenizing


def make_site(
    settings: GatewaySettings, *, rules: Rules, client: AsyncClient, connection: Connection, keys: Keys
) -> Site:
    """Raises `ChatTemplateError` and `PromptFileError` for the tokenizer's folder, which is read here."""
    tokenizer, chat = _read(settings.tokenizer, settings.tool_calls, has_chat=True)
    another, reader = _read(settings.tokenizer, settings.tool_calls, has_chat=chat is not None)  # for the event loop
    tokenizing = Tokenizing(tokenizer=tokenizer, most_waiting=2 * settings.bounds.most_body)
    served = Served(program="gateway", connection=connection, keys=keys)
    orders, decoder = Orders(timeout_s=settings.timeout_s, tokenizing=tokenizing, served=served), Decoder(another)
    completions = Completions(client=client, tokenizing=tokenizing, decoder=decoder, orders=orders)
    return Site(
        terms=_terms(settings, reader),
        rules=rules,
        bounds=settings.bounds,
        orders=orders,
        feed=PartsFeed(connection=connection, keys=keys),
        connection=connection,
        completions=Kind(read=completion_asked, submit=completions.submit, form=completions.form),
        chat=_chat_kind(chat, reader, client, tokenizing, decoder, orders, settings.session_retention_s),
    )


def _read(folder: Path, tool_calls: str, *, has_chat: bool) -> tuple[Any, ChatFormat | None]:
    """The tokenizer, and its chat template's format; None if it has no template: then only prompts can be sent."""
    tokenizer = read_tokenizer(folder)
    if not has_chat or not getattr(tokenizer, "chat_template", None):
        return tokenizer, None
    chat = ChatFormat.of(folder, tool_calls=tool_calls)
    return chat.tokenizer, chat


def _terms(settings: GatewaySettings, chat: ChatFormat | None) -> Terms:
    terms = Terms(
        policy=settings.policy,
        max_tokens=settings.max_tokens,
        max_completions=settings.max_completions,
        max_characters=settings.max_characters,
    )
    if chat is None:
        return terms
    return replace(terms, has_chat=True, end_ids=chat.end_ids, grows=chat.grows, forced_call=chat.forced_call)


def _chat_kind(
    chat: ChatFormat | None,
    reader: ChatFormat | None,
    client: AsyncClient,
    tokenizing: Tokenizing,
    decoder: Decoder,
    orders: Orders,
    retention_s: float,
) -> Kind:
    if chat is None or reader is None:
        return Kind(read=chat_asked, submit=_refuse, form=_refuse)
    of_chat = Conversations(
        client=client,
        tokenizing=tokenizing,
        chat=chat,
        reader=reader,
        decoder=decoder,
        orders=orders,
        retention_s=retention_s,
    )
    return Kind(read=chat_asked, submit=of_chat.submit, form=of_chat.form)


async def _refuse(*_asked: object) -> NoReturn:
    raise ApiError(400, "this model has no chat template: use /v1/completions", "messages", "no_chat_template")
