"""The routing of each row of a `RolloutBatch`, by what the row itself says of where it lies."""

from __future__ import annotations

from rollstream.schemas import Keys
from rollstream.schemas.wire.routing import RoutingArray, RowRouting, rows_of

from ..errors import ArgumentError
from ..redis_io.connection import Connection
from ..rollouts.errors import RowsError
from ..rollouts.rollout_batch import RolloutBatch
from .read_routing import read_routing


async def read_routing_of_rows(connection: Connection, keys: Keys, rollouts: RolloutBatch) -> list[RoutingArray | None]:
    """R arrays (P + L - 1, layers, k), with None for rows of failed groups. All rows are checked before one is read.

    Raises `ArgumentError` for what is no `RolloutBatch`, `RowsError` for a row without routing or of another length
    than its routing, `RoutingError` for what is gone or not what the row names.
    """
    if not isinstance(rollouts, RolloutBatch):
        raise ArgumentError("rollouts", rollouts, "give a RolloutBatch; handle.routed_experts takes an answer")
    return [None if told is None else await _of_row(connection, keys, told) for told in _told(rollouts)]


async def _of_row(connection: Connection, keys: Keys, told: RowRouting) -> RoutingArray:
    (routing,) = await read_routing(connection, keys, told.batch_id, told.group, told.experts, (told.completion,))
    return routing


def _told(rollouts: RolloutBatch) -> list[RowRouting | None]:
    """What each row says; None for rows of failed groups. Raises `RowsError`."""
    told = rollouts.routing or (None,) * rollouts.num_rows
    if len(told) != rollouts.num_rows:
        raise RowsError("routing", f"of {len(told)} rows among {rollouts.num_rows}")
    prompts = rollouts.group_index.tolist()
    tokens = zip(rollouts.prompt_lengths.tolist(), rollouts.response_lengths.tolist(), strict=True)
    for row, (one, prompt, (before, sampled)) in enumerate(zip(told, prompts, tokens, strict=True)):
        if one is None and prompt not in rollouts.errors:
            problem = "has no routing: submit with routed_experts=True"
        elif one is not None and one.experts.rows != (rows_of(before, sampled),):
            needed = f"a prompt of {before} and a response of {sampled} tokens have {rows_of(before, sampled)} rows"
            problem = f"its routing has {one.experts.rows[0]} rows, and {needed}: lengths were changed"
        else:
            continue
        raise RowsError(f"row {row}", problem)
    return list(told)
