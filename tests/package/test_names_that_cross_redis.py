"""What crosses Redis is named in `schemas` alone: a name spelled elsewhere is one that the other side may not read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream.schemas.hashes.worker_report import REPORT_FIELDS
from rollstream.schemas.lease import LEASE_FIELD
from tests.support.worker_process import ROOT

PACKAGES = ("producer", "worker", "transport", "benchmarks", "examples")
COMMANDS = {
    "hdel", "hexists", "hget", "hincrby", "hincrbyfloat", "hmget", "hscan", "hscan_iter", "hset", "hsetnx", "scan_iter",
    "xadd", "zadd", "zrem", "zscore",
}  # fmt: skip
"""What they are called with is a key, a field or a pattern, nearly always."""
SETTINGS = {
    "lease_s", "heartbeat_s", "max_logprobs", "max_model_len", "metrics_port", "runs_on", "tokens_per_s", "vocab_size",
}  # fmt: skip
"""Fields of a report that settings, models and benchmarks have too."""
NAMES = {name for name in REPORT_FIELDS if "_" in name} - SETTINGS | {LEASE_FIELD}
"""Such that nothing else is called so in a text."""
_FIELD = re.compile("(g|job|answered|dup|lived|dead):")
"""Before the number in a field of a ledger; a text for people has a blank after it."""
_KEY = re.compile(r"rs:\\?\{|:(workers|ledger|results|jobs|versions|control|blob|adapter):|^parked:")
_WORD = re.compile(r"[a-z][a-z_:*]*")
_ID = re.compile(r"\d+-\d+")


def literals(node: ast.AST) -> Iterator[str]:
    """The texts and bytes that stand in an expression, without those of the calls in it."""
    match node:
        case ast.Constant(value=str() | bytes() as value):
            yield value.decode("latin-1") if isinstance(value, bytes) else value
        case ast.JoinedStr(values=[ast.Constant(value=str() as head), *_]):
            yield head
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                yield from literals(part)
        case ast.Dict(keys=keys):
            for key in keys:
                yield from () if key is None else literals(key)
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.Starred(value=part):
            yield from literals(part)


def spelled(source: str) -> list[str]:
    """Each name of something in Redis that this source spells, as `line: name`."""
    tree = ast.parse(source)
    told = {
        id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
    }
    found = (name for node in ast.walk(tree) if id(node) not in told for name in _names(node))
    return sorted({f"{line}: {name}" for line, name in found})


def _names(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Call(func=ast.Attribute(attr=command), args=args, keywords=keywords) if command in COMMANDS:
            found = [word for arg in (*args, *(one.value for one in keywords)) for word in literals(arg)]
            yield from ((node.lineno, word) for word in found if _WORD.fullmatch(word))
        case ast.Call(func=ast.Attribute(attr="get" | "split" | "partition"), args=[ast.Constant(value=bytes()), *_]):
            yield node.lineno, ast.unparse(node)
        case ast.Subscript(slice=ast.Constant(value=bytes())):
            yield node.lineno, ast.unparse(node)
        case ast.Constant(value=str() | bytes() as value):
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if text in NAMES or _ID.fullmatch(text) or (_KEY.search(text) and " " not in text):
                yield node.lineno, text
        case ast.JoinedStr(values=[ast.Constant(value=str() as head), *_]) if _FIELD.fullmatch(head):
            yield node.lineno, head
        case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value="-0")]):
            yield node.lineno, ast.unparse(node)


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_name_that_crosses_redis_is_spelled_outside_schemas() -> None:
    found = {str(path.relative_to(ROOT)): spelled(path.read_text()) for path in modules()}
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "redis.hget(key, 'paused')",
        "pipe.hmget(keys.ledger(batch_id), ['done', GROUPS])",
        "pipe.hmget(key, *(f'g:{group}' for group in groups))",
        "redis.hset(key, mapping={'state': 1})",
        "redis.hset(key, mapping=dict(state=1), **{'drain': 1}) or redis.hget(key, 'drain')",
        "redis.xadd(key, {'payload': data}, id=entry)",
        "redis.hscan_iter(key, match='job:*')",
        "fields.get(b'payload', b'')",
        "fields[b'letter']",
        "row['id'].split(b'-')",
        "report = {'groups_published': 1}",
        "name = f'lived:{entry}:{delivery}'",
        "key = f'rs:{{{policy}}}:history'",
        "consumer = f'parked:version:{version}'",
        "start = '0-0'",
        "entry = f'{version}-0'",
        "value = ('HDEL', control, 'lease_ms')",
        "match = re.compile(rb'rs:\\{([^{}:]+)\\}:workers:')",
    ],
)
def test_a_name_spelled_elsewhere_is_seen(source: str) -> None:
    assert spelled(source)


def test_words_for_people_and_names_of_schemas_are_none() -> None:
    source = '''
    def told(redis, found, job):
        """A report has a policy_version, rs:{p}:control is paused."""
        redis.hget(key, PAUSED_FIELD)
        redis.xrange(stream, "-", "+", count=1)
        log.info(f"job: {job} waits", state="paused", done=True)
        return found.get("done"), f"dead: {job}", hashlib.sha256(b"replay"), {"state": "x"}
    '''
    assert spelled("if True:" + source) == []
