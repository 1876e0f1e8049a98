"""What an operator may do from the page happens in Redis, once it was confirmed, and is logged with who asked."""

from __future__ import annotations

import logging

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import GroupError
from tests.support.dead_letters import bury, letter_of
from tests.support.faults import Queue
from tests.support.replaying import CONFIG
from tests.support.reports import report_of
from tests.support.watching.served_page import TOKEN, Served, served
from tests.support.worker_process import WorkerProcess, until_true

BEARER = {"authorization": f"Bearer {TOKEN}"}


async def test_pausing_and_resuming_show_in_the_next_reading(
    live: Served, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    await live.log_in()
    with caplog.at_level(logging.INFO, logger="rollstream"):
        answers = [(await live.act(action)).json() for action in ("pause", "pause")]
        async with live.events() as events:
            while not (await events.next())["paused"]:
                pass
        answers += [(await live.act(action)).json() for action in ("resume", "resume")]

    assert answers == [{"changed": True}, {"changed": False}] * 2
    assert caplog.messages[0] == f'page: 127.0.0.1 asked to pause (policy {policy}): {{"changed": true}}'
    assert len(caplog.messages) == 4


async def test_a_batch_is_cancelled_once_its_name_was_confirmed(live: Served, trainer: AsyncClient) -> None:
    handle = await trainer.submit([[1], [2], [3]], None, CONFIG, batch_id="mine")
    await live.log_in()

    unconfirmed = [await live.act("batches/mine/cancel", told) for told in ({}, {"confirm": "other"}, {"confirm": 1})]
    assert [answer.status_code for answer in unconfirmed] == [400] * 3
    assert await handle.finished() == []

    done = await live.act("batches/mine/cancel", {"confirm": "mine"})
    assert done.json() == {"groups": 3, "cancelled": 3}
    assert {answer.code for answer in await handle.finished() if isinstance(answer, GroupError)} == {"cancelled"}


async def test_a_worker_is_drained_from_a_script_with_the_token(live: Served, stub_worker: WorkerProcess) -> None:
    fleet = (await live.http.get("/api/fleet", headers=BEARER)).json()
    (name,) = (worker["consumer"] for worker in fleet["workers"])

    done = await live.http.post(f"/api/workers/{name}/drain", json={"confirm": name}, headers=BEARER)

    assert done.json() == {"drains": [name]}
    await until_true(lambda: stub_worker.process.poll() == 0)


async def test_a_dead_letter_is_queued_again(live: Served, queue: Queue, trainer: AsyncClient) -> None:
    await trainer.submit([[1, 2]], None, GenerationConfig(max_new_tokens=4), batch_id="b")
    ((job, fields),) = queue.entries()
    queue.redis.xdel(queue.jobs_key, job)
    letter = bury(queue, letter_of(queue.keys.policy), fields[b"payload"])
    await live.log_in()

    done = await live.act(f"letters/0/{letter}/requeue", {"confirm": f"0/{letter}"})
    again = await live.act(f"letters/0/{letter}/requeue", {"confirm": f"0/{letter}"})

    assert (done.status_code, done.json()) == (200, {"batch_id": f"b.requeue-{letter}"})
    assert again.status_code == 404
    assert (len(queue.entries()), queue.dead()) == (1, [])


async def test_a_letter_without_a_job_stays_and_says_why(live: Served, queue: Queue) -> None:
    letter = bury(queue, letter_of(queue.keys.policy), b"\xff\x00")
    await live.log_in()

    refused = await live.act(f"letters/0/{letter}/requeue", {"confirm": f"0/{letter}"})

    assert refused.status_code == 409
    assert "cannot be queued again" in refused.json()["error"]
    assert len(queue.dead()) == 1


STRANGERS = {
    ("batches/unknown/cancel", "unknown"): 404,
    ("batches/%3Cb%3E/cancel", "<b>"): 400,
    ("workers/unknown/drain", "unknown"): 404,
    ("workers/a%2Fb%1b/drain", "a/b\x1b"): 404,
    ("letters/0/1-0/requeue", "0/1-0"): 404,
    ("letters/999/1-0/requeue", "999/1-0"): 404,
    ("letters/x/y/z/requeue", "x/y/z"): 404,
    ("fly", ""): 404,
}


async def test_what_is_not_there_is_named(live: Served, queue: Queue) -> None:
    report_of(queue.redis, queue.keys, "gpu-1", {"state": "serving"})
    await live.log_in()
    answers = {asked: await live.act(asked[0], {"confirm": asked[1]}) for asked in STRANGERS}

    assert {asked: answer.status_code for asked, answer in answers.items()} == STRANGERS
    assert [one.text for one in answers.values() if not one.json()["error"].isprintable()] == []


ODD_BODIES = {
    (b"{}", "text/plain"): 415,
    (b"a=b", "application/x-www-form-urlencoded"): 415,
    (b"", "application/json"): 400,
    (b"[]", "application/json"): 400,
    (b"{", "application/json"): 400,
    (b"\xff", "application/json"): 400,
    (b"[" * 4000, "application/json"): 400,
    (b'{"a":"' + b"x" * 4096 + b'"}', "application/json"): 413,
}


async def test_an_odd_body_pauses_nothing(live: Served, queue: Queue) -> None:
    for (body, kind), status in ODD_BODIES.items():
        answer = await live.http.post("/api/pause", content=body, headers={"content-type": kind, **BEARER})
        assert answer.status_code == status, body[:20]
    assert queue.redis.exists(queue.keys.control()) == 0


async def test_another_site_pauses_nothing_though_the_browser_is_logged_in(live: Served, queue: Queue) -> None:
    await live.log_in()
    answers = [
        await live.act("pause", origin="http://evil.example"),
        await live.act("pause", **{"sec-fetch-site": "cross-site"}),
        await live.act("pause", **{"x-rollstream-csrf": ""}),
        await live.http.post("/api/pause", json={}, headers={"origin": "http://127.0.0.1"}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert queue.redis.exists(queue.keys.control()) == 0


async def test_a_page_that_only_shows_says_so_to_those_who_ask_for_more() -> None:
    async with served(token=TOKEN) as page:
        assert not await page.log_in()
        answer = await page.act("pause")
    assert answer.status_code == 403
    assert "--allow-actions" in answer.json()["error"]


async def test_without_redis_an_action_says_so_at_once(caplog: pytest.LogCaptureFixture, guarded: Served) -> None:
    await guarded.log_in()
    answer = await guarded.act("pause")

    assert answer.status_code == 503
    assert "127.0.0.1:1" in answer.json()["error"]
    assert "asked to pause" in caplog.text
