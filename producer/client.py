"""The trainer's client: submit a batch of prompts, get it back as tensors, in this process or another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NoReturn, Self, Unpack

from rollstream.schemas import GenerationConfig, Keys, PolicyVersion
from rollstream.schemas.times import RUN_RETENTION_S, SESSION_RETENTION_S
from rollstream.schemas.wire.routing import RoutingArray
from rollstream.transport.redis.access import DEFAULT_URL, RedisAccess

from .batches.handle import BatchHandle
from .batches.prompts import Rows
from .batches.submit_and_wait import OneCall, new_id
from .batches.submit_options import (
    GENERATE_DEFAULTS,
    SUBMIT_DEFAULTS,
    GenerateOptions,
    JobOptions,
    SubmitOptions,
    submit_part,
)
from .batches.submit_prompts import making, submit_prompts
from .calls.arguments import Reading, check_config, number, reconnect_seconds
from .calls.options import check_names, spelled_out
from .errors import client_stays
from .order.prompt_lengths import PromptLengths
from .policies.activation import activate, newest_version
from .policies.adapter_files import AdapterSource
from .policies.adapter_tensors import PeftConfig, Scaling
from .policies.adapter_upload import publish_adapter
from .policies.publish_options import PUBLISH_DEFAULTS, PublishOptions
from .policies.versions_stream import announced_version
from .policies.wait_for_version import Workers, wait_for_version
from .redis_io.access_options import ACCESS_DEFAULTS, AccessOptions, access_of
from .redis_io.connection import Connection
from .rollouts.rollout_batch import RolloutBatch
from .routing.read_rows import read_routing_of_rows
from .runs.run import Run
from .scores.handle import ScoreHandle, attached
from .scores.options import SCORE_DEFAULTS, SCORING_DEFAULTS, ScoreOptions, ScoringOptions, score_part
from .scores.score_batch import ScoreBatch
from .scores.submit_scores import Scored, num_rows, submit_scores
from .scores.submit_scores import making as scores_of
from .sessions.session import Session
from .weights.publish import publish
from .weights.publisher import WeightsPublisher
from .weights.store_options import StoreOptions


class AsyncClient:
    """One policy's queue. Use as `async with AsyncClient(url, policy="math-7b") as client`.

    `policy` and `partitions` must be the workers'. If Redis goes away after it has answered once, calls wait for it up
    to `reconnect_s` seconds. `weights`: the workers' weight store, for `publish_policy(state_dict=...)`: a folder,
    "redis", a URL, or `StoreOptions`; the client then keeps the tensors that it published last in memory.
    `remember_lengths`: of so many prompts the client remembers how long their completions became, as `lengths`, and
    batches that are submitted again without `expected_tokens` start their longest first; 0: of none. Nothing connects
    before the first call. What the commands take from variables of the environment, a client takes as arguments only.

    Beside the URL, `redis_ca` and its like say how Redis is reached, see `AsyncClient.__init__`.

    Raises `NameRefusedError` for a bad policy name, `RedisUnavailableError` for a bad URL or file of these and
    `WeightStoreError` for a bad store.
    """

    @spelled_out(AccessOptions, ACCESS_DEFAULTS)
    def __init__(
        self,
        redis_url: str | RedisAccess = DEFAULT_URL,
        *,
        policy: str,
        partitions: int = 1,
        reconnect_s: float = 60.0,
        weights: str | Path | StoreOptions | None = None,
        remember_lengths: int = 0,
        **redis: Unpack[AccessOptions],
    ) -> None:
        self._keys = Keys(policy, partitions=number(partitions))
        access = access_of(redis_url, **redis)
        self._connection = Connection(access=access, reconnect_s=reconnect_seconds(reconnect_s), keys=self._keys)
        self._weights = WeightsPublisher.of(self._connection, self._keys, weights)
        self.lengths = PromptLengths.of(number(remember_lengths))
        """How long the completions of prompts became; None without `remember_lengths`."""

    @spelled_out(SubmitOptions, SUBMIT_DEFAULTS, JobOptions)
    async def submit(
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        config: GenerationConfig | None = None,
        **options: Unpack[SubmitOptions],
    ) -> BatchHandle:
        """Queue B prompts, each for `config.num_return_sequences` completions; return once all are queued.

        `input_ids`: (B, width) torch tensor or numpy array of any integer dtype, or B ragged lists. `attention_mask`:
        the same shape, 1 where there is a token, in any pattern; None: everywhere. `config` is required; `ConfigError`
        tells of `top_logprobs` that no live worker gives, too.

        Raises `PromptsError`, `ConfigError`, `DeadlineError`, `VersionBoundError`, `NameRefusedError`, `ArgumentError`
        (an option that does not exist), `WireError` (a job too large) and `TooLargeForRedisError` before anything is
        queued; `BatchConflictError` for other content; `BatchCancelledError` once the batch was cancelled;
        `RedisUnavailableError`, one of which is `UnconfirmedSubmitError`: too few replicas have it (`redis_wait`).
        """
        check_names(options, SUBMIT_DEFAULTS)
        config = check_config(config, attention_mask)
        chosen: SubmitOptions = {**SUBMIT_DEFAULTS, **options}
        make = await making(input_ids, attention_mask, config, chosen, self.lengths)
        return await submit_prompts(
            self._connection, self._keys, make, config, chosen["batch_id"], lengths=self.lengths
        )

    @spelled_out(GenerateOptions, GENERATE_DEFAULTS, SubmitOptions, JobOptions)
    async def generate(
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        config: GenerationConfig | None = None,
        **options: Unpack[GenerateOptions],
    ) -> RolloutBatch:
        """`submit`, then `BatchHandle.result`: the arguments of both.

        After a `ResultTimeoutError` the batch may be under way: `attach(error.batch_id)`, or submit it again under that
        `batch_id`.
        """
        check_names(options, GENERATE_DEFAULTS)
        chosen: GenerateOptions = {**GENERATE_DEFAULTS, **options}
        reading = Reading.of(
            chosen["timeout"], chosen["progress"], chosen["pad_token_id"], chosen["pad_to_max_new_tokens"]
        )  # before anything is queued
        batch_id = new_id() if chosen["batch_id"] is None else chosen["batch_id"]
        submitting: SubmitOptions = {**submit_part(chosen), "batch_id": batch_id}
        call = OneCall(batch_id, lambda: len(input_ids), reading.timeout, self._connection.url)
        return await call.make(
            lambda: self.submit(input_ids, attention_mask, config, **submitting),
            lambda handle, left: handle.result(*reading._replace(timeout=left)),
        )

    @spelled_out(ScoreOptions, SCORE_DEFAULTS, JobOptions)
    async def submit_scores(
        self, input_ids: Scored, attention_mask: Rows | None = None, **options: Unpack[ScoreOptions]
    ) -> ScoreHandle:
        """Queue B rows, to learn how likely their tokens are under this policy's weights; return once all are queued.

        `input_ids`: rollouts, whose responses are scored; what `stack` makes of trajectories; or (B, width) ids as
        `submit` takes them, and then `attention_mask` has no hole among the tokens that are scored. A row of zeros in
        the mask is answered with an error, and so are rows of failed rollouts.

        Raises what `submit` raises but `ConfigError`: `PromptsError` names row and column, and `ArgumentError` tells
        of `top_logprobs` that no live worker gives.
        """
        check_names(options, SCORE_DEFAULTS)
        chosen: ScoreOptions = {**SCORE_DEFAULTS, **options}
        make = await scores_of(input_ids, attention_mask, chosen)
        return await submit_scores(self._connection, self._keys, make, chosen, chosen["batch_id"])

    @spelled_out(ScoringOptions, SCORING_DEFAULTS, ScoreOptions, JobOptions)
    async def score(
        self, input_ids: Scored, attention_mask: Rows | None = None, **options: Unpack[ScoringOptions]
    ) -> ScoreBatch:
        """`submit_scores`, then `ScoreHandle.result`: the arguments of both; after a timeout see `generate`."""
        check_names(options, SCORING_DEFAULTS)
        chosen: ScoringOptions = {**SCORING_DEFAULTS, **options}
        timeout, progress, *_ = Reading.of_wait(chosen["timeout"], chosen["progress"])
        batch_id = new_id() if chosen["batch_id"] is None else chosen["batch_id"]
        submitting: ScoreOptions = {**score_part(chosen), "batch_id": batch_id}
        call = OneCall(batch_id, lambda: num_rows(input_ids), timeout, self._connection.url)
        return await call.make(
            lambda: self.submit_scores(input_ids, attention_mask, **submitting),
            lambda handle, left: handle.result(left, progress),
        )

    async def attach(self, batch_id: str) -> BatchHandle | ScoreHandle:
        """The handle of a batch of prompts, or of rows to score, that another process or an earlier run has submitted.

        Raises `UnknownBatchError`, `UnreadableResultError`, `NameRefusedError`, `RedisUnavailableError`.
        """
        return await attached(self._connection, self._keys, batch_id)

    async def routed_experts(self, rollouts: RolloutBatch) -> list[RoutingArray | None]:
        """For each row, which experts its tokens went to, as `BatchHandle.routed_experts` says; None in failed groups.

        Rows keep theirs when they are picked, joined, saved and loaded. Raises `RowsError` (not asked for, or a row
        of another length than its routing), `RoutingError` (gone), `ArgumentError`, `RedisUnavailableError`.
        """
        return await read_routing_of_rows(self._connection, self._keys, rollouts)

    @spelled_out(PublishOptions, PUBLISH_DEFAULTS)
    async def publish_policy(self, version: int, **options: Unpack[PublishOptions]) -> PolicyVersion:
        """Announce new weights as policy version `version`, from 1 on; workers verify and prove them and swap.

        Give the weights as `checkpoint`, `adapter`, `state_dict`, `model` or `again`. Versions only grow. Publishing
        the same content again is a no-op, so a failed publish is simply repeated; an interrupted one has announced
        nothing. The logger `rollstream` warns of live workers that were not started for such a version or refused the
        last one.

        Raises `PolicyVersionError` (invalid, too old, or taken by other content), `PolicyKindError` (an adapter after a
        checkpoint, or the reverse), `CheckpointError`, `AdapterError`, `ProbeError`, `ArgumentError`,
        `WeightStoreError`, `RedisUnavailableError`.
        """
        return await publish(self._connection, self._keys, self._weights, version, options)

    async def publish_adapter(
        self,
        name: str,
        version: int,
        source: AdapterSource,
        *,
        lora_alpha: float | None = None,
        use_rslora: bool | None = None,
        peft_config: PeftConfig | None = None,
        progress: bool = False,
    ) -> str:
        """Ship a LoRA adapter to the workers through Redis; returns `name@version`, for `submit`'s `adapter`.

        `source`: a folder as PEFT's `save_pretrained` writes it, or what `peft.get_peft_model_state_dict` gives, pairs
        of torch tensors `...lora_A.weight` (rank, in) and `...lora_B.weight` (out, rank): float32, float16 or bfloat16,
        dense and finite. Tensors are copied before the first `await` inside. At most 1 GiB; a worker's limit may be
        lower.

        Tensors do not say how they are scaled. Pass `peft_config=model.peft_config["default"]` (PEFT's `LoraConfig`, or
        a dict of its fields), or `lora_alpha`, with `use_rslora=True` if the adapter was trained so. What no worker can
        apply exactly as PEFT does (DoRA, patterns, half a pair) is an `AdapterError`.

        An adapter never changes: publishing the same content again renews it (Redis keeps it a day after its last use).
        Raises `AdapterConflictError` when the name has other content, `AdapterError`, `NameRefusedError`,
        `TooLargeForRedisError`, `RedisUnavailableError`.
        """
        scaling = Scaling(lora_alpha=number(lora_alpha), use_rslora=use_rslora, peft_config=peft_config)
        return await publish_adapter(
            self._connection, self._keys, name, number(version), source, scaling, progress=progress
        )

    async def activate(self, version: int, by: str | None = None) -> None:
        """Let workers serve a version that was published with `activate="by_hand"`, or "when_prepared" before its time.

        A worker that has prepared it swaps at once, another takes no more jobs until it has. Activating the active
        version again is a no-op. `by`: who did it, for operators; None: this host and process.

        Raises `ActivationError` (not announced, a later version was activated, or the client's weight store has its
        weights no more), `WeightStoreError`, `RedisUnavailableError`.
        """
        store = None if self._weights is None else self._weights.store
        await activate(self._connection, self._keys, version, by, store)

    def run(self, name: str, *, retention_s: float = RUN_RETENTION_S) -> Run:
        """A trainer's run, for `async with client.run("exp-42") as run`, which takes it from any trainer that has it.

        See `Run`. `retention_s`: for how long Redis keeps the run after its trainer's last write, and the results of
        batches that it has not consumed after their last answer. Raises `NameRefusedError`, `ArgumentError`.
        """
        of_client = partial(Run, connection=self._connection, keys=self._keys, weights=self._weights)
        return of_client(name=name, retention_s=retention_s, lengths=self.lengths)

    def session(self, name: str, *, retention_s: float = SESSION_RETENTION_S) -> Session:
        """A conversation: `await client.session("game-7").submit(ids, config)` queues its next turn.

        See `Session`. `retention_s`: for how long Redis keeps its turns and their results after its last submit.
        Raises `NameRefusedError`, `ArgumentError`.
        """
        of_client = partial(Session, connection=self._connection, keys=self._keys)
        return of_client(name=name, retention_s=retention_s, lengths=self.lengths)

    async def newest_version(self) -> int:
        """The policy version to serve: the newest that was activated, by its announcement or later; 0 if there is none.

        Raises `RedisUnavailableError`.
        """
        return await newest_version(self._connection, self._keys)

    async def announced_version(self) -> int:
        """The newest announced version, activated or not; 0 if there is none. A trainer's versions go on from it.

        Raises `RedisUnavailableError`.
        """
        return await announced_version(self._connection, self._keys)

    async def wait_for_version(self, version: int, workers: Workers = "all", timeout: float | None = None) -> None:
        """Return once `workers` live workers serve `version` or a newer one; "all": every one, and at least one.

        Draining workers do not count; a dead one counts until its report expires some seconds later. Raises
        `VersionTimeoutError`, which names the workers that are behind and says why, `VersionWaitError` for invalid
        arguments, `RedisUnavailableError`.
        """
        await wait_for_version(self._connection, self._keys, number(version), number(workers), number(timeout))

    async def aclose(self) -> None:
        """Close the connections. Batches go on without the client."""
        await self._connection.aclose()

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
