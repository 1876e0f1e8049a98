"""One conversation: its turns, each a durable batch, and what was sampled in them as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias, Unpack

from rollstream.schemas import GenerationConfig, Keys, Turn
from rollstream.schemas.keys import check_name
from rollstream.schemas.times import SESSION_RETENTION_S
from rollstream.schemas.wire.trainers.sessions import SessionTurn

from ..batches.handle import BatchHandle
from ..batches.submit_prompts import Making, making
from ..calls.arguments import check_config
from ..calls.options import check_names, spelled_out
from ..errors import ArgumentError, client_stays
from ..order.prompt_lengths import PromptLengths
from ..redis_io.connection import Connection
from .answers import read_answers
from .arguments import Parent, batch_of, note_bytes, one_prompt, parent_of, request_name, retention
from .errors import NoSuchTurnError, NotOneLeafError, TurnError, UnknownSessionError
from .known_turns import KnownTurns, Turns
from .options import TURN_DEFAULTS, TurnOptions, client_part
from .scripts import Kept
from .submit import Asked, TurnWriter
from .trajectory import Trajectory, trajectory_of
from .tree import Tree

Skipped: TypeAlias = type[TurnError] | tuple[type[TurnError], ...]


class Session:
    """One conversation, from `AsyncClient.session`: any number of processes may submit its turns at the same time.

    A turn is a batch of one prompt, of which only the new ids are submitted; the worker puts the turns before it in
    front. Redis keeps which turns there are, and their results, for the session's retention after its last submit. All
    calls raise `UnreadableSessionError` for what no submit has written, and `RedisUnavailableError`.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        name: str,
        retention_s: object = SESSION_RETENTION_S,
        lengths: PromptLengths | None = None,
    ) -> None:
        self.name = check_name("session", name)
        """The session's name."""
        self._keys = keys
        self._connection = connection
        self._lengths = lengths
        kept = Kept(keys=keys, name=name, kept_for=retention(retention_s), wait=connection.access.wait)
        self._known = KnownTurns(connection=connection, keys=keys, name=name)
        self._writer = TurnWriter(connection=connection, kept=kept, known=self._known, lengths=lengths)

    @spelled_out(TurnOptions, TURN_DEFAULTS)
    async def submit(
        self,
        new_ids: Sequence[int] | Any,
        config: GenerationConfig | None = None,
        *,
        continue_of: Parent = None,
        request_id: str | None = None,
        note: bytes = b"",
        **options: Unpack[TurnOptions],
    ) -> BatchHandle:
        """Queue one turn: `new_ids` are the ids that follow what it goes on from, and of a first turn the whole prompt.

        `continue_of`: a completion of an earlier turn, as `Turn` or `(batch_id, 0, sample)`; "last": the only
        completion of the newest turn; None: the turn begins the conversation. `request_id`: submitting it again with
        the same content is the same batch, whatever became of the first call; None makes one up. `note`: bytes of your
        own, 64 KiB at most, which `turns` gives back; those of the first submit stay. The turn is noted before its
        batch is queued, so a turn that was queued is never missing in `turns`.

        Raises what `AsyncClient.submit` raises but `BatchConflictError`, `RequestConflictError` for other content,
        `NoSuchTurnError` for a turn that is none of this session, `SessionFullError` beyond 10,000 turns or 64 MiB of
        them, and `SessionLostError`.
        """
        check_names(options, TURN_DEFAULTS)
        config = check_config(config, None)
        request = request_name(request_id)
        rows = one_prompt(new_ids)

        async def make(parent: Turn | None) -> Making:
            turns = None if parent is None else [parent]
            terms = client_part(options, continue_of=turns, session=self.name)
            return await making(rows, None, config, terms, self._lengths)

        asked = Asked(
            config=config,
            request_id=request,
            batch_id=batch_of(self.name, request),
            note=note_bytes(note),
            make=make,
        )
        return await self._writer.submit(asked, continue_of)

    async def turns(self) -> tuple[SessionTurn, ...]:
        """All turns in the order in which they were submitted; none if there is no such session (any more)."""
        return (await self._known.read()).turns

    async def trajectory(self, leaf: Turn | tuple[str, int, int] | None = None, *, skip: Skipped = ()) -> Trajectory:
        """The conversation up to the completion `leaf`, as one masked sequence; None: the only one that there is.

        Raises `UnknownSessionError`; `NoSuchTurnError`, or `NotOneLeafError`, which names all; and for the first turn
        that cannot be used `TurnUnfinishedError`, `TurnFailedError`, `TurnGoneError`, `TurnCutError` or
        `TurnMismatchError`. With None, `skip` is as for `trajectories`.
        """
        end = parent_of("leaf", leaf)
        known = await self._some_turns()
        if end is not None:
            tree = await self._tree(self._path_of(known, end))
            return trajectory_of(self.name, tree.path(end))
        tree = await self._usable(known, skip)
        leaves = tuple(tree.leaves())
        if len(leaves) != 1:
            raise NotOneLeafError(self.name, self._keys.policy, leaves)
        return trajectory_of(self.name, tree.path(leaves[0]))

    async def trajectories(self, *, skip: Skipped = ()) -> list[Trajectory]:
        """One trajectory for each completion that no other turn goes on from, in the order of their turns.

        `skip`: kinds of `TurnError`, one or a tuple; turns with such an error are left out together with what goes on
        from them, as if they had never been submitted. Raises `UnknownSessionError`, and the error of the first turn
        that cannot be used and is not skipped.
        """
        tree = await self._usable(await self._some_turns(), skip)
        return [trajectory_of(self.name, tree.path(leaf)) for leaf in tree.leaves()]

    async def _some_turns(self) -> Turns:
        known = await self._known.read()
        if not known.turns:
            raise UnknownSessionError(self.name, self._keys.policy)
        return known

    def _path_of(self, known: Turns, end: Turn) -> list[SessionTurn]:
        """The turns up to this one, the first first. Raises `NoSuchTurnError`."""
        path: list[SessionTurn] = []
        at: Turn | None = end
        while at is not None:
            number = known.numbers.get(at.batch_id)
            if number is None or at.group != 0:
                raise NoSuchTurnError(self.name, self._keys.policy, str(at))
            path.append(known.turns[number])
            at = known.turns[number].parent
        return path[::-1]

    async def _tree(self, turns: Sequence[SessionTurn]) -> Tree:
        tree = Tree(session=self.name, policy=self._keys.policy)
        async for turn, found in read_answers(self._connection, self._keys, self.name, turns):
            tree.add(turn, found)
        return tree

    async def _usable(self, known: Turns, skip: Skipped) -> Tree:
        kinds = skip if isinstance(skip, tuple) else (skip,)
        if not all(isinstance(kind, type) and issubclass(kind, TurnError) for kind in kinds):
            raise ArgumentError("skip", skip, "give kinds of TurnError, such as TurnFailedError, or a tuple of them")
        tree = await self._tree(known.turns)
        for error in tree.errors.values():
            if not isinstance(error, kinds):
                raise error
        return tree

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    def __repr__(self) -> str:
        return f"<Session {self.name} of policy {self._keys.policy}>"
