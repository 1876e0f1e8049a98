"""TRL's teacher and verl's reference policy get from a worker what they would get from their own."""

from __future__ import annotations

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from rollstream import (
    Client,
    ConfigError,
    GenerationConfig,
    PromptsError,
    RolloutFailedError,
    TeacherClient,
    VerlReference,
)
from rollstream.worker.engines.stub_likelihoods import likelihoods
from tests.support.data_proto import DataProto
from tests.support.worker_process import WorkerProcess

SEQUENCES = [[5, 6, 7, 8], [9, 10]]


def test_a_teacher_has_trls_lists(redis_url: str, policy: str, stub_worker: WorkerProcess) -> None:
    with Client(redis_url, policy=policy) as client:
        teacher = TeacherClient(client, timeout_s=30)
        found = teacher.get_sequence_logprobs(SEQUENCES, [2, 1], top_logprobs=3, chunk_size=1)

    assert [[len(token) for token in row] for row in found["logprobs"]] == [[3, 3], [3]]
    assert [[len(token) for token in row] for row in found["logprob_token_ids"]] == [[3, 3], [3]]
    assert found["actual_token_ids"] == [[[7], [8]], [[10]]]
    expected = likelihoods(SEQUENCES[0], 2, "", 0, 3)[:, :1]
    assert found["actual_logprobs"][0] == expected.tolist()


def test_a_sequence_without_a_completion_has_empty_lists_among_others(
    redis_url: str, policy: str, stub_worker: WorkerProcess
) -> None:
    with Client(redis_url, policy=policy) as client:
        teacher = TeacherClient(client, timeout_s=30)
        alone = teacher.get_sequence_logprobs(SEQUENCES, [2, 1], top_logprobs=3)
        found = teacher.get_sequence_logprobs([[7], SEQUENCES[0], [1, 2], SEQUENCES[1]], [1, 2, 2, 1], top_logprobs=3)

    assert found == {name: [[], rows[0], [], rows[1]] for name, rows in alone.items()}


def test_nothing_is_asked_where_no_sequence_has_a_completion(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:  # of a policy without a worker
        found = TeacherClient(client, timeout_s=30).get_sequence_logprobs(SEQUENCES, [4, 2])

    assert len(found) == 4
    assert all(rows == [[], []] for rows in found.values())


def test_a_teacher_takes_what_trl_passes() -> None:
    spec = find_spec("trl")  # read and not imported: that takes most of a minute
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "generation", "vllm_client.py").read_text()
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    theirs = next(
        [argument.arg for argument in function.args.args]
        for function in functions
        if function.name == "get_sequence_logprobs"
    )
    ours = inspect.signature(TeacherClient.get_sequence_logprobs)
    ours.bind(None, **dict.fromkeys(theirs[1:]))
    assert list(ours.parameters)[:5] == theirs[:5]


def test_another_temperature_and_no_candidates_are_refused(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:
        with pytest.raises(ConfigError, match="temperature"):
            TeacherClient(client).get_sequence_logprobs(SEQUENCES, [1, 1], temperature=0.7)
        for wrong in (0, 129, "3", [1], 1.5, True, None):
            with pytest.raises(ConfigError, match=r"top_logprobs.*1 to 128 candidates"):
                TeacherClient(client).get_sequence_logprobs(SEQUENCES, [1, 1], top_logprobs=wrong)  # type: ignore[arg-type] # the mistake under test
        with pytest.raises(PromptsError, match="beyond the row"):
            TeacherClient(client).get_sequence_logprobs(SEQUENCES, [5, 1])
        with pytest.raises(ConfigError, match="temperature"):
            VerlReference(client).compute_ref_log_prob(DataProto(meta_info={"temperature": 0.6}))


def test_a_reference_policy_is_aligned_with_verls_responses(
    redis_url: str, policy: str, stub_worker: WorkerProcess
) -> None:
    with Client(redis_url, policy=policy) as client:
        rollouts = client.generate(SEQUENCES, config=GenerationConfig(max_new_tokens=3), timeout=30)
        found = VerlReference(client, timeout_s=30).compute_ref_log_prob(DataProto(batch=rollouts.verl()))

    assert rollouts.old_log_probs is not None
    assert torch.equal(found["ref_log_prob"], rollouts.old_log_probs)


def test_a_failed_row_is_an_error(redis_url: str, policy: str, stub_worker: WorkerProcess) -> None:
    with Client(redis_url, policy=policy) as client, pytest.raises(RolloutFailedError, match="1 of 2 groups failed"):
        TeacherClient(client, timeout_s=30).get_sequence_logprobs([[1, 2], [1, 10**6]], [1, 1])
