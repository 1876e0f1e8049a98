"""A password that is kept in a file: what is read, what is refused, and that it may change while all goes on."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as blocking

from rollstream import AsyncClient, Client, RedisUnavailableError
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.doctor.examine import examine
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.password_file import PasswordFileError, read_password
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.faults import audit
from tests.support.worker_process import WorkerProcess, until_true, wait_for

USER = "trainer"


@pytest.mark.parametrize(
    ("held", "read"),
    [
        (b"secret\n", "secret"), (b"secret", "secret"), (b"secret\r\n", "secret"), (b" two words \n", " two words "),
        (b"two\n\n", "two\n"), ("pässwörd\n".encode(), "pässwörd"),
    ],
)  # fmt: skip
def test_the_newline_that_ends_the_file_is_no_part_of_the_password(held: bytes, read: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(held)

    assert read_password(file) == read


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (None, "No such file"), (b"", "it is empty"), (b"\n", "it is empty"), (b"\xff\xfe", "no text"),
        (b"a" * 70_000, "too long"),
    ],
)  # fmt: skip
def test_a_file_without_a_password_is_one_clear_error_at_both_sides(
    held: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if held is not None:
        file.write_bytes(held)
    access = RedisAccess(url="redis://h", password_file=file)

    for made in (lambda: connect(access), lambda: Client("redis://h", policy="p", redis_password_file=file)):
        with pytest.raises((SettingsError, RedisUnavailableError), match=f"redis_password_file={file}: .*{said}"):
            made()


def test_the_error_travels_and_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff secret")

    with pytest.raises(PasswordFileError) as caught:
        read_password(file)

    assert "secret" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("folder", "mode", "warned"),
    [
        (0o755, 0o600, False), (0o755, 0o640, False), (0o755, 0o644, True), (0o755, 0o444, True), (0o755, 0o660, True),
        (0o700, 0o444, False), (0o710, 0o444, True), (0o701, 0o444, True), (0o700, 0o446, True), (0o700, 0o460, True),
    ],
)  # fmt: skip
def test_a_file_that_others_may_read_or_change_is_a_warning(
    folder: int, mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(mode)
    tmp_path.chmod(folder)

    with caplog.at_level(logging.WARNING):
        connect(RedisAccess(url="redis://h", password_file=file))

    assert ("chmod 640" in caplog.text) is warned
    assert "secret" not in caplog.text


def test_a_link_from_a_closed_folder_hides_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed, opened = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(0o700)
    opened.mkdir(0o755)
    (opened / "password").write_text("secret")
    (opened / "password").chmod(0o444)
    (closed / "password").symlink_to(opened / "password")

    with caplog.at_level(logging.WARNING):
        connect(RedisAccess(url="redis://h", password_file=closed / "password"))

    assert "in a folder of mode 700" in caplog.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A Redis whose user has a password that lies in a file, and whose default user has none, for the test."""

    server: EmbeddedRedis
    admin: Any
    file: Path

    @property
    def url(self) -> str:
        return self.server.url.replace("//", f"//{USER}@")

    @property
    def access(self) -> RedisAccess:
        return RedisAccess(url=self.url, password_file=self.file)

    def accept(self, *passwords: str) -> None:
        self.admin.execute_command(
            "ACL", "SETUSER", USER, "on", "resetpass", *(f">{one}" for one in passwords), "~*", "&*", "+@all"
        )

    def write(self, password: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{password}\n")
        fresh.chmod(0o600)
        fresh.replace(self.file)

    def hang_up(self) -> None:
        self.admin.execute_command("CLIENT", "KILL", "USER", USER)

    def refusals(self) -> int:
        return int(self.admin.info("errorstats").get("errorstat_WRONGPASS", {"count": 0})["count"])


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with EmbeddedRedis() as server, blocking.Redis.from_url(server.url) as admin:
        found = Guarded(server=server, admin=admin, file=tmp_path / "password")
        found.accept("first")
        found.write("first")
        yield found


@pytest.fixture
async def trainer(guarded: Guarded, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(guarded.url, policy=policy, redis_password_file=guarded.file, reconnect_s=20) as client:
        yield client


def test_a_worker_and_a_client_go_on_while_the_password_is_changed(guarded: Guarded, policy: str) -> None:
    flags = [*stub_flags(group_s=0.05, at_once=2), "--redis", guarded.url, "--redis-password-file", str(guarded.file)]
    worker = WorkerProcess(guarded.server.url, policy, *flags)
    try:
        worker.wait_until_serving()
        with Client(guarded.access, policy=policy, reconnect_s=20) as client:
            handle = client.submit([[1]] * 60, None, tokens(), batch_id="through", prompts_per_job=1)
            for before, password, share in (("first", "second", 15), ("second", "third", 35)):
                wait_for(partial(has_answered, guarded, policy, share), 30, lambda: worker.log)
                guarded.accept(before, password)
                guarded.write(password)
                guarded.hang_up()
                guarded.accept(password)
            found = handle.result(timeout=60)
        code = worker.terminate()
    finally:
        worker.end()

    assert found.errors == {}
    assert code == 0
    assert len(audit(guarded.server.url, policy, "through", 60)) == 60
    for password in ("first", "second", "third"):
        assert password not in worker.log


def has_answered(guarded: Guarded, policy: str, share: int) -> bool:
    return int(guarded.admin.hget(Keys(policy).ledger("through"), "done") or 0) >= share


async def test_a_file_that_is_late_is_waited_for_once_redis_has_answered(
    guarded: Guarded, trainer: AsyncClient
) -> None:
    before = await trainer.newest_version()
    guarded.accept("second")
    guarded.hang_up()

    late = asyncio.create_task(trainer.newest_version())
    await until_true(lambda: guarded.refusals() >= 2)
    assert not late.done()
    guarded.write("second")

    assert (before, await late) == (0, 0)


def test_a_running_worker_waits_for_the_password_and_says_so(guarded: Guarded, policy: str) -> None:
    flags = [*stub_flags(), "--redis", guarded.url, "--redis-password-file", str(guarded.file)]
    worker = WorkerProcess(guarded.server.url, policy, *flags)
    try:
        worker.wait_until_serving()
        guarded.accept("second")
        guarded.hang_up()
        wait_until_logged(worker, "trying again", "password")
        guarded.write("second")
        with Client(guarded.access, policy=policy, reconnect_s=20) as client:
            found = client.generate([[1]], None, tokens(2), timeout=30)
    finally:
        worker.end()

    assert found.errors == {}


async def test_a_wrong_password_at_the_start_names_the_file(guarded: Guarded, policy: str) -> None:
    guarded.write("wrong")
    settings = WorkerSettings(policy=policy, engine="stub", redis=guarded.url, redis_password_file=guarded.file)

    with pytest.raises(RedisUnavailableError) as told:
        async with AsyncClient(guarded.access, policy=policy) as client:
            await client.newest_version()
    redis = connect(settings.access)
    with pytest.raises(SettingsError) as refused:
        await wait_for_redis(redis, settings)
    await redis.aclose()
    (finding,) = await examine(guarded.access, Keys(policy))

    for text in (told.value.advice, str(refused.value), finding.remedy):
        assert f"check the user and the password in {guarded.file}" in text
