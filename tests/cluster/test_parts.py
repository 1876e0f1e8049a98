"""On a Redis Cluster the keys of parts are where those of their batch are, so that one script reaches them."""

from __future__ import annotations

from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Envelope, GroupError, Keys
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from tests.support.partials.parts import counted, deliver, job_of, nbytes, part_of, parts_at, take_over, tokens_by_name


async def test_parts_are_kept_read_and_deleted_in_every_partition(cluster: LocalCluster, policy: str) -> None:
    keys = Keys(policy, partitions=4)
    jobs = [job_of(f"batch-{number}", groups=1) for number in range(8)]
    client = connect(cluster.url)
    parts = parts_at(client, keys, most_policy_bytes=2**20)
    publisher = AnswerPublisher(
        redis=client, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=lambda _: None, parts=parts
    )
    found, sizes, left = [], [], []
    for job in jobs:
        envelope = Envelope.of_job(job)
        lease = await deliver(client, keys, job)
        await parts.keep(lease, envelope, [part_of(job, 0, 1, 3)])
        sizes.append((await counted(client, keys, job.batch_id))[1])
        lease = await take_over(client, lease, "w2")
        found.append(tokens_by_name(await parts.kept(lease, job, [0])))
        error = GroupError(batch_id=job.batch_id, group=0, code="too_long", field="prompt", message="m", worker="w2")
        assert await publisher.publish(lease, envelope, error) == "published"
        left.append(await client.exists(keys.parts(job.batch_id)))
        left.append(await client.exists(keys.part_bytes(keys.partition(job.batch_id))))
    await client.aclose()

    assert {keys.partition(job.batch_id) for job in jobs} == {0, 1, 2, 3}
    assert found == [{(0, 1): 3}] * 8
    assert sizes == [nbytes(part_of(job, 0, 1, 3)) for job in jobs]
    assert not any(left)
