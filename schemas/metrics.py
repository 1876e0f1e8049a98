"""The names of all metrics, what each says, and its labels. Boards and alert rules are held to this list by a test.

No label grows without bound: there is no batch id, and a worker is known by where it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "rollstream_"


class Kind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. The name of a counter is without `_total`, which Prometheus' library adds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without infinity."""


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.COUNTER, help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.GAUGE, help=text, labels=labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.HISTOGRAM, help=text, labels=labels, buckets=buckets)


# Buckets are close where measured values lie (docs/performance.md, and workers under their benchmarks' load), so that
# their quantiles are told apart, and wide beyond, where it is enough to know that something is wrong.

SHORT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Seconds of one exchange with Redis: beside an engine 1 ms for a beat and 4 ms for a publish at the median, 0.02 to
0.1 s where all cores are busy, up to 0.8 s behind thousands of tiny jobs; beyond that Redis was away, and an answer
waits for it."""
LONG_S = (
    0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0,
    1800.0,
)  # fmt: skip
"""Seconds of one group: 0.06 s for 32 tokens of a tiny model on a CPU; 0.35 to 0.5 s for 128 tokens of 1.5 B on an H200
and 0.8 to 1.5 s at 80 % load; minutes for tens of thousands of tokens, or for a group that waits out a swap."""
WAIT_S = (
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0,
)  # fmt: skip
"""Seconds in the queue: below 0.05 s while a worker has room, and as long as a backlog is deep, even over night."""
SWAP_S = (
    0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0, 60.0, 300.0,
)  # fmt: skip
"""Seconds of a swap's phases: a pause is 0.05 s for a tiny model on a CPU, and was 0.57 to 1.02 s for 3 GB on an H200,
where it took some 3 s to read and verify the files. A larger model takes longer by its bytes."""
STALENESS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)


class WorkerMetric:
    """What a worker exports about itself, with `--metrics-port`."""

    GROUPS = _counter(
        "groups",
        "Groups by how they ended here: result, error, duplicate (had an answer), fenced (lease lost), cut.",
        "outcome",
    )
    GROUP_ERRORS = _counter("group_errors", "Groups answered with an error, by its code.", "code")
    TOKENS = _counter("tokens", "Tokens of the completions that were published.")
    TOKENS_GENERATED = _counter("tokens_generated", "Tokens sampled, those of fenced and duplicate groups included.")
    TOKENS_RESUMED = _counter(
        "tokens_resumed", "Tokens that earlier deliveries had sampled, and that were not sampled again here."
    )
    TOKENS_SCORED = _counter("tokens_scored", "Tokens of rows whose scores were published; not among the others.")
    JOBS = _counter(
        "jobs",
        "Jobs by how they ended here: answered, given_back, parked, dead, left (to their next owner).",
        "outcome",
    )
    REDELIVERIES = _counter(
        "redeliveries",
        "Jobs taken that had been delivered before, by why: crash (its worker died) or interruption (it lived).",
        "cause",
    )
    LEASE_RENEWALS = _counter("lease_renewals", "Leases renewed.")
    LEASES_LOST = _counter("leases_lost", "Leases that ran out or went to another worker while their job ran.")
    PARTIALS = _counter(
        "partials",
        "Parts of running completions by what became of them: kept, over_bound, unproven, unwanted, failed; of those "
        "that other deliveries kept: read, dropped (none of this job).",
        "outcome",
    )
    PARTIALS_BYTES = _counter("partials_written_bytes", "Bytes of the parts that were kept, each time that they were.")
    PARTIALS_HELD = _gauge("partials_held_bytes", "Bytes of the parts that this worker kept and that have no answer.")
    HELD_JOBS = _gauge("held_jobs", "Jobs that this worker has taken and not ended.")
    RUNNING_GROUPS = _gauge("running_groups", "Groups with a place in the engine.")
    WAITING_GROUPS = _gauge("waiting_groups", "Groups of taken jobs without a place in the engine yet.")
    RUNNING_SEQUENCES = _gauge("running_sequences", "Sequences with a place in the engine.")
    MAX_SEQUENCES = _gauge("max_sequences", "Most sequences that the engines run at once.")
    PLACES = _gauge("places", "Most sequences that may be in the engines by now; fewer while the KV cache is full.")
    KV_CACHE_USE = _gauge(
        "kv_cache_use", "Used share of the KV cache, 0 to 1; of replicas, that of the fullest. None: no such engine."
    )
    PREEMPTIONS = _counter(
        "preemptions", "Running sequences that lost their part of the KV cache to others; it is computed again."
    )
    ADMISSION_PAUSED = _gauge("admission_paused", "1 while this reason keeps the worker from taking jobs.", "reason")
    STATE = _gauge("worker_state", "1 for the state that the worker is in, 0 for the others.", "state")
    POLICY_VERSION = _gauge("policy_version", "The policy version that is served; 0 is the boot model.")
    NEWEST_POLICY_VERSION = _gauge(
        "newest_policy_version", "The newest active policy version that this worker knows of."
    )
    PREPARED_POLICY_VERSION = _gauge(
        "prepared_policy_version", "The newest version that this worker serves or could serve at once."
    )
    PROOF_MEAN = _gauge(
        "policy_proof_mean_nats",
        "Mean difference of log-probs between the served version and its probe; none: no probe.",
    )
    PROOF_LARGEST = _gauge("policy_proof_largest_nats", "The largest of these differences.")
    VERSION_REFUSED = _gauge("policy_version_refused", "1 while the newest version is refused and an old one served.")
    STALENESS = _histogram(
        "result_staleness_versions",
        "How many versions the oldest tokens of a published group were behind the newest.",
        STALENESS,
    )
    SWAP = _histogram(
        "swap_seconds",
        "Seconds of a change of weights, by phase: prepare (read and verified) and pause (nothing is sampled).",
        SWAP_S,
        "phase",
    )
    QUEUE_WAIT = _histogram("queue_wait_seconds", "Seconds from a job's submit to its first delivery.", WAIT_S)
    GENERATE = _histogram("generate_seconds", "Seconds in which a group was generated.", LONG_S)
    PUBLISH = _histogram("publish_seconds", "Seconds from a group's last token to its answer in Redis.", SHORT_S)
    REDIS_ERRORS = _counter("redis_errors", "Commands that Redis did not take, or whose reply was lost.")
    REDIS_ROUNDTRIP = _histogram("redis_roundtrip_seconds", "Seconds of one beat's script in Redis and back.", SHORT_S)
    BUILD_INFO = _gauge("build_info", "Always 1; its labels say what runs.", "version", "engine", "vllm", "python")


class QueueMetric:
    """What `rollstream exporter` says of one policy: all of it read from Redis."""

    UP = _gauge("redis_up", "1 if Redis answered the exporter's last reading, 0 if what follows is missing.")
    JOBS = _gauge(
        "queue_jobs",
        "Jobs without an end: waiting, pending (taken), parked (for a version), session (for their session's worker).",
        "partition",
        "lane",
        "state",
    )
    OLDEST = _gauge("queue_oldest_seconds", "Age of the job that is read next; 0 if none waits.", "partition")
    TOKENS = _gauge("queue_tokens", "Tokens that were asked for and have no answer yet.", "partition")
    BACKLOG = _gauge(
        "backlog_seconds", "Seconds in which the workers there are, or one, answer all that is queued, as of late."
    )
    PAUSED = _gauge("queue_paused", "1 while an operator has paused the queue.")
    PARTIALS = _gauge(
        "queue_partials_bytes", "Bytes of the parts that workers keep of running completions.", "partition"
    )
    DEAD_LETTERS = _gauge("dead_letters", "Jobs that were given up on and are kept.", "partition")
    WORKERS = _gauge("workers", "Live workers by their state; late ones count as late.", "state")
    WORKERS_BEHIND = _gauge(
        "workers_behind", "Live workers that have started and do not serve the newest active version."
    )
    WORKERS_REFUSING = _gauge("workers_refusing", "Workers, late ones too, that report a version as refused.")
    ANNOUNCED_VERSION = _gauge("announced_policy_version", "The newest version in the versions stream; 0 if none.")
    CONVERGENCE = _gauge(
        "version_convergence_seconds",
        "Seconds since the newest version became active, while a worker counts as behind it; else 0.",
    )
    REDIS_MEMORY = _gauge("redis_memory_bytes", "Memory that Redis uses.")
    REDIS_MEMORY_LIMIT = _gauge("redis_memory_limit_bytes", "Redis' maxmemory; 0 if it has none.")
    READ = _gauge("exporter_read_seconds", "Seconds that the exporter's last reading took.")
    COMMANDS = _gauge("exporter_read_commands", "Commands that the exporter's last reading sent to Redis.")


REPLICA = "replica"


def _vllm(kind: Kind, name: str, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metric:
    return Metric(name=f"vllm:{name}", kind=kind, help=text, labels=(REPLICA, *labels), buckets=buckets)


class EngineMetric:
    """What vLLM says of its engines, with `--engine-metrics`: under vLLM's names, where it means what vLLM means.

    `replica` counts the engines of a worker from 0. Counters begin when the engine has started. What vLLM gives for
    each message of its engine is not here (inter-token latency, tokens of an iteration), for a message brings up to 32
    tokens of a sequence; nor is what it gives for each step and nobody can add up.
    """

    RUNNING = _vllm(Kind.GAUGE, "num_requests_running", "Sequences that the engine runs.")
    WAITING = _vllm(Kind.GAUGE, "num_requests_waiting", "Sequences that wait in the engine.")
    KV_CACHE_USAGE = _vllm(Kind.GAUGE, "kv_cache_usage_perc", "Part of the KV cache in use; 1 is all of it.")
    PROMPT_TOKENS = _vllm(Kind.COUNTER, "prompt_tokens", "Tokens of prompts, once for each sequence, cached ones too.")
    GENERATION_TOKENS = _vllm(Kind.COUNTER, "generation_tokens", "Tokens that the engine sampled.")
    PREFIX_CACHE_QUERIES = _vllm(Kind.COUNTER, "prefix_cache_queries", "Tokens looked for in the prefix cache.")
    PREFIX_CACHE_HITS = _vllm(Kind.COUNTER, "prefix_cache_hits", "Tokens found in the prefix cache.")
    PREEMPTIONS = _vllm(
        Kind.COUNTER, "num_preemptions", "Sequences put back to wait: the KV cache was full, or weights were swapped."
    )
    FINISHED = _vllm(Kind.COUNTER, "request_success", "Sequences that ended, by why.", "finished_reason")
    DRAFTS = _vllm(Kind.COUNTER, "spec_decode_num_drafts", "Drafts of speculative decoding.")
    DRAFT_TOKENS = _vllm(Kind.COUNTER, "spec_decode_num_draft_tokens", "Tokens of drafts.")
    ACCEPTED_TOKENS = _vllm(Kind.COUNTER, "spec_decode_num_accepted_tokens", "Tokens of drafts that were accepted.")
    FIRST_TOKEN = _vllm(
        Kind.HISTOGRAM, "time_to_first_token_seconds", "Seconds from request to first token.", buckets=LONG_S
    )
    TOKEN_TIME = _vllm(
        Kind.HISTOGRAM,
        "request_time_per_output_token_seconds",
        "Seconds per token of one sequence after its first, as a mean; 0 for a sequence of one token.",
        buckets=SHORT_S,
    )
    QUEUE_TIME = _vllm(
        Kind.HISTOGRAM, "request_queue_time_seconds", "Seconds that a sequence waited in the engine.", buckets=LONG_S
    )
    LATENCY = _vllm(
        Kind.HISTOGRAM, "e2e_request_latency_seconds", "Seconds from request to last token.", buckets=LONG_S
    )


def metrics_of(table: type) -> tuple[Metric, ...]:
    """All metrics of `WorkerMetric`, `QueueMetric` or `EngineMetric`, in their order."""
    return tuple(value for value in vars(table).values() if isinstance(value, Metric))
