"""One parser reads the Redis URL of producer, worker and command line: what it takes, refuses, and shows of it."""

from __future__ import annotations

import pickle

import pytest

from rollstream.transport.redis.urls import RedisUrlError, parse, without_password

READ = {
    "redis://": ([("localhost", 6379)], {}),
    "redis://h:1/3": ([("h", 1)], {"db": 3}),
    "redis://h/?db=3": ([("h", 6379)], {"db": 3}),
    "redis://:p%40s%2Fs@h": ([("h", 6379)], {"password": "p@s/s"}),
    "redis://:p@ss@h": ([("h", 6379)], {"password": "p@ss"}),
    "redis://u@h?password=a%40b+c": ([("h", 6379)], {"username": "u", "password": "a@b+c"}),
    "redis://[::1]:7/0": ([("::1", 7)], {"db": 0}),
    "redis://[fe80::1%25eth0]": ([("fe80::1%eth0", 6379)], {}),
    "redis://my_redis.internal.:6379": ([("my_redis.internal.", 6379)], {}),
    "redis+cluster://u:p@a:1,b/0?client_name=c": (
        [("a", 1), ("b", 6379)],
        {"db": 0, "username": "u", "password": "p", "client_name": "c"},
    ),
    "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=/a%20b": (
        [("h", 6379)],
        {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": "/a b"},
    ),
    "redis+sentinel://u:p@a:1,b,[::1]/my.master-1/3?client_name=c": (
        [("a", 1), ("b", 26379), ("::1", 26379)],
        {"db": 3, "username": "u", "password": "p", "client_name": "c"},
    ),
    "rediss+sentinel://a/m?ssl_ca_certs=/ca.pem": ([("a", 26379)], {"ssl_ca_certs": "/ca.pem"}),
    "redis://h?health_check_interval=30": ([("h", 6379)], {"health_check_interval": 30}),
}


@pytest.mark.parametrize("url", READ)
def test_a_url_says_where_and_how(url: str) -> None:
    nodes, options = READ[url]

    found = parse(url)

    assert list(found.nodes) == nodes
    assert dict(found.options) == options
    assert found.is_cluster == ("cluster" in url)
    assert found.is_sentinel == ("sentinel" in url)
    assert found.is_tls == url.startswith("rediss")


def test_a_unix_socket_has_a_path_and_its_options() -> None:
    found = parse("unix://u:p@/run/my%20redis.sock?db=2")

    assert (found.nodes, found.path) == ((), "/run/my redis.sock")
    assert dict(found.options) == {"db": 2, "username": "u", "password": "p"}
    assert str(found) == "unix://***@/run/my%20redis.sock"


def test_sentinels_have_a_service_and_a_login_of_their_own() -> None:
    found = parse("redis+sentinel://u:p@a,b/m/2?sentinel_username=s&sentinel_password=a%40b")

    assert (found.service, dict(found.options)) == ("m", {"db": 2, "username": "u", "password": "p"})
    assert dict(found.sentinel_login) == {"username": "s", "password": "a@b"}
    assert "a@b" not in repr(found)


REFUSED = {
    "localhost:6379": "begins otherwise",
    "http://h": "begins otherwise",
    "redis://h:port": "port is no number",
    "redis://h:": "port is no number",
    "redis://h:0": "port is no number",
    "redis://h:65536": "port is no number",
    "redis://h:²": "port is no number",
    "redis://::1:6379": "an IPv6 address is written",
    "redis://[::1": "an IPv6 address is written",
    "redis://[h]:1": "an IPv6 address is written",
    "redis://h/zero": "database is no number",
    "redis://h/0?db=1": "two databases",
    "redis://h/0/1": "database is no number",
    "redis://a:1,b:2": "write redis+cluster://",
    f"redis://{'a' * 64}.de": "no valid host name",
    "redis://-h": "no valid host name",
    "redis+cluster://a/2": "database 0",
    "redis+cluster://a?db=2": "database 0",
    "redis+cluster://:secret@a:1,:secret@b:2": "one login",
    "redis+cluster://:secret@a:1,": "comma without a node",
    "redis://u:secret@h?password=secret": "says password twice",
    "redis+sentinel://a,b": "names no service",
    "redis+sentinel://a,b/": "names no service",
    "redis+sentinel://a,b//0": "names no service",
    "redis+sentinel://a,b/two words": "a # or a space",
    "redis+sentinel://a,b/m%20n": "names no service",
    "redis+sentinel://a,b/m/zero": "database is no number",
    "redis+sentinel://a,b/m/0/1": "database is no number",
    "redis+sentinel://a,b/m/0?db=1": "two databases",
    "redis+sentinel://a,,b/m": "comma without a node",
    "redis+sentinel://:secret@a,:secret@b/m": "one login",
    "redis+sentinel://a/m?sentinel_pasword=secret": "do you mean sentinel_password",
    "redis+sentinel://a/m?sentinel_password=secret&sentinel_password=secret": "twice",
    "redis+sentinel://a/m?sentinel_password=sec@ret": "percent-encode",
    "redis+sentinel://:secr/et@a/m": "percent-encode",
    "redis://h?sentinel_password=secret": "must not set 'sentinel_password'",
    "redis://h?db=1&db=2": "says db twice",
    "redis://h?client_name=two%20words": "client_name is empty or holds a space",
    "redis://h?health_check_interval=often": "health_check_interval is no number",
    "redis://h?protocol=3": "must not set 'protocol'; it may set client_name, db",
    "redis://h?decode_responses=true": "must not set 'decode_responses'",
    "redis://h?socket_timeout=0.001": "must not set 'socket_timeout'",
    "redis://h?pasword=secret": "do you mean password",
    "redis://h?ssl_ca_certs=/x": "TLS is rediss://",
    "rediss://h?ssl_ca_cert=/x": "do you mean ssl_ca_certs",
    "rediss://h?ssl_cert_reqs=no": "none of required, optional, none",
    "unix://run/redis.sock": "three slashes",
    "unix://": "three slashes",
    f"unix:///{'a' * 107}": "at most 107 bytes",
    "redis://:secr?et@h:1/0": "percent-encode",
    "redis://:secr/et@h:1/0": "percent-encode",
    "redis://:secr#et@h:1/0": "percent-encode",
    "redis://:secr et@h:1/0": "percent-encode",
    "redis://:secr\x1b[31met@h:1/0": "percent-encode",
    "redis://:secr?x=et@h:1/0": "percent-encode",
    "redis://:secr%ffet@h": "no UTF-8",
    "redis://:secr[et": "no valid host name",
    "redis://secr?et": "percent-encode",
    "redis+cluster://:secr?et@a:1,b:2": "percent-encode",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_cannot_be_meant_is_refused_and_shows_no_password(url: str) -> None:
    with pytest.raises(RedisUrlError, match="not a Redis URL") as caught:
        parse(url)

    text = str(caught.value)
    assert REFUSED[url] in text
    assert "secr" not in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(RedisUrlError, match="it is no text"):
        parse(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://u:p@h:1/0?password=q", "rediss://***@h:1/0"),
        ("redis://h:1/0?password=q", "redis://***@h:1/0"),
        ("redis://:p@ss@h", "redis://***@h"),
        ("redis+cluster://u:p@a:1,b:2", "redis+cluster://***@a:1,b:2"),
        ("redis+sentinel://u:p@a:1,b/m/0", "redis+sentinel://***@a:1,b/m/0"),
        ("rediss+sentinel://a/m?sentinel_password=q", "rediss+sentinel://***@a/m"),
        ("unix://u:p@/run/redis.sock?db=1", "unix://***@/run/redis.sock"),
        ("redis://:s3cr?et@h", "redis://***"),
        ("s3cr", "***"),
        ("s3cr://h", "***"),
    ],
)
def test_no_password_is_shown(url: str, expected: str) -> None:
    assert without_password(url) == expected
