"""Each role does its work through Sentinels under its own user, on the first primary and on the one that follows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from rollstream.transport.acl import Role
from tests.support.command_line import Command
from tests.support.roles.main_path import MainPath
from tests.support.roles.users import on_each
from tests.support.sentinel.servers import Watched
from tests.support.stub_workers import serving

CONFIG = GenerationConfig(max_new_tokens=4)


def url_of(watched: Watched, role: str) -> str:
    return watched.url.replace("//", f"//{role}:pw@")


@pytest.mark.large
def test_a_day_of_each_role_goes_without_a_refusal(
    watched: Watched, policy: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLSTREAM_REDIS_WAIT", "1")
    with on_each(watched.servers, policy) as users:
        path = MainPath(
            redis_url=watched.primary.url, url_of=lambda role: url_of(watched, role), policy=policy, model=tiny_model,
            folder=tmp_path,
        )  # fmt: skip

        path.short()

        assert [each.refused() for each in users] == [set()] * 3


def test_each_role_goes_on_under_its_user_on_a_promoted_replica(watched: Watched, policy: str) -> None:
    with (
        on_each(watched.servers, policy) as users,
        Client(url_of(watched, Role.PRODUCER), policy=policy) as client,
        serving(url_of(watched, Role.WORKER), policy) as (worker,),
    ):
        before = client.generate([[1]], None, CONFIG, timeout=30)
        watched.fail_over()
        after = client.generate([[2]], None, CONFIG, timeout=30)
        said = [
            Command(url_of(watched, role), policy)(word)
            for role, word in ((Role.OPERATOR, "pause"), (Role.OPERATOR, "resume"), (Role.EXPORTER, "status"))
        ]

        assert (before.errors, after.errors) == ({}, {})
        assert [each.exit_code for each in said] == [0, 0, 0], [each.output for each in said]
        assert [each.refused() for each in users] == [set()] * 3
        assert "ermission" not in worker.log
