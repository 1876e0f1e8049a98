"""What each address answers, over a real socket, and the headers that every answer has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rollstream.producer.observe.web.assets import FOLDER
from tests.producer.observe.web.test_fleet_json import with_hostile_texts
from tests.support.watching.invented_fleet import InventedReader, invented_fleet
from tests.support.watching.served_page import TOKEN, Served, served
from tests.support.worker_process import until_true

PAGES = ("/", "/batches/step-8", "/letters/0/1700000000000-0")
ELSEWHERE = (
    "/assets/", "/assets", "/assets/..", "/assets/../serve.py", "/assets/..%2fserve.py", "/assets/%2e%2e/serve.py",
    "/assets/..%5cserve.py", "/assets//etc/passwd", "/assets/%2fetc%2fpasswd", "/assets/styles/app.css/..%00",
    "/assets/assets.py", "/assets/kit", "/assets/kit/", "/assets/kit/../index.html", "/assets/kit/%2e%2e/index.html",
    "/../serve.py", "/serve.py", "/index.html", "/batches", "/batches/a/b", "/api", "/api/",
    "//evil.example/", "/login/", "/docs", "/openapi.json",
)  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@pytest.mark.parametrize("path", PAGES)
async def test_each_address_of_the_page_is_the_same_file(page: Served, path: str) -> None:
    answer = await page.http.get(path)

    assert (answer.status_code, answer.content) == (200, (FOLDER / "index.html").read_bytes())
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_every_file_of_the_page_is_served_and_asked_for_again_only_when_it_changed(page: Served) -> None:
    names = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert {"index.html", "login.html", "kit/dom.js", "styles/app.css", "uplot/uplot.LICENSE"} <= names
    for name in names:
        answer = await page.http.get(f"/assets/{name}")
        again = await page.http.get(f"/assets/{name}", headers={"if-none-match": f'"x", W/{answer.headers["etag"]}'})

        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
        assert (again.status_code, again.content) == (304, b"")


async def test_nothing_else_is_served(page: Served) -> None:
    found = {target: await sent(page, target) for target in ELSEWHERE}

    assert {target: answer for target, answer in found.items() if not answer.startswith(b"HTTP/1.1 404 ")} == {}
    assert {answer.partition(b"\r\n\r\n")[2] for answer in found.values()} == {b'{"error":"there is nothing here"}'}


async def sent(page: Served, target: str) -> bytes:
    """What is answered to exactly this target, which a client would tidy up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


ANSWERS = (
    ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/assets/uplot/uplot.min.js", 200), ("GET", "/api/session", 200),
    ("GET", "/api/fleet", 200), ("HEAD", "/events", 200), ("GET", "/nothing", 404), ("PUT", "/", 405),
    ("POST", "/", 403), ("POST", "/api/fleet", 403), ("GET", "/api/pause", 405),
)  # fmt: skip


async def test_every_answer_forbids_other_scripts_frames_and_guesses(page: Served) -> None:
    for method, path, status in ANSWERS:
        answer = await page.http.request(method, path)
        told = {name: answer.headers.get(name) for name in answer.headers}

        assert answer.status_code == status, path
        assert told["content-security-policy"] == POLICY
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert told["cross-origin-resource-policy"] == "same-origin"
        is_file = path in {"/", "/assets/uplot/uplot.min.js"} and status == 200
        assert told["cache-control"] == ("no-cache" if is_file else "no-store")
        assert {"server", "access-control-allow-origin"} & set(told) == set()


async def test_the_session_says_what_this_page_may_show(page: Served, guarded: Served) -> None:
    told = (await page.http.get("/api/session")).json()
    assert {**told, "version": ""} == {
        "policy": "math-7b", "partitions": 2, "redis": "redis://127.0.0.1:1/0", "version": "", "actions": False,
        "csrf": "", "text": False,
    }  # fmt: skip

    csrf = await guarded.log_in()
    told = (await guarded.http.get("/api/session")).json()
    assert (told["actions"], told["csrf"]) == (True, csrf)
    assert len(csrf) == 64


