"""One client for a whole Redis Cluster, made of a plain client for each node with the guards of a single Redis.

Why not redis-py's own cluster client (version 8): it asks a node for the keys of each XREADGROUP, drops the connections
to all nodes at CLUSTERDOWN, and loads a missing script into all primaries or none. One dead node would stop the others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, ClusterDownError, ClusterError, MovedError, RedisError

from .access import RedisAccess
from .slots import Address, addresses, known, owners, slot_of
from .way import Way

_MOST_HOPS = 5
_LOOK_S = 0.25
"""Seconds between two looks at which node has which slots, while a node is away."""

Command = tuple[Sequence[Any], Mapping[str, Any]]


def connected(access: RedisAccess | str, **settings: Any) -> Redis:
    """A client that connects at its first command; `settings` as for `Way`. Raises `RedisUrlError`."""
    way = Way(access=RedisAccess.of(access), **settings)
    if way.place.is_cluster:
        return ClusterRedis(way)
    return Redis.from_pool(way.to_primary() if way.place.is_sentinel else way.to())


def is_split(redis: Redis) -> bool:
    """Whether keys may lie on different nodes: no command may name keys of two partitions."""
    return isinstance(redis, ClusterRedis)


async def nodes_of(redis: Redis) -> dict[str, Redis]:
    """A client for each node that holds keys, by `host:port`; a single Redis has the name ''."""
    return await redis.nodes() if isinstance(redis, ClusterRedis) else {"": redis}


async def disconnected(redis: Redis) -> None:
    """End all connections, even those that wait for an answer: such commands raise `ConnectionError`."""
    nodes = (await nodes_of(redis)).values()
    await asyncio.gather(*(node.connection_pool.disconnect(inuse_connections=True) for node in nodes))


class ClusterRedis(Redis):
    """Sends each command to the node that has its keys' slot, and follows a slot that has moved.

    A node that no longer has the slot runs nothing, so the command may be sent again. Nothing else is repeated; only a
    command that any node may answer goes to the next node when one is away. A pipeline that is no transaction may span
    nodes; if a node does not answer, each of its replies is an error.

    A command that is told where a slot has moved to notes it at once; it marks the map of slots as stale, as does
    one whose node failed. The map is read again by one call at a time, which holds `_looking`. Clients of nodes are
    made when they are first needed and live until `aclose`.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._seeds = [Redis.from_pool(way.to(node)) for node in way.place.nodes]
        super().__init__(connection_pool=self._seeds[0].connection_pool)
        self._clients: dict[Address, Redis] = {}
        self._owners: list[Address | None] = []
        self._stale = True
        self._look_at = 0.0
        self._failed: Address | None = None
        self._looking = asyncio.Lock()

    async def nodes(self) -> dict[str, Redis]:
        """See `nodes_of`. Raises `RedisError` if no node has ever answered."""
        await self._look()
        return {f"{host}:{port}": self._at((host, port)) for host, port in addresses(self._owners)}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return the node's answer. Raises `RedisError`."""
        slot = slot_of(args)
        if slot is None:
            return await self._of_any(args, options)
        return await self._follow(await self._place(slot), args, options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: ARG002 - redis-py's
        """A pipeline; all keys of a transaction must share one slot."""
        return _ClusterPipeline(cluster=self, transaction=transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every socket to every node."""
        for client in (*self._seeds, *self._clients.values()):
            await client.aclose()
        await super().aclose(close_connection_pool)

    async def send_many(self, commands: Sequence[Command], *, transaction: bool) -> list[Any]:
        """The replies in order, errors included. Nodes are asked together; a command without a key joins another.

        Raises `DataError` for a transaction over several slots, `RedisError`.
        """
        slots = [slot_of(args) for args, _ in commands]
        some = next((slot for slot in slots if slot is not None), None)
        if transaction and set(slots) - {some, None}:
            raise exceptions.DataError("the keys of a transaction share no slot")
        parts: dict[Address, list[int]] = {}
        replies: dict[int, Any] = {}
        places: dict[int | None, Address] = {}  # asked once: WAIT must follow what it waits for
        for number, slot in enumerate(some if slot is None else slot for slot in slots):
            try:
                if slot not in places:
                    places[slot] = await self._place(slot)
                parts.setdefault(places[slot], []).append(number)
            except ClusterDownError as error:  # only this slot has no node
                replies[number] = error
        sent = [self._send(node, [commands[number] for number in part], transaction) for node, part in parts.items()]
        answered = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
        for part, of_part in zip(parts.values(), answered, strict=True):
            replies.update(zip(part, of_part, strict=True))
        return [replies[number] for number in range(len(commands))]

    async def _send(self, node: Address, commands: Sequence[Command], transaction: bool) -> list[Any]:
        for _ in range(_MOST_HOPS):
            try:
                pipe: Any = self._at(node).pipeline(transaction)  # redis-py does not type what queues a command
                for args, options in commands:
                    pipe.pipeline_execute_command(*args, **options)
                replies = await pipe.execute(raise_on_error=False)
            except MovedError as moved:  # a whole transaction, of which nothing ran
                node = self._moved(node, moved)
            except RedisError as error:
                self._note_failure(node, error)
                return [error] * len(commands)
            else:
                if any(isinstance(reply, MovedError | AskError) for reply in replies):
                    # What was written elsewhere is not what WAIT has waited for here.
                    replies = [
                        0 if args[0] == "WAIT" else reply for (args, _), reply in zip(commands, replies, strict=True)
                    ]
                return [await self._settled(node, *each) for each in zip(commands, replies, strict=True)]
        return [ClusterError("a slot moved again and again")] * len(commands)

    async def _settled(self, node: Address, command: Command, reply: Any) -> Any:
        """The reply; if the slot has moved, that of the node to which it has moved."""
        if not isinstance(reply, AskError):
            if isinstance(reply, RedisError):
                self._note_failure(node, reply)
            return reply
        args, options = command
        try:
            if isinstance(reply, MovedError):
                return await self._follow(self._moved(node, reply), args, options)
            return await self._asking(node, reply, args, options)
        except RedisError as error:
            return error

    async def _follow(self, node: Address, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        for _ in range(_MOST_HOPS):
            try:
                client: Any = self._at(node)  # redis-py does not type `execute_command`
                return await client.execute_command(*args, **options)
            except MovedError as moved:
                node = self._moved(node, moved)
            except AskError as ask:
                return await self._asking(node, ask, args, options)
            except RedisError as error:
                self._note_failure(node, error)
                raise
        raise ClusterError("a slot moved again and again")

    async def _of_any(self, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        await self._look()
        problem: RedisError = ClusterDownError("no node has any slot")
        for node in sorted(addresses(self._owners), key=lambda node: node == self._failed):
            try:
                return await self._follow(node, args, options)
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                problem = error
        self._stale = True
        raise problem

    async def _asking(self, node: Address, ask: AskError, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        pipe: Any = self._at((known(ask.host, node[0]), ask.port)).pipeline(transaction=False)
        pipe.pipeline_execute_command("ASKING")
        pipe.pipeline_execute_command(*args, **options)
        return (await pipe.execute())[1]

    def _moved(self, node: Address, moved: MovedError) -> Address:
        there = (known(moved.host, node[0]), moved.port)
        self._owners[moved.slot_id] = there
        self._stale = True
        return there

    def _note_failure(self, node: Address, error: RedisError) -> None:
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | ClusterDownError):
            self._stale, self._failed = True, node

    async def _place(self, slot: int | None) -> Address:
        await self._look()
        found = next(addresses(self._owners), None) if slot is None else self._owners[slot]
        if found is None:
            self._stale = True
            raise ClusterDownError(f"no node has slot {slot}")
        return found

    async def _look(self) -> None:
        """Ask which node has which slots, if that may have changed. Meanwhile other commands use what is known."""
        if not self._stale or (self._owners and (self._looking.locked() or time.monotonic() < self._look_at)):
            return
        async with self._looking:
            if self._stale:
                await self._learn()

    async def _learn(self) -> None:
        """Ask the nodes in turn until one answers. Raises `RedisError` if none does and nothing was known before."""
        self._look_at = time.monotonic() + _LOOK_S
        known = [(address, self._at(address)) for address in addresses(self._owners)]
        random.shuffle(known)
        known.sort(key=lambda each: each[0] == self._failed)  # last, since it may block until its timeout
        problem: RedisError | None = None
        client: Any
        for host, client in [*((host, client) for (host, _), client in known), *self._named()]:
            try:
                reply = await client.execute_command("CLUSTER", "SLOTS")
            except RedisError as error:
                problem = error
            else:
                await self._take(owners(reply, host))
                return
        if problem is not None and not self._owners:
            raise problem

    def _named(self) -> list[tuple[str, Redis]]:
        return [(host, seed) for (host, _), seed in zip(self._way.place.nodes, self._seeds, strict=True)]

    async def _take(self, found: list[Address | None]) -> None:
        self._owners, self._stale = found, None in found
        for without in self._clients.keys() - set(addresses(found)):
            # Commands under way there go on: a node that takes over its first slot is asked before it has any, and the
            # node that answered here may not know yet that a slot has moved.
            await self._clients[without].connection_pool.disconnect(inuse_connections=False)

    def _at(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = Redis.from_pool(self._way.to(address))
        return self._clients[address]


class _ClusterPipeline(Pipeline):
    def __init__(self, *, cluster: ClusterRedis, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        replies = await self._cluster.send_many(commands, transaction=self.is_transaction) if commands else []
        for reply in replies:
            if raise_on_error and isinstance(reply, RedisError):
                raise reply
        return replies
