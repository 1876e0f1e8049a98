"""The rights of the table are enough for what each role does with parts."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Envelope, GroupError, Keys
from rollstream.schemas.key_kinds import KeyKind
from rollstream.transport.acl import Role, rights_of
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.intake.batch_index import BatchIndex
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from tests.support.partials.parts import CONFIG, nbytes, part_of, parts_at, take
from tests.support.roles.users import Users


async def test_each_role_does_with_parts_what_it_is_for(users: Users) -> None:
    keys = Keys(users.policy)
    worker: Redis = connect(users.url_of(Role.WORKER))
    parts = parts_at(worker, keys, most_policy_bytes=2**20)
    publisher = AnswerPublisher(
        redis=worker, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=lambda _: None, parts=parts
    )
    async with AsyncClient(users.url_of(Role.PRODUCER), policy=users.policy) as trainer:
        handle = await trainer.submit([[1], [2], [3]], None, CONFIG, batch_id="b")
        lease, job = await take(worker, keys)
        envelope = Envelope.of_job(job)
        given = [part_of(job, group, 0, 3) for group in job.groups]
        assert (await parts.keep(lease, envelope, given)).written == 3
        watching = Connection(access=users.url_of(Role.EXPORTER), reconnect_s=5)
        assert (await FleetReader(connection=watching, keys=keys).read()).partials_bytes == nbytes(*given)
        await watching.aclose()
        assert len(await parts.kept(lease, job, job.groups)) == 3
        assert await BatchIndex(redis=worker, keys=keys, admission=Admission(limit=1)).mend_parts(0) == 0
        error = GroupError(batch_id="b", group=0, code="too_long", field="prompt", message="m", worker="w1")
        assert await publisher.publish(lease, envelope, error) == "published"
        await handle.cancel(groups=[1])
        assert await handle.cancel() == 1
    await worker.aclose()

    assert users.refused() == set()
    assert not users.admin.exists(keys.parts("b"), keys.part_bytes(0))


def test_only_the_bytes_of_parts_are_seen_by_who_watches() -> None:
    seen = {right.kind for right in rights_of(Role.EXPORTER)}

    assert KeyKind.PART_BYTES in seen
    assert KeyKind.PARTS not in seen
