"""What trainers ask for on an ordinary day: samples, scores, adapters, images, conversations, runs, streams."""

from __future__ import annotations

import asyncio

import pytest

from rollstream import BatchConflictError, BatchConsumedError, Client, RequestConflictError
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.producer.sessions.arguments import batch_of
from tests.support.fault_steps import tokens
from tests.support.faults import Queue
from tests.support.gateway.served import gateway_of
from tests.support.images.pictures import file_of
from tests.support.roles.place import IMAGE, Place

ROUTED = tokens(2).model_copy(update={"routed_experts": True})
SHARED = tokens(2).model_copy(update={"num_return_sequences": 2})


def serve(place: Place, client: Client) -> None:
    done = client.generate([[1], [2]], None, tokens(3), batch_id="first", timeout=20)
    assert done.errors == {}
    assert client.attach("first").result(timeout=20).errors == {}
    some = client.generate([[1], [2], [3]], None, tokens(3), batch_id="some", timeout=20, first_groups=1)
    assert {error.code for error in some.errors.values()} <= {"not_needed"}
    shared = client.generate([[1]], None, SHARED, samples_per_job=1, timeout=20)
    assert shared.errors == {}
    routed = client.submit([[1], [2]], None, ROUTED)
    routed.wait(timeout=20)
    assert len(routed.routed_experts(0)) == 1
    client.submit([[9]], None, ROUTED, min_policy_version=99).cancel()
    assert client.score([[1, 2, 3], [4, 5, 6]], timeout=20).errors == {}
    write_adapter(place.folder, "math@1", model=place.model, seed=1)
    name = client.publish_adapter("math", 1, place.folder / "math@1")
    assert client.publish_adapter("math", 1, place.folder / "math@1") == name
    done = client.generate([[3]], None, tokens(2), adapter=name, timeout=20)
    assert done.errors == {}, done.errors
    seen = client.generate([[IMAGE]], None, tokens(2), images=[[file_of("png")]], batch_id="seen", timeout=20)
    assert seen.errors == {}
    assert client.score(seen, timeout=20).errors == {}
    client.submit([[4]], None, tokens(2), min_policy_version=99, batch_id="later")
    handle = client.submit([[4]], None, tokens(2), batch_id="gone", min_policy_version=98)
    handle.cancel()
    talk(place, client)
    asyncio.run(stream(place))
    with client.run("exp") as run:
        left = run.submit([[5]], None, tokens(2), batch_id="left")
        run.submit([[6]], None, tokens(2))
        left.result(timeout=20)
        run.consumed(left, cursor=1)
        with pytest.raises(BatchConsumedError):
            run.submit([[5]], None, tokens(2), batch_id="left")
        with pytest.raises(BatchConflictError):
            run.submit([[5]], None, tokens(2), batch_id="first")


def talk(place: Place, client: Client) -> None:
    session = client.session("talk")
    for _ in range(2):  # the second time it is a repeat
        session.submit([1], tokens(2), request_id="first").result(timeout=20)
    session.submit([2], tokens(2), continue_of="last").result(timeout=20)
    session.trajectory()
    client.submit([[5]], None, tokens(2), batch_id=batch_of("talk", "taken"))
    with pytest.raises(RequestConflictError):
        session.submit([1], tokens(2), request_id="taken")
    place.ok("sessions")
    place.ok("sessions", "talk")


async def stream(place: Place) -> None:
    """A gateway has a producer's rights, and reads parts too."""
    options = {"stream": True, "max_tokens": 30, "ignore_eos": True}
    async with gateway_of(
        place.url_of("producer"), place.policy, place.model, partitions=place.partitions, timeout_s=20
    ) as gateway:
        answer = await gateway.complete(**options)
        assert gateway.site.feed.trouble == ""
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text


def submit_what_was_dropped(place: Place, client: Client, queue: Queue) -> None:
    """A run drops batches that Redis does not have; others submit some under the same ids, which stay."""
    names = ("dropped", "dropped-too")
    with client.run("froze") as run:
        for name in names:
            handle = run.submit([[1]], None, tokens(2), batch_id=name)
            handle.result(timeout=20)
            queue.redis.delete(queue.keys.ledger(name), queue.keys.results(name))
            run.dropped(handle)
    client.submit([[1]], None, tokens(2), batch_id=names[0], min_policy_version=99)
    assert queue.redis.ttl(queue.keys.ledger(names[0])) == -1
    place.ok("replay", "--batch", "first", "--batch-id", names[1])