async def test_hostile_texts_come_out_as_json_that_is_not_taken_for_a_page() -> None:
    async with served(reader=InventedReader(with_hostile_texts(invented_fleet()))) as page:
        answer = await page.http.get("/api/fleet")
        async with page.events() as events:
            event = await events.next()

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert {**event, "read_at": 0} == {**answer.json(), "read_at": 0}
    assert "\x1b" not in answer.text


async def test_a_person_logs_in_once_and_is_led_where_they_wanted_to_go(guarded: Served) -> None:
    asked = await guarded.http.get("/batches/step-8")
    form = await guarded.http.get(asked.headers["location"])
    done = await guarded.http.post(asked.headers["location"], data={"token": f" {TOKEN} "})

    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=/batches/step-8")
    assert b"<!--problem-->" not in form.content
    assert b'role="alert"' not in form.content
    assert (done.status_code, done.headers["location"]) == (303, "/batches/step-8")
    cookie = done.headers["set-cookie"]
    assert cookie.startswith(f"rollstream-{guarded.port}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert (await guarded.http.get("/api/fleet")).status_code == 200


async def test_a_login_leads_nowhere_else(guarded: Served) -> None:
    for wanted in ("https://evil.example/", "//evil.example/", "/\\evil.example", "/login", "/a%0d%0ab"):
        done = await guarded.http.post(f"/login?next={wanted}", data={"token": TOKEN})
        assert (done.status_code, done.headers["location"]) == (303, "/")


async def test_wrong_tokens_are_refused_logged_and_then_not_even_looked_at(
    guarded: Served, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [await guarded.http.post("/login", data={"token": "wrong"}) for _ in range(6)]
    late = await guarded.http.post("/login", data={"token": TOKEN})
    script = await guarded.http.get("/api/fleet", headers={"authorization": f"Bearer {TOKEN}"})

    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert b"This is not the token" in answers[0].content
    assert (late.status_code, script.status_code) == (429, 429)
    assert "set-cookie" not in late.headers
    assert 0 < int(late.headers["retry-after"]) <= 60
    assert caplog.messages == ["page: 127.0.0.1 gave a wrong token"] * 5


async def test_wrong_tokens_that_are_held_back_and_sent_at_once_are_counted_as_well(guarded: Served) -> None:
    taken = [await asyncio.open_connection("127.0.0.1", guarded.port) for _ in range(20)]
    for _, writer in taken:
        writer.write(
            b"POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 8\r\n"
            b"content-type: application/x-www-form-urlencoded\r\n\r\n"
        )
    await until_true(lambda: len(guarded.server.server_state.tasks) == len(taken))
    for number, (_, writer) in enumerate(taken):
        writer.write(b"token=%02d" % number)
    answers = [await reader.read() for reader, _ in taken]

    assert sorted(answer[:12] for answer in answers) == [b"HTTP/1.1 401"] * 5 + [b"HTTP/1.1 429"] * 15
    for _, writer in taken:
        writer.close()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"token=" + TOKEN.encode(), "text/plain", 415),
        (b'{"token": "x"}', "application/json", 415),
        (b"token=" + b"x" * 5000, "application/x-www-form-urlencoded", 413),
        (b"\xff=\xff&&&", "application/x-www-form-urlencoded", 401),
        (b"", "application/x-www-form-urlencoded", 401),
    ],
)
async def test_odd_forms_open_nothing(guarded: Served, body: bytes, kind: str, status: int) -> None:
    answer = await guarded.http.post("/login", content=body, headers={"content-type": kind})
    assert answer.status_code == status


async def test_a_body_without_a_length_is_read_only_so_far(guarded: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 1000

    answer = await guarded.http.post(
        "/login", content=endless(), headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 413


async def test_an_address_in_a_url_holds_no_token(guarded: Served) -> None:
    answer = await guarded.http.get(f"/api/fleet?token={TOKEN}")
    assert answer.status_code == 401


async def test_a_defect_is_told_without_its_details(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(page.site.readings, "newest", broken)
    answer = await page.http.get("/api/fleet")
    assert (answer.status_code, answer.json()) == (500, {"error": "a defect in this server: its log has the traceback"})
