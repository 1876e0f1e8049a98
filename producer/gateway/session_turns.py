"""Turns of sessions: a request whose messages go on from an earlier reply is submitted after its very tokens."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rollstream.schemas import Completion, GroupResult, Turn
from rollstream.schemas.wire.trainers.sessions import SessionTurn

from ..batches.handle import BatchHandle
from ..client import AsyncClient
from ..errors import UnknownBatchError, UnreadableResultError
from ..sessions.options import TurnOptions
from ..sessions.session import Session
from .answers.chat import reply_of
from .chat import (
    Candidate,
    ChatFormat,
    ChatRequestError,
    NotContinuedError,
    Reply,
    answers,
    candidates,
    is_very,
    reply_digest,
)
from .chat import asked as digest_of
from .completions import options_of
from .errors import ApiError
from .known_replies import KnownReplies
from .orders import Orders
from .requests.asked import ChatAsked
from .tokenizing import Tokenizing

_MOST_SESSIONS = 64
"""Sessions whose turns are remembered, so that each request reads the new ones alone."""
_PARENT_GONE = (
    "the result of the turn that this request id went on from is not kept any more, so nobody can tell whether this is "
    "that request again: send it under another id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The completion that a request goes on from."""

    turn: Turn
    length: int
    """How many of the request's messages come before this completion's own."""
    has_ended: bool
    """Whether its ids have an end of turn."""
    is_very: bool
    """Whether the request has this very reply, not only what it says."""


class SessionTurns:
    """Submits requests that name a session."""

    def __init__(
        self,
        *,
        client: AsyncClient,
        tokenizing: Tokenizing,
        chat: ChatFormat,
        reader: ChatFormat,
        orders: Orders,
        retention_s: float,
    ) -> None:
        """`chat` is used by the thread of `tokenizing` alone, `reader` by the event loop."""
        self._client = client
        self._tokenizing = tokenizing
        self._chat = chat
        self._reader = reader
        self._orders = orders
        self._retention_s = retention_s
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._known = KnownReplies()

    async def submit(self, asked: ChatAsked, name: str) -> BatchHandle:
        """Queue the request's new ids after the turn that it goes on from, or all of them as a first turn.

        Raises `ApiError`, and what `Session.submit` raises.
        """
        session = self._session(name)
        earlier = await self._earlier(asked, await session.turns())
        ids = None if earlier is None else await self._following(asked, earlier)
        if ids is None or earlier is None:
            earlier, ids = None, await self._whole(asked)
        told = options_of(asked, self._orders.timeout_s)
        options: TurnOptions = {"adapter": told["adapter"], "queue_deadline_s": told["queue_deadline_s"]}
        if asked.stream is not None:
            options["keep_partials"] = told["keep_partials"]
        return await session.submit(
            ids,
            asked.config,
            continue_of=None if earlier is None else earlier.turn,
            request_id=asked.caller.request_id,
            note=digest_of(asked.messages, asked.tools, asked.template_options),
            **options,
        )

    def _session(self, name: str) -> Session:
        session = self._sessions.pop(name, None) or self._client.session(name, retention_s=self._retention_s)
        self._sessions[name] = session
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    async def _earlier(self, asked: ChatAsked, turns: Sequence[SessionTurn]) -> Earlier | None:
        """What it goes on from; a request that is repeated goes on from what it did at first."""
        again = next((turn for turn in turns if turn.request_id == asked.caller.request_id), None)
        if again is not None and again.parent is None:
            return None
        noted = [(turn, turn.note) for turn in turns]
        found = candidates(noted, asked.messages, asked.tools, asked.template_options)
        if again is None or again.parent is None:
            return await self._best(asked, found)
        parent = [one for one in found if one.turn.batch_id == again.parent.batch_id]
        best = await self._best(asked, parent)
        if parent and best is None and not await self._completions(parent[0].turn):
            raise ApiError(409, _PARENT_GONE, None, "turn_missing")
        return best

    async def _best(self, asked: ChatAsked, found: Sequence[Candidate[SessionTurn]]) -> Earlier | None:
        """The reply that the request has; of several that say the same the very one, else that of the latest turn."""
        best: Earlier | None = None
        for one in found:
            if best is not None and one.length < best.length:
                break
            compared = await self._compared(asked, one)
            if compared is not None and compared.is_very:
                return compared
            best = best or compared
        return best

    async def _compared(self, asked: ChatAsked, one: Candidate[SessionTurn]) -> Earlier | None:
        """The completion of this turn that says what the request has behind the turn's messages.

        A call may have been sent as text, if its request had the tool_choice none, and a reply with its stop string.
        """
        message = asked.messages[one.length]
        if not self._known.may_say(one.turn.batch_id, reply_digest(message)):
            return None
        read: list[tuple[Completion, Reply]] = []
        for result, completion in await self._completions(one.turn):
            for tools in (asked.tools, []):
                for keeps_stop in (False, True) if isinstance(completion.stop_reason, str) else (False,):
                    read.append((completion, reply_of(self._reader, tools, result, completion, keeps_stop=keeps_stop)))
                    await asyncio.sleep(0)  # others are served between: a long reply takes milliseconds
        if read:
            self._known.put(one.turn.batch_id, (reply_digest(reply.message()) for _, reply in read))
        found = [
            Earlier(
                turn=one.turn.completion(completion.sample),
                length=one.length,
                has_ended=self._reader.ended(completion.token_ids),
                is_very=is_very(message, reply),
            )
            for completion, reply in read
            if answers(message, reply)
        ]
        return next((one for one in found if one.is_very), found[0] if found else None)

    async def _completions(self, turn: SessionTurn) -> list[tuple[GroupResult, Completion]]:
        try:
            handle = await self._client.attach(turn.batch_id)
            found = await handle.finished()
        except (UnknownBatchError, UnreadableResultError):  # nobody goes on from what is gone
            return []
        return [(result, one) for result in found if isinstance(result, GroupResult) for one in result]

    async def _following(self, asked: ChatAsked, earlier: Earlier) -> list[int] | None:
        """The ids of what is new; None where the template would change what came before it."""
        at = earlier.length + 1
        work = partial(
            self._chat.following,
            asked.messages[:at],
            asked.messages[at:],
            asked.tools,
            ended=earlier.has_ended,
            **asked.template_options,
        )
        try:
            return await self._tokenizing.apart(work, asked.characters) or None
        except NotContinuedError:
            return None
        except ChatRequestError as error:
            raise ApiError(400, str(error), error.param, error.code) from None

    async def _whole(self, asked: ChatAsked) -> list[int]:
        return await whole_prompt(self._tokenizing, self._chat, asked, asked.characters)


async def whole_prompt(tokenizing: Tokenizing, chat: ChatFormat, asked: ChatAsked, characters: int = 0) -> list[int]:
    """The ids of all messages. Raises `ApiError`. `characters`: see `Tokenizing.apart`."""
    work = partial(chat.whole, asked.messages, asked.tools, **asked.template_options)
    try:
        return await tokenizing.apart(work, characters)
    except ChatRequestError as error:
        raise ApiError(400, str(error), error.param, error.code) from None
