"""One table says which replies of Redis pass: what never can is given up on, everything else is waited for."""

from __future__ import annotations

import pytest
from redis import exceptions

from rollstream.transport.redis.faults import UNKNOWN, fault_of
from rollstream.transport.redis.limits import Limits
from rollstream.worker.redis_io import connections
from rollstream.worker.redis_io.connections import Patience, retrying

IN_SCRIPT = " script: eb23e2e6f2c44538a767c4e2b972dc5a60c54588, on @user_script:1."
IN_SCRIPT_OF_62 = "Error running script (call to f_eb23e2e6f2c4): @user_script:1: "

NEVER = {
    "another type": "WRONGTYPE Operation against a key holding the wrong kind of value" + IN_SCRIPT,
    "another type, 6.2": IN_SCRIPT_OF_62 + "WRONGTYPE Operation against a key holding the wrong kind of value",
    "another type, in a pipeline": "Command # 1 (HSET k...) of pipeline caused error: ('WRONGTYPE Operation against',)",
    "no number": "hash value is not an integer" + IN_SCRIPT,
    "no number, 6.2": IN_SCRIPT_OF_62 + "ERR hash value is not an integer",
    "overflow": "increment or decrement would overflow" + IN_SCRIPT,
    "last id": "The stream has exhausted the last possible ID, unable to add more items" + IN_SCRIPT,
    "last id, 6.2": IN_SCRIPT_OF_62 + "ERR The stream has exhausted the last possible ID, unable to add more items",
    "id too small": "The ID specified in XADD is equal or smaller than the target stream top item",
    "grows too large": "string exceeds maximum allowed size (proto-max-bulk-len)",
    "a time": "invalid expire time in 'expire' command" + IN_SCRIPT,
    "an error of Lua": "user_script:1: attempt to compare nil with number" + IN_SCRIPT,
    "an error of Lua, 6.2": IN_SCRIPT_OF_62 + "user_script:1: attempt to perform arithmetic on a nil value",
    "a ledger that cannot be": "UNPUBLISHABLE the ledger counts x groups, the job says 2 groups",
}
PASSES = {
    "out of memory": exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    "out of memory, 6.2": exceptions.ResponseError(IN_SCRIPT_OF_62 + "@user_script: 1: -OOM command not allowed"),
    "replica": exceptions.ReadOnlyError("You can't write against a read only replica."),
    "replica, 6.2": exceptions.ResponseError(IN_SCRIPT_OF_62 + "@user_script: 1: -READONLY You can't write"),
    "no replicas": exceptions.ResponseError("NOREPLICAS Not enough good replicas to write." + IN_SCRIPT),
    "loading": exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    "disk": exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's unable to"),
    "cluster": exceptions.ClusterDownError("CLUSTERDOWN Hash slot not served"),
    "busy": exceptions.ResponseError("BUSY Redis is busy running a script."),
    "a right": exceptions.ResponseError("ACL failure in script: User u has no permissions" + IN_SCRIPT),
    "a right, 6.2": exceptions.ResponseError(IN_SCRIPT_OF_62 + "The user executing the script can't run this command"),
    "a password": exceptions.AuthenticationError("WRONGPASS invalid username-password pair"),
    "a command": exceptions.ResponseError("unknown command 'XAUTOCLAIM'"),
    "cut off, which a neighbour in the pipeline may be at fault for": exceptions.ResponseError(
        "Protocol error: invalid bulk length"
    ),
    "link": exceptions.ConnectionError("Connection closed by server."),
    "silence": exceptions.TimeoutError("Timeout reading from socket"),
}


@pytest.mark.parametrize("reply", NEVER.values(), ids=list(NEVER))
def test_what_the_keys_hold_or_what_is_sent_never_passes(reply: str) -> None:
    assert Patience().is_over(exceptions.ResponseError(reply))
    assert not fault_of(exceptions.ResponseError(reply)).passes


@pytest.mark.parametrize("error", PASSES.values(), ids=list(PASSES))
def test_what_somebody_may_mend_is_waited_for(error: exceptions.RedisError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNKNOWN_REPLY_S", 0)

    assert not Patience().is_over(error)


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        ("DB index is out of range", "this Redis has no such database: name a lower one"),
        ("SELECT is not allowed in cluster mode", "it is a node of a Redis Cluster: write redis+cluster://"),
        ("MOVED 3999 127.0.0.1:6381", "it is a node of a Redis Cluster: write redis+cluster://"),
        ("This instance has cluster support disabled", "it is no Redis Cluster: write redis://"),
        ("unknown command 'XAUTOCLAIM'", "it does not know the command: Rollstream needs Redis 6.2 or newer"),
    ],
)
def test_a_reply_to_the_wrong_address_says_which_one_to_write(reply: str, advice: str) -> None:
    fault = fault_of(exceptions.ResponseError(reply))

    assert (fault.advice.startswith(advice), fault.passes) == (True, False)


async def test_an_unknown_reply_is_given_up_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def answered() -> None:
        tries.append(1)
        raise exceptions.ResponseError("NEWCODE of a release to come")

    monkeypatch.setattr(connections, "UNKNOWN_REPLY_S", 0.12)
    with pytest.raises(exceptions.ResponseError, match="NEWCODE"):
        await retrying("test", answered)

    assert fault_of(exceptions.ResponseError("NEWCODE of a release to come")) is UNKNOWN
    assert len(tries) > 1


@pytest.mark.parametrize(
    ("limits", "argument", "command", "told"),
    [
        (Limits(argument=1000, command=5000), 1000, 1200, None),
        (
            Limits(argument=1000, command=5000),
            1001,
            1200,
            "1001 bytes, and this Redis takes at most 1000 (proto-max-bulk-len)",
        ),
        (
            Limits(argument=9000, command=5000),
            900,
            5001,
            "5001 bytes, and this Redis takes at most 5000 (client-query-buffer-limit)",
        ),
        (Limits(argument=0, command=0), 2**40, 2**40, None),
    ],
    ids=["fits", "argument", "command", "not known"],
)
def test_what_is_too_large_is_told_with_both_sizes(
    limits: Limits, argument: int, command: int, told: str | None
) -> None:
    problem = limits.exceeded_by(argument, command)

    assert (None if problem is None else str(problem)) == told
