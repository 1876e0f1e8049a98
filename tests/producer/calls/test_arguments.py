"""Arguments of a call: what can mean one thing is taken, the rest is one error of ours, before anything is queued."""

from __future__ import annotations

import inspect
import math
import pydoc
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import redis
import torch

from rollstream import (
    ArgumentError,
    AsyncClient,
    Client,
    ConfigError,
    DeadlineError,
    GenerationConfig,
    NameRefusedError,
    PromptsError,
    RolloutFunction,
    RollStrategy,
    RollstreamError,
    TeacherClient,
    VerlReference,
    VerlRollout,
    VersionBoundError,
)
from rollstream.producer.batches.submit_options import GENERATE_DEFAULTS, SUBMIT_DEFAULTS
from rollstream.producer.calls.arguments import Reading
from rollstream.producer.policies.publish_options import PUBLISH_DEFAULTS
from rollstream.schemas import Job, Keys, decode
from tests.support.faults import Queue
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=4)
LONG = [[5], [6, 7]]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"pad_token_id": None}, ArgumentError, "pad_token_id None: the tokenizer has none"),
        ({"pad_token_id": "0"}, ArgumentError, "pad_token_id '0': give an integer"),
        ({"pad_token_id": True}, ArgumentError, "pad_token_id True"),
        ({"pad_token_id": 2**63}, ArgumentError, "pad_token_id 9223372036854775808"),
        ({"pad_token_id": [0]}, ArgumentError, "pad_token_id some list"),
        ({"pad_to_max_new_tokens": "no"}, ArgumentError, "pad_to_max_new_tokens 'no': give True or False"),
        ({"progress": 7}, ArgumentError, "progress 7: give True or False"),
        ({"timeout": "5"}, ArgumentError, "timeout '5': give seconds as a number"),
        ({"timeout": math.nan}, ArgumentError, "timeout nan"),
        ({"timeout": True}, ArgumentError, "timeout True"),
        ({"batch_id": 7}, NameRefusedError, "batch_id 7 is not usable: give a text (str), not int"),
        ({"batch_id": UUID(int=1)}, NameRefusedError, "not UUID"),
        ({"batch_id": b"x"}, NameRefusedError, "not bytes"),
        ({"adapter": 7}, NameRefusedError, "write name@version"),
        ({"adapter": ("math", 1)}, NameRefusedError, "write name@version"),
        ({"prompts_per_job": "8"}, PromptsError, "prompts_per_job: '8' is no integer from 1"),
        ({"prompts_per_job": 8.0}, PromptsError, "prompts_per_job: 8.0 is no integer from 1"),
        ({"queue_deadline_s": "5"}, DeadlineError, "queue_deadline_s '5'"),
        ({"run_deadline_s": timedelta(0)}, DeadlineError, "run_deadline_s"),
        ({"min_policy_version": 3.0}, VersionBoundError, "min_policy_version 3.0"),
        ({"max_staleness": np.True_}, VersionBoundError, "max_staleness True"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_is_named_and_nothing_is_queued(
    client: Client, queue: Queue, arguments: dict[str, Any], error: type[RollstreamError], told: str
) -> None:
    with pytest.raises(error) as caught:
        client.generate(LONG, None, CONFIG, **{"timeout": 0.01, **arguments})
    assert told in str(caught.value)
    assert queue.entries() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt_per_job": 2}, "prompt_per_job 2: there is no such option; do you mean prompts_per_job?"),
        ({"max_new_tokens": 2}, "max_new_tokens 2: it is an option of sampling: write config=GenerationConfig(max_new"),
        ({"zzz": None}, "zzz None: there is no such option; there are adapter, batch_id,"),
    ],
)
def test_an_option_that_does_not_exist_is_named_and_nothing_is_queued(
    client: Client, queue: Queue, arguments: dict[str, Any], told: str
) -> None:
    for call in (client.submit, client.generate):
        with pytest.raises(ArgumentError) as caught:
            call(LONG, None, CONFIG, **arguments)
        assert told in str(caught.value)
    assert queue.entries() == []


def test_help_shows_every_option_with_its_default_and_its_meaning() -> None:
    for kind in (AsyncClient, Client):
        calls = (
            (kind.submit, SUBMIT_DEFAULTS),
            (kind.generate, GENERATE_DEFAULTS),
            (kind.publish_policy, PUBLISH_DEFAULTS),
        )
        for call, options in calls:
            shown = pydoc.plain(pydoc.render_doc(call))
            for option, default in options.items():
                assert re.search(rf" {option}: [^=]+ = {re.escape(repr(default))}[,)]", shown)
                assert re.search(rf"`{option}[`=]", shown)


def test_blocking_calls_take_what_the_awaited_ones_take() -> None:
    for name in ("submit", "generate", "attach", "publish_policy", "publish_adapter", "activate", "wait_for_version"):
        awaited, blocking = (inspect.signature(getattr(kind, name)) for kind in (AsyncClient, Client))
        assert blocking.parameters == awaited.parameters
    assert inspect.signature(Client.submit).return_annotation == "BlockingBatchHandle"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((LONG, CONFIG), "attention_mask: got the GenerationConfig: write config=..."),
        ((LONG,), "got None: write config=GenerationConfig(max_new_tokens=64)"),
        ((LONG, None, {"max_new_tokens": 4}), "got a dict: write GenerationConfig(**config)"),
        ((LONG, None, GenerationConfig), "got the class GenerationConfig: call it"),
        ((LONG, None, torch.ones(2, 2)), "got a Tensor: the order is input_ids, attention_mask, config"),
        ((LONG, None, SimpleNamespace()), "got some SimpleNamespace"),
        ((LONG, None, 64), "got 64 (int): write config="),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_given_for_a_config_is_named(client: Client, queue: Queue, arguments: Any, told: str) -> None:
    with pytest.raises((ConfigError, PromptsError)) as caught:
        client.submit(*arguments)
    assert told in str(caught.value)
    assert queue.entries() == []


