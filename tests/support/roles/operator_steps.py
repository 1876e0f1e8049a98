"""What operators and exporters look at, and steer, while workers serve."""

from __future__ import annotations

import asyncio

from rollstream.schemas import Keys
from tests.support.command_line import Command
from tests.support.roles.place import Place
from tests.support.watching.exporters import exporting
from tests.support.watching.served_page import TOKEN, reading, served


def operate(place: Place) -> None:
    golden = str(place.folder / "jobs.golden")
    for words in (
        ["pause"], ["status"], ["resume"], ["status", "--json"], ["batches"], ["lease"], ["versions"],
        ["runs"], ["runs", "--run", "exp"], ["runs", "--forget", "exp", "--yes"],
        ["golden", "record", "--cases", "2", "--out", golden], ["golden", "check", golden],
        ["replay", "--batch", "first"], ["replay", "--batch", "seen"], ["doctor"],
    ):  # fmt: skip
        place.ok(*words)
    asyncio.run(_look(place))
    with exporting(place.url_of("exporter"), place.policy) as exporter:
        assert "rollstream_queue_jobs" in exporter.text()
    status = Command(place.url_of("exporter"), place.policy)("status")
    assert status.exit_code == 0, status.output


async def _look(place: Place) -> None:
    keys = Keys(place.policy)
    async with served(token=TOKEN, allow_actions=True, **reading(place.url_of("operator"), keys)) as page:
        await page.log_in()
        for path in ("fleet", "batches/first", "batches/first/groups/0"):
            told = await page.http.get(f"/api/{path}")
            assert told.status_code == 200, (path, told.text)
        assert (await page.act("pause")).status_code == 200
        assert (await page.act("resume")).status_code == 200
