"""All settings of a worker, from flags and `ROLLSTREAM_*`. Settings that cannot work are refused before the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from rollstream.schemas.lease import DEFAULT_LEASE_S, LONGEST_LEASE_S, SHORTEST_LEASE_S
from rollstream.schemas.times import HEARTBEAT_S, LONGEST_HEARTBEAT_S, RESULT_TTL_S
from rollstream.schemas.weights.shown_place import without_secrets

from . import config_rules
from .config_model import ModelSettings
from .exit_codes import MEANINGS

_HELP = (
    "Take jobs of one policy from Redis, generate with vLLM, publish padded rollouts.\n\n"
    "examples:\n"
    "  rollstream-worker --model models/qwen-math --policy math-7b --redis redis://10.0.0.5:6379\n"
    "  rollstream-worker --engine stub --policy math-7b\n\n"
    "--version prints the version and exits.\n\nexit codes:\n"
) + "\n".join(f"  {code:<8} {meaning}" for code, meaning in MEANINGS.items())


class WorkerSettings(ModelSettings):
    """All flags; each is an environment variable too."""

    model_config = SettingsConfigDict(
        env_prefix="ROLLSTREAM_",
        frozen=True,
        extra="forbid",
        cli_prog_name="rollstream-worker",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        json_schema_extra={"description": _HELP},
        protected_namespaces=(),
    )

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Data type of weights and activations; on the CPU, auto turns float32 weights into bfloat16.",
    )
    max_model_len: int | None = Field(None, ge=2, description="Longest prompt + completion; default: the model's.")
    replicas: int = Field(
        1,
        ge=1,
        le=16,
        description="Engines that share the GPU; a small model is limited by the Python of a single engine.",
    )
    max_num_seqs: int = Field(256, ge=1, le=65536, description="Sequences that an engine runs at once.")
    kv_cache_bytes: int | None = Field(
        None, ge=2**20, description="Size of the KV cache of all replicas together; default on a GPU: all free memory."
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of the GPU's memory that vLLM takes, all replicas together."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="Number of GPUs for one engine.")
    logprobs_mode: Literal["processed", "raw"] = Field(
        "processed", description="Log-probs under the sampling distribution, or the model's raw ones."
    )
    thinking_marks: str | None = Field(
        None,
        description="How the model marks its thinking, as the two texts with a space between: '<think> </think>'. Each "
        "must be one token. Jobs with a thinking_budget need it.",
    )
    routed_experts: bool = Field(
        False,
        description="Offer the experts that each token of a mixture went to (jobs with routed_experts). It costs speed "
        "even if no job asks. If the engine turns out not to tell them, such jobs are refused and the log says why.",
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Further vLLM AsyncEngineArgs, as JSON; they win over the flags."
    )
    engine_timeout_s: float = Field(
        120, gt=0, description="Seconds without an engine step after which the engine counts as dead."
    )
    load_timeout_s: float = Field(
        1800,
        gt=0,
        description="The same while the weights of a new version are loaded: enough for a slow file system. Nothing is "
        "sampled meanwhile.",
    )

    checkpoint_dir: Path | None = Field(
        None, description="Folder below which published checkpoints lie; a policy version names one of its sub-folders."
    )
    weights: str | None = Field(
        None,
        repr=False,
        description="The weight store from which versions come that were published without a checkpoint's folder: a "
        "folder, redis (the worker's own), or a URL that fsspec knows, such as s3://bucket/run.",
    )
    weights_cache: Path | None = Field(
        None,
        description="Folder on a fast disk or in memory (tmpfs) with room for three models, two at least. Versions are "
        "copied there before they are loaded, each worker into a sub-folder of its own, which it removes at its end. "
        "Default: published folders are read where they are, what --weights brings goes to a temporary folder.",
    )
    probe: Path | None = Field(
        None,
        description="File with a probe of the boot model: the worker takes no job unless it reproduces its log-probs.",
    )
    golden: Path | None = Field(
        None,
        description="File of `rollstream golden record`: the worker takes no job unless its boot model gives the same "
        "tokens and log-probs, as closely as the data type allows.",
    )
    swap: Literal["keep", "wait", "abort"] = Field(
        "keep",
        description="What new weights do to completions in flight: keep goes on with the new weights, wait lets the "
        "completions finish first, abort ends them: with --keep-partials they go on from their tokens, else they start "
        "again (then none ends if versions come faster than completions).",
    )
    weight_transfer: Literal["nccl", "gloo", "ipc"] | None = Field(
        None,
        description="Receive policy versions straight from the trainer's memory where it sends them so: nccl from GPU "
        "to GPU, gloo from CPU to CPU, ipc through memory that trainer and worker share on one machine. The worker "
        "connects to where a message in Redis says that the trainer is. "
        "Default: take every version from files.",
    )

    inflight_sequences: int | None = Field(
        None,
        ge=1,
        description="Sequences in the engine at once; one group may exceed what is left. Default: jobs are read up to "
        "1.25 x replicas x max_num_seqs sequences, and groups of read jobs enter the engine up to twice as many.",
    )
    inflight_bytes: int = Field(
        2**28, ge=1, description="Bytes of admitted jobs and their expected answers, until the answers are in Redis."
    )
    admission: Literal["count", "memory"] = Field(
        "count",
        description="How many sequences enter the engine: a fixed count, or fewer while its KV cache is full.",
    )
    partials_bytes: int = Field(
        2**28,
        ge=0,
        description="Bytes in Redis of what this worker's running completions have so far, with --keep-partials or "
        "jobs that ask for it: the tokens that it wrote and that are not answered yet. What has no room is not kept, "
        "and begins again if this worker dies. A token takes 8 bytes with its log-prob. 0: no bound.",
    )
    partials_policy_bytes: int = Field(
        2**31,
        ge=0,
        description="The same for all workers of the policy together, each partition its equal share; give all workers "
        "the same. 0: no bound.",
    )
    score_tokens_at_once: int | None = Field(
        None,
        ge=1,
        description="Tokens of rows that are scored at once, all replicas together; a longer row is scored alone. The "
        "engine's memory for it comes on top of --gpu-memory-utilization. Default: what two of its steps take.",
    )
    lease_s: float = Field(
        DEFAULT_LEASE_S,
        ge=SHORTEST_LEASE_S,
        le=LONGEST_LEASE_S,
        description="Seconds after which a silent worker's jobs are taken over; renewed meanwhile.",
    )
    max_deliveries: int = Field(
        3, ge=1, le=100, description="A job is given up on after so many deliveries whose worker died or hung."
    )
    max_interruptions: int = Field(
        20,
        ge=1,
        le=1000,
        description="The same for deliveries whose worker stayed alive: Redis or the connection was away.",
    )
    grace_s: float = Field(30, ge=0, description="Seconds that SIGTERM leaves to running groups.")
    keep_partials: float = Field(
        0,
        ge=0,
        lt=1e9,
        description="Seconds between two times that what running completions have so far is kept in Redis, so that "
        "another worker goes on from there; also when this one drains or its lease runs out. 0: only for jobs that ask "
        "for it.",
    )
    heartbeat_s: float = Field(
        HEARTBEAT_S, gt=0, le=LONGEST_HEARTBEAT_S, description="Seconds between two reports of this worker."
    )
    metrics_port: int | Literal["auto"] = Field(
        0,
        description="Port on which Prometheus finds this worker's metrics, under /metrics and without authentication, "
        "and Kubernetes whether it has started, takes jobs and lives: /startupz, /readyz, /healthz; auto: a free one, "
        "which the log and `rollstream status --json` name; 0: none.",
    )
    metrics_host: str = Field(
        "0.0.0.0",  # noqa: S104 - Prometheus is another machine; the flag's text says that nobody is asked who he is
        description="Address on which it is found there; anybody who reaches it may read it.",
    )
    engine_metrics: bool = Field(
        False,
        description="Serve vLLM's own metrics of each replica there too. An engine sends them every 32 steps, or once "
        "a second where steps are slow.",
    )
    retention_s: float = Field(
        86_400, ge=0, description="Seconds that a finished job stays in its stream; unfinished jobs always stay."
    )
    retention_bytes: int = Field(
        2**30, ge=0, description="Above this size of a partition's stream its oldest finished jobs go earlier."
    )
    result_ttl_s: int = Field(RESULT_TTL_S, ge=1, description="Seconds that a sealed batch's results stay in Redis.")

    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    print_config: bool = Field(False, exclude=True, description="Print the settings as JSON and exit.")

    stub_tokens_per_s: float = Field(0, ge=0, description="Speed of one stub sequence; 0: no delay.")
    stub_vocab_size: int = Field(32_000, ge=8, description="Vocabulary of the stub engine.")
    stub_long_tail: Literal["none", "prompts", "samples"] = Field(
        "none", description="Of what a tenth of the stub's completions run eight times as long as the others."
    )
    stub_poison_token: int | None = Field(
        None,
        ge=0,
        description="A prompt or row with this token ends the process at once, like a prompt that kills its engine.",
    )

    @field_validator("metrics_port", mode="before")
    @classmethod
    def _port(cls, value: object) -> object:
        return config_rules.port(value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if problem := next(config_rules.problems(self), None):
            raise ValueError(problem)
        return self

    @property
    def admitted_sequences(self) -> int:
        """`inflight_sequences` or its default: a quarter more than the engines run, so that they stay full."""
        return self.inflight_sequences or self.replicas * self.max_num_seqs * 5 // 4

    @property
    def places(self) -> int:
        """Groups enter the engines while fewer sequences have places. A group keeps its places until its last sequence
        has ended, so the default is large enough to keep the engines full.
        """
        return self.inflight_sequences or 2 * self.admitted_sequences

    def scored_at_once(self, step_tokens: int) -> int:
        """`score_tokens_at_once` or its default: the rows of the next step are at hand while one step runs."""
        return self.score_tokens_at_once or 2 * self.replicas * step_tokens

    def shown(self) -> dict[str, Any]:
        """All settings for `--print-config`, without the passwords of URLs."""
        weights = None if self.weights is None else without_secrets(self.weights)
        return {**self.model_dump(mode="json"), "redis": str(self.access), "weights": weights}