def test_a_config_of_another_library_is_named(client: Client) -> None:
    from transformers import GenerationConfig as TransformersConfig

    with pytest.raises(ConfigError, match="the GenerationConfig of transformers, whose names and defaults differ"):
        client.submit(LONG, None, TransformersConfig(max_new_tokens=4))


def test_numbers_of_numpy_and_torch_and_durations_are_taken(client: Client, queue: Queue) -> None:
    client.submit(
        LONG,
        None,
        CONFIG,
        prompts_per_job=np.int64(1),  # type: ignore[arg-type] # what trainers count with
        min_policy_version=torch.tensor(3),  # type: ignore[arg-type]
        max_staleness=np.uint8(2),  # type: ignore[arg-type]
        queue_deadline_s=timedelta(minutes=2),  # type: ignore[arg-type]
        run_deadline_s=np.float32(1.5),  # type: ignore[arg-type]
    )
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    taken = (jobs[0].min_policy_version, jobs[0].max_staleness, jobs[0].queue_deadline_s, jobs[0].run_deadline_s)
    assert (len(jobs), taken) == (2, (3, 2, 120.0, 1.5))


@pytest.mark.parametrize(
    ("timeout", "read"),
    [(None, None), (math.inf, None), (5, 5.0), (0, 0.0), (-1, -1.0), (np.float32(2), 2.0), (timedelta(seconds=3), 3.0)],
)
def test_a_time_limit_may_be_any_number_of_seconds(timeout: Any, read: float | None) -> None:
    assert Reading.of(timeout, np.False_, torch.tensor(3), False) == (read, False, 3, False)


def test_rows_are_padded_with_the_id_that_was_given(client: Client, stub_worker: WorkerProcess) -> None:
    for pad in (9, -100, np.int64(11)):
        rollouts = client.generate(LONG, None, CONFIG, pad_token_id=pad, timeout=60)  # type: ignore[arg-type]
        assert rollouts.sequences[0, 0] == pad
        assert rollouts.prompt_mask[0].tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Client(policy=7), "policy 7 is not usable: give a text"),  # type: ignore[arg-type]
        (lambda: Client(policy="p", partitions="4"), "partitions '4' is not usable: give an integer"),  # type: ignore[arg-type]
        (lambda: Client(policy="p", partitions=True), "partitions True is not usable"),
        (lambda: Client(policy="p", reconnect_s="5"), "reconnect_s '5': give seconds"),  # type: ignore[arg-type]
        (lambda: Client(policy="p", reconnect_s=None), "reconnect_s None: give seconds"),  # type: ignore[arg-type]
    ],
)
def test_a_client_names_what_it_cannot_be_made_of(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(RollstreamError) as caught:
        make()
    assert told in str(caught.value)


@pytest.mark.parametrize("batch_id", [7, UUID(int=1), None, Path("b")])
def test_attach_names_a_batch_id_that_is_no_text(client: Client, batch_id: Any) -> None:
    with pytest.raises(NameRefusedError, match=r"batch_id .* give a text"):
        client.attach(batch_id)


def test_each_drop_in_names_the_kind_of_client_that_it_needs(client: Client, policy: str) -> None:
    waiting = AsyncClient(policy=policy)
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    made: list[Callable[[], Any]] = [
        lambda: RolloutFunction(waiting),  # type: ignore[arg-type] # the mistake under test
        lambda: VerlRollout(waiting, rollout_config=None, tokenizer=tokenizer),  # type: ignore[arg-type] # the mistake under test
        lambda: RollStrategy(client),  # type: ignore[arg-type] # the mistake under test
    ]
    for make in made:
        with pytest.raises(ArgumentError, match=r"client some (Async)?Client: got (Async)?Client, give a"):
            make()
    drop_ins: list[Any] = [RolloutFunction, RollStrategy, TeacherClient, VerlReference]
    for drop_in in drop_ins:
        for other in (None, "redis://x"):
            with pytest.raises(ArgumentError, match=r"client .*: got (NoneType|str), give a"):
                drop_in(other)
    with pytest.raises(ConfigError, match="got a dict"):
        RolloutFunction(client, config={"max_new_tokens": 4})  # type: ignore[arg-type] # the mistake under test


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"thinking_budget": 2, "guided": {"regex": "a"}}, "thinking_budget", "use one of both"),
        ({"label_token_ids": 5, "top_logprobs": 1}, "label_token_ids", "beside top_logprobs"),
        ({"label_token_ids": 5, "sampling_support": True, "top_k": 4}, "label_token_ids", "beside sampling_support"),
    ],
)
def test_options_that_no_worker_takes_together_are_refused_before_anything_is_queued(
    redis_url: str, policy: str, options: dict[str, Any], field: str, said: str
) -> None:
    config = GenerationConfig(max_new_tokens=4, **options)  # a stored job may say so: it stays readable

    with Client(redis_url, policy=policy) as client, pytest.raises(ConfigError, match=said) as refused:
        client.submit([[1]], None, config, batch_id="never")

    assert refused.value.field == field
    with redis.Redis.from_url(redis_url) as queue:
        assert not queue.exists(Keys(policy).jobs(0), Keys(policy).ledger("never"))
