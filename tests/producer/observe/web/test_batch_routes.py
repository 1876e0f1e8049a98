"""A batch's groups, one group with its text, and a dead letter, as they stand in Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.batches.tokenizer_folder import read_tokenizer
from rollstream.producer.observe.web import texts
from rollstream.producer.observe.web.texts import Texts
from rollstream.schemas import Keys
from tests.support.dead_letters import HOSTILE, bury, letter_of
from tests.support.faults import Queue
from tests.support.watching.served_page import TOKEN, Served, reading, served
from tests.support.worker_process import WorkerProcess

BEARER = {"authorization": f"Bearer {TOKEN}"}


async def get(page: Served, path: str) -> Any:
    answer = await page.http.get(f"/api/{path}", headers=BEARER)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


async def test_a_batch_is_read_by_pages_of_groups(
    live: Served, trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    config = GenerationConfig(max_new_tokens=3, num_return_sequences=2, ignore_eos=True)
    await (await trainer.submit([[1], [2], [3]], None, config, batch_id="b")).result(60)

    status, told = await get(live, "batches/b?first=1&count=1")

    assert (status, told["num_groups"], told["done"], told["first"]) == (200, 3, 3, 1)
    ((group, state, lengths),) = (
        (one["group"], one["state"], [sample["length"] for sample in one["completions"]]) for one in told["groups"]
    )
    assert (group, state, lengths) == (1, "result", [3, 3])
    assert told["groups"][0]["completions"][0]["versions"] == [[0, 3]]

    status, one = await get(live, "batches/b/groups/2")
    assert (status, one["prompt_token_ids"], len(one["completions"][0]["token_ids"])) == (200, [3], 3)
    assert "prompt_text" not in one


async def test_a_letter_is_told_without_what_a_terminal_or_a_page_would_obey(live: Served, queue: Queue) -> None:
    letter = letter_of(queue.keys.policy, error="<b>\x1b[2J", traceback="one\n\x1btwo", worker="<i>\u202e")
    entry = bury(queue, letter, HOSTILE)

    status, told = await get(live, f"letters/0/{entry}")

    assert (status, told["error"], told["traceback"]) == (200, "<b>\\x1b[2J", "one\n\\x1btwo")
    assert told["worker"] == "<i>\\u202e"
    assert told["problem"].isprintable()


STRANGERS = {
    "batches/unknown": 404,
    "batches/%3Cscript%3E": 400,
    "batches/b?first=-1": 400,
    "batches/b?first=x": 400,
    "batches/b?count=99999999999": 400,
    "batches/b?count=%F0%9D%9F%99": 400,
    "batches/b/groups/x": 400,
    "batches/b/groups/7": 404,
    "letters/0/1-0": 404,
    "letters/0/x": 404,
    "letters/x/1-0": 400,
    "letters/900/1-0": 404,
}


async def test_what_is_not_there_is_said_in_a_line(live: Served, trainer: AsyncClient) -> None:
    await trainer.submit([[1]], None, GenerationConfig(max_new_tokens=3), batch_id="b")
    found = {path: await get(live, path) for path in STRANGERS}

    assert {path: status for path, (status, _) in found.items()} == STRANGERS
    assert [told for _, told in found.values() if not told["error"].isprintable()] == []


async def test_with_a_tokenizer_a_group_is_shown_as_text(
    redis_url: str, policy: str, trainer: AsyncClient, stub_worker: WorkerProcess, tiny_model: Path
) -> None:
    shown = Texts(tokenizer=read_tokenizer(tiny_model))
    config = GenerationConfig(max_new_tokens=3, num_return_sequences=2, ignore_eos=True)
    await (await trainer.submit([[65, 66]], None, config, batch_id="b")).result(60)

    async with served(texts=shown, **reading(redis_url, Keys(policy))) as page:
        assert (await page.http.get("/api/session")).json()["text"] is True
        one = (await page.http.get("/api/batches/b/groups/0")).json()

    assert one["prompt_text"] == await shown.of([65, 66]) != ""
    assert [type(sample["text"]) for sample in one["completions"]] == [str, str]


class OddTokenizer:
    """Answers as no tokenizer should."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def decode(self, ids: list[int], **_options: bool) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer * len(ids)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (OverflowError("can't convert negative int to unsigned"), None),
        (IndexError("piece id is out of range"), None),
        ("x" * 1000, "x" * 100),
        ("\ud800", "?" * 8),
    ],
)
async def test_a_text_is_bounded_and_has_only_characters(
    monkeypatch: pytest.MonkeyPatch, answer: Any, text: str | None
) -> None:
    monkeypatch.setattr(texts, "MOST_TOKENS", 8)
    monkeypatch.setattr(texts, "MOST_CHARACTERS", 100)
    assert await Texts(tokenizer=OddTokenizer(answer)).of(range(50)) == text
