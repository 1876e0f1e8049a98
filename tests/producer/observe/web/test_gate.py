"""Which requests are refused, and how, before anything of the application sees them."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.producer.http.sockets import known_hosts
from rollstream.producer.http.tokens import WrongTries
from rollstream.producer.observe.web.gate import Asked, Rules
from rollstream.producer.observe.web.sessions import Sessions

TOKEN = "0123456789abcdef"
SESSIONS = Sessions(token=TOKEN)
SESSION = SESSIONS.begin()
CSRF = SESSIONS.csrf(SESSION)
LOOPBACK = known_hosts("127.0.0.1", "127.0.0.1")


def status(*, token: str | None = TOKEN, hosts: Any = None, allow_actions: bool = True, **asked: Any) -> int | None:
    rules = Rules(sessions=Sessions(token=token), tries=WrongTries(), hosts=hosts, allow_actions=allow_actions)
    problem = rules.problem(Asked(**{"method": "GET", "path": "/api/fleet", "length": "0", **asked}))
    return None if problem is None else problem.status


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [
        ("localhost", True),
        ("localhost:8080", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8080", False),
        ("localhost:8080.evil.example", False),
        ("127.0.0.2", False),
        ("::1", False),
        ("localhost@evil.example", False),
        ("localhost:", False),
        ("[::1]:x", False),
    ],
)
def test_at_a_loopback_address_only_names_of_this_machine_are_answered(host: str, is_taken: bool) -> None:
    assert status(token=None, hosts=LOOPBACK, host=host) == (None if is_taken else 400)


def test_the_host_that_was_given_is_a_name_of_it_where_it_is_a_loopback_address() -> None:
    hosts = known_hosts("Workstation", "127.0.1.1")
    assert [status(token=None, hosts=hosts, host=name) for name in ("workstation:1", "127.0.1.1")] == [None, None]


def test_beyond_loopback_any_name_is_answered_because_there_is_a_token() -> None:
    assert known_hosts("0.0.0.0", "0.0.0.0") is None
    assert status(host="any.example", session=SESSION) is None


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "X"])
def test_other_methods_are_refused(method: str) -> None:
    assert status(method=method, session=SESSION) == 405


@pytest.mark.parametrize(
    ("path", "fetch_site", "found"),
    [
        ("/api/fleet", "", None),
        ("/api/fleet", "same-origin", None),
        ("/api/fleet", "none", None),
        ("/api/fleet", "cross-site", 403),
        ("/events", "cross-site", 403),
        ("/events", "same-site", 403),
        ("/", "cross-site", None),
    ],
)
def test_another_site_may_link_to_the_page_and_ask_nothing_itself(path: str, fetch_site: str, found: Any) -> None:
    assert status(token=None, path=path, fetch_site=fetch_site) == found


@pytest.mark.parametrize(
    ("length", "found"), [("4096", None), ("4097", 413), ("-1", 400), ("", 400), ("9" * 10, 400), ("1e3", 400)]
)
def test_a_request_is_small(length: str, found: int | None) -> None:
    assert status(token=None, length=length) == found


FORGED = SESSION[:-1] + ("0" if SESSION[-1] != "0" else "1")
OTHER = Sessions(token="another-token-of-mine").begin()


@pytest.mark.parametrize("path", ["/", "/batches/b", "/letters/0/1-0", "/events", "/api/session", "/api/fleet"])
@pytest.mark.parametrize(
    ("shown", "is_taken"),
    [
        ({"session": SESSION}, True),
        ({"bearer": TOKEN}, True),
        ({}, False),
        ({"session": FORGED}, False),
        ({"session": OTHER}, False),
        ({"session": TOKEN}, False),
        ({"session": "9999999999.00."}, False),
        ({"session": "\xe9"}, False),
        ({"bearer": TOKEN[:-1]}, False),
        ({"bearer": TOKEN + "\xe9"}, False),
        ({"bearer": SESSION}, False),
        ({"bearer": "wrong", "session": SESSION}, False),
    ],
)
def test_with_a_token_only_those_who_show_it_are_answered(path: str, shown: dict[str, Any], is_taken: bool) -> None:
    refused = 303 if path not in {"/events"} and not path.startswith("/api") and not shown.get("bearer") else 401
    assert status(path=path, **shown) == (None if is_taken else refused)


@pytest.mark.parametrize("path", ["/login", "/assets/styles/app.css"])
def test_the_form_and_the_files_of_the_page_are_for_everybody(path: str) -> None:
    assert status(path=path) is None


def test_without_a_token_everybody_of_this_machine_may_look() -> None:
    assert status(token=None, hosts=LOOPBACK, host="localhost") is None


@pytest.mark.parametrize(
    ("cookies", "session"),
    [
        ("rollstream-80=mine", "mine"),
        ('a=1; {"odd": 1}; b:c=2; \xff; =; rollstream-80=mine; d', "mine"),
        ("rollstream-81=other; xrollstream-80=other", ""),
        ("", ""),
        (";" * 5000, ""),
    ],
)
def test_the_session_is_found_among_the_cookies_of_other_servers(cookies: str, session: str) -> None:
    headers = [(b"cookie", cookies.encode("latin-1")), (b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/", "client": ("127.0.0.1", 1), "headers": headers}
    assert Asked.of(scope, "rollstream-80").session == session


PAGE = {"session": SESSION, "csrf": CSRF, "host": "gpu:8080"}
SAME = "http://gpu:8080"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({**PAGE, "origin": SAME}, None),
        ({**PAGE, "origin": "http://GPU:8080"}, None),
        ({**PAGE, "origin": "https://gpu:8080", "fetch_site": "same-origin"}, None),
        ({**PAGE, "fetch_site": "same-origin"}, None),
        ({**PAGE}, 403),
        ({**PAGE, "origin": "null"}, 403),
        ({**PAGE, "origin": "null", "host": ""}, 403),
        ({**PAGE, "host": ""}, 403),
        ({**PAGE, "origin": "http://evil.example"}, 403),
        ({**PAGE, "origin": "http://gpu:8081"}, 403),
        ({**PAGE, "origin": "http://gpu:8080.evil.example"}, 403),
        ({**PAGE, "origin": SAME, "fetch_site": "cross-site"}, 403),
        ({**PAGE, "origin": SAME, "fetch_site": "same-site"}, 403),
        ({**PAGE, "origin": SAME, "fetch_site": "none"}, 403),
        ({**PAGE, "origin": SAME, "csrf": ""}, 403),
        ({**PAGE, "origin": SAME, "csrf": CSRF[:-1]}, 403),
        ({**PAGE, "origin": SAME, "csrf": SESSIONS.csrf(SESSIONS.begin())}, 403),
        ({**PAGE, "origin": SAME, "csrf": "\xe9"}, 403),
        ({**PAGE, "origin": SAME, "session": ""}, 401),
        ({**PAGE, "origin": SAME, "session": FORGED}, 401),
        ({"bearer": TOKEN, "host": "gpu:8080"}, None),
        ({"bearer": TOKEN, "host": "gpu:8080", "origin": SAME}, None),
        ({"bearer": TOKEN, "host": "gpu:8080", "origin": "http://evil.example"}, 403),
        ({"bearer": "wrong", "host": "gpu:8080"}, 401),
    ],
)
def test_an_action_is_taken_from_the_page_of_its_session_alone(asked: dict[str, Any], found: int | None) -> None:
    assert status(method="POST", path="/api/pause", **asked) == found


@pytest.mark.parametrize(("token", "allow_actions"), [(TOKEN, False), (None, True), (None, False)])
def test_no_action_is_taken_unless_it_was_allowed_and_there_is_a_token(token: str | None, allow_actions: bool) -> None:
    asked: dict[str, Any] = {**PAGE, "origin": SAME}
    assert status(method="POST", path="/api/pause", token=token, allow_actions=allow_actions, **asked) == 403


def test_after_some_wrong_tokens_an_address_must_wait_even_with_the_right_one() -> None:
    rules = Rules(sessions=SESSIONS, tries=WrongTries(), hosts=None, allow_actions=False)

    def answered(address: str, **shown: str) -> Any:
        return rules.problem(Asked(method="GET", path="/api/fleet", length="0", address=address, **shown))

    wrong = [answered("10.0.0.9", bearer="wrong").status for _ in range(7)]
    late = answered("10.0.0.9", bearer=TOKEN)

    assert wrong == [401] * 5 + [429] * 2
    assert (late.status, late.headers) == (429, (("retry-after", "60"),))
    assert answered("10.0.0.9", session=SESSION) is None
    assert answered("10.0.0.8", bearer=TOKEN) is None
