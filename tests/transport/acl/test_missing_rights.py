"""Each right, taken away alone: the doctor, the client and the worker name it, within seconds, and what prints it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis as blocking
import torch

from rollstream import Activate, Client
from rollstream.producer.errors import RedisUnavailableError
from rollstream.schemas import Keys
from rollstream.schemas.key_kinds import KeyKind
from rollstream.transport.acl import Right, Role, Server, missing_rights, named, other_login, remedy, rights_of
from rollstream.transport.acl.commands import SCRIPTED
from rollstream.transport.redis.access import RedisAccess
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.exit_codes import EXIT_SETTINGS
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.roles.users import Users
from tests.support.weights.publishing import lora
from tests.support.worker_process import WorkerProcess, running_worker

SOON_S = 8
FREE = Right(command="HELLO", kind="")
"""From 7 on, everybody may send it."""
ALL = sorted((role, right) for role in Role for right in rights_of(role) - {FREE})
SAMPLE = [
    (Role.PRODUCER, Right(command="XADD", kind=KeyKind.JOBS)),
    (Role.WORKER, Right(command="XADD", kind=KeyKind.RESULTS)),
    (Role.OPERATOR, Right(command="HDEL", kind=KeyKind.CONTROL)),
    (Role.EXPORTER, Right(command="INFO", kind="")),
]


def for_redis(users: Users) -> str:
    """What a command needs for this server."""
    return " --for-redis 6.2" if users.server is Server.SIX else ""


def told(case: tuple[Role, Right]) -> str:
    role, right = case
    return f"{role}-{right.command.replace(' ', '-')}-{right.kind.name if right.kind else ''}"


def taken(users: Users, role: Role, right: Right) -> set[Right]:
    """What goes with it: 6.2 has no selectors, so a command goes for all keys; and both ways to send a script go."""
    names = SCRIPTED if right.command in SCRIPTED else (right.command,)
    either = {one for one in rights_of(role) if one.command in names}
    return {one for one in either if one.kind == right.kind or users.server is Server.SIX}


@pytest.mark.parametrize("role", Role)
async def test_each_right_that_is_taken_away_is_found_missing_and_no_other(users: Users, role: Role) -> None:
    keys, redis = Keys(users.policy), connect(RedisAccess(url=users.url_of(role)))
    try:
        for right in sorted(rights_of(role) - {FREE}):
            without = taken(users, role, right)
            users.allow(role, without=without)
            await redis.connection_pool.disconnect()
            missing = await missing_rights(redis, role, keys)
            expected = {right} if right.command == "MULTI" else without  # nothing else can be asked then
            assert set(missing) == expected, right
    finally:
        await redis.aclose()


def test_a_key_that_is_taken_away_is_found_missing(users: Users) -> None:
    users.allow(Role.WORKER, without={one for one in rights_of(Role.WORKER) if one.kind is KeyKind.DEAD})

    async def ask() -> Any:
        redis = connect(RedisAccess(url=users.url_of(Role.WORKER)))
        try:
            return await missing_rights(redis, Role.WORKER, Keys(users.policy))
        finally:
            await redis.aclose()

    assert {right.kind for right in asyncio.run(ask())} == {KeyKind.DEAD}


def check_doctor(users: Users, role: Role, right: Right) -> None:
    users.allow(role, without=taken(users, role, right))

    done = Command(users.url_of(role), users.policy)("doctor", "--role", role, "--json")

    assert done.exit_code == 1
    if right.command == "PING":
        assert "ping" in done.stdout
    else:
        assert named(taken(users, role, right), users.policy).split(" and ")[0] in done.stdout
    assert f"rollstream acl --role {role} --policy {users.policy}" in done.stdout or right.command == "PING"


def check_worker(users: Users, right: Right) -> None:
    users.allow(Role.WORKER, without=taken(users, Role.WORKER, right))
    settings = WorkerSettings(policy=users.policy, engine="stub", redis=users.url_of(Role.WORKER))

    async def start() -> str:
        redis = connect(settings.access)
        try:
            await asyncio.wait_for(wait_for_redis(redis, settings), SOON_S)
        except SettingsError as error:
            return str(error)
        finally:
            await redis.aclose()
        return ""

    said = asyncio.run(start())
    assert named(taken(users, Role.WORKER, right), users.policy).split(" and ")[0] in said
    assert f"rollstream acl --role worker --policy {users.policy} --user worker{for_redis(users)}" in said


def test_a_worker_that_may_not_ask_for_info_is_told_a_line_for_this_redis(users: Users) -> None:
    check_worker(users, Right(command="INFO", kind=""))


def test_where_the_version_is_not_known_both_lines_are_told() -> None:
    own, other = remedy(Role.WORKER, "p", "w", is_old=None), other_login(Role.OPERATOR, "p", is_old=None)

    assert own.startswith("`rollstream acl --role worker --policy p --user w --keep-password` prints all")
    assert own.endswith("; on Redis 6.2 with --for-redis 6.2")
    assert "(`rollstream acl --role operator --policy p` makes one; on Redis 6.2 with --for-redis 6.2)" in other


@pytest.mark.parametrize("case", SAMPLE, ids=told)
def test_the_doctor_names_a_missing_right(users: Users, case: tuple[Role, Right]) -> None:
    check_doctor(users, *case)


@pytest.mark.large
@pytest.mark.parametrize("case", ALL, ids=told)
def test_the_doctor_names_each_missing_right(users: Users, case: tuple[Role, Right]) -> None:
    check_doctor(users, *case)


@pytest.mark.large
@pytest.mark.parametrize("right", sorted(rights_of(Role.WORKER) - {FREE}), ids=lambda one: told((Role.WORKER, one)))
def test_a_worker_at_its_start_names_each_missing_right(users: Users, right: Right) -> None:
    check_worker(users, right)


def test_a_worker_without_a_right_exits_2_and_names_it(users: Users) -> None:
    users.allow(Role.WORKER, without=taken(users, Role.WORKER, Right(command="XADD", kind=KeyKind.DEAD)))
    worker = WorkerProcess(users.url, users.policy, "--redis", users.url_of(Role.WORKER), *stub_flags())
    try:
        assert worker.process.wait(30) == EXIT_SETTINGS
    finally:
        worker.end()

    assert f"XADD on rs:{{{users.policy}:*}}:" in worker.log
    assert f"`rollstream acl --role worker --policy {users.policy} --user worker" in worker.log


def test_a_running_worker_that_loses_a_right_waits_names_it_and_goes_on_with_it(users: Users) -> None:
    lost = taken(users, Role.WORKER, Right(command="XADD", kind=KeyKind.RESULTS))
    flags = ["--redis", users.url_of(Role.WORKER), *stub_flags(lease_s=4)]
    with (
        running_worker(users.url, users.policy, *flags) as worker,
        Client(users.url, policy=users.policy) as client,
    ):
        users.allow(Role.WORKER, without=lost)
        handle = client.submit([[5]], None, tokens())
        wait_until_logged(worker, "this user lacks rights")
        assert worker.process.poll() is None
        assert f"XADD on rs:{{{users.policy}:*}}:" in worker.log
        line = f"`rollstream acl --role worker --policy {users.policy} --user worker{for_redis(users)} --keep-password`"
        assert line in worker.log
        users.allow(Role.WORKER)
        assert handle.result(timeout=30).errors == {}


WEIGHTS, AFTER = {"model.norm.weight": torch.ones(4)}, {"model.norm.weight": torch.zeros(4)}
CALLS: dict[str, Callable[[Client], object]] = {
    "submit": lambda client: client.submit([[1]], None, tokens(1), batch_id="s"),
    "generate": lambda client: client.generate([[1]], None, tokens(1), batch_id="g", timeout=SOON_S),
    "attach": lambda client: client.attach("old").result(timeout=SOON_S),
    "cancel": lambda client: client.submit([[1]], None, tokens(1), min_policy_version=9).cancel(),
    "adapter": lambda client: client.publish_adapter("a", 1, lora(), lora_alpha=8),
    "publish": lambda client: client.publish_policy(1, state_dict=WEIGHTS),
    "by hand": lambda client: (
        client.publish_policy(2, state_dict=AFTER, activate=Activate(when="by_hand")),
        client.activate(2),
    ),
    "versions": lambda client: client.newest_version(),
}


def failures(users: Users) -> list[RedisUnavailableError]:
    """What the calls of a producer raise, each within seconds; None of them may hang."""
    found = []
    with Client(users.url_of(Role.PRODUCER), policy=users.policy, weights="redis", reconnect_s=2) as client:
        for name, call in CALLS.items():
            began = time.monotonic()
            try:
                call(client)
            except RedisUnavailableError as error:
                found.append(error)
            assert time.monotonic() - began < 2 * SOON_S, name
    return found


def check_client(users: Users, right: Right) -> None:
    with Client(users.url, policy=users.policy) as admin, running_worker(users.url, users.policy, *stub_flags()):
        admin.generate([[1]], None, tokens(1), batch_id="old", timeout=20)
        users.allow(Role.PRODUCER, without=taken(users, Role.PRODUCER, right))
        found = failures(users)
    for error in found:
        assert "this user lacks " in str(error), error
        assert f"`rollstream acl --role producer --policy {users.policy}" in str(error)
        assert right.command in str(error)


def test_a_client_without_a_right_raises_within_seconds_and_names_it(users: Users) -> None:
    users.allow(Role.PRODUCER, without=taken(users, Role.PRODUCER, Right(command="XADD", kind=KeyKind.JOBS)))

    with (
        Client(users.url_of(Role.PRODUCER), policy=users.policy, reconnect_s=5) as client,
        pytest.raises(RedisUnavailableError) as raised,
    ):
        client.submit([[1]], None, tokens(1))

    assert f"this user lacks XADD on rs:{{{users.policy}:*}}:jobs" in str(raised.value)
    assert f"(`rollstream acl --role producer --policy {users.policy}{for_redis(users)}` makes one)" in str(
        raised.value
    )


@pytest.mark.parametrize("role", [Role.WORKER, Role.EXPORTER])
@pytest.mark.parametrize("words", ["pause", "batches", "top --once", "doctor"])
def test_nobody_is_told_to_make_another_role_of_the_user(users: Users, role: Role, words: str) -> None:
    users.allow(role, without=[Right(command="TIME", kind=""), Right(command="HSET", kind=KeyKind.CONTROL)])

    done = Command(users.url_of(role), users.policy)(*words.split())

    said = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "--user" not in said
    login = f"log in as a user for the role operator (`rollstream acl --role operator --policy {users.policy}"
    assert f"{login}{for_redis(users)}` makes one), or have just these rights added" in said


READS = [
    Right(command=command, kind=kind)
    for kind, commands in ((KeyKind.LEDGER, ("HGET", "HMGET")), (KeyKind.VERSIONS, ("XRANGE", "XREVRANGE")))
    for command in commands
]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PRODUCER])
@pytest.mark.parametrize("words", ["cancel b", "results b", "activate 1"])
def test_a_command_of_two_roles_names_the_one_that_its_user_has_more_of(users: Users, role: Role, words: str) -> None:
    users.allow(role, without=set[Right]().union(*(taken(users, role, right) for right in READS)))

    done = Command(users.url_of(role), users.policy)(*words.split())

    assert done.exit_code == 1
    assert f"log in as a user for the role {role} (`rollstream acl --role {role} " in " ".join(done.output.split())


def test_a_url_without_a_user_is_that_of_default() -> None:
    said = remedy(Role.WORKER, "p", "", is_old=False)

    assert said.startswith("`rollstream acl --role worker --policy p --user default --keep-password` prints all")


@pytest.mark.large
@pytest.mark.parametrize("right", sorted(rights_of(Role.PRODUCER) - {FREE}), ids=lambda one: told((Role.PRODUCER, one)))
def test_a_client_names_each_missing_right(users: Users, right: Right) -> None:
    check_client(users, right)


def test_wrong_users_are_told_from_missing_rights(users: Users) -> None:
    users.admin.execute_command("ACL", "SETUSER", "keeper", "reset", "on", ">pw", "+@all")
    users.admin.execute_command("ACL", "SETUSER", "default", "off")
    try:
        for url, said in {
            users.url: "check the user and the password",
            users.url.replace("//", "//nobody:pw@"): "check the user and the password",
            users.url.replace("//", "//producer:wrong@"): "check the user and the password",
        }.items():
            with Client(url, policy=users.policy) as client, pytest.raises(RedisUnavailableError, match=said):
                client.newest_version()
    finally:
        with blocking.Redis.from_url(users.url_of("keeper")) as keeper:
            keeper.acl_setuser("default", enabled=True)
