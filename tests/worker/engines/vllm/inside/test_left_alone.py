"""A vLLM that is another than ours, or not a worker's, is left as it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rollstream.worker.engines.vllm.inside.held_tokens import unfit_output, unfit_rows, unfit_tensors
from rollstream.worker.engines.vllm.plugin import WORKER_PID
from rollstream.worker.engines.vllm.setup import prepare_environment
from tests.worker.engines.vllm.inside.stepped_engine import Rows


@pytest.mark.parametrize(
    ("changed", "unfit"),
    [
        (set(), []),
        ({"routed_experts", "spec_decode_metrics"}, []),
        ({"prefill_stats"}, ["prefill_stats"]),
        ({"new_reasoning_tokens"}, ["new_reasoning_tokens"]),
    ],
)
def test_a_vllm_whose_outputs_are_others_is_left_alone(changed: set[str], unfit: list[str]) -> None:
    names = {"request_id", "new_token_ids", "new_logprobs", "finish_reason", "prefill_stats", "stop_reason"}

    assert unfit_output(names ^ changed, Rows._fields) == unfit
    assert unfit_output(names, [*Rows._fields, "masks"]) == ["masks"]


def test_logprobs_of_another_make_are_left_alone() -> None:
    assert unfit_rows(Rows._fields) == []
    assert unfit_rows([*Rows._fields, "entropies"]) == ["entropies"]


def test_scores_of_another_make_are_left_alone() -> None:
    oldest = ["logprob_token_ids", "logprobs", "selected_token_ranks", "cu_num_generated_tokens"]

    assert unfit_tensors(oldest) == unfit_tensors([*oldest, "cu_num_generated_tokens_tensor"]) == []
    assert unfit_tensors([*oldest, "entropies"]) == ["entropies"]
    assert unfit_tensors(oldest[:2]) == ["cu_num_generated_tokens", "selected_token_ranks"]


def test_no_two_requests_of_an_engine_have_one_id() -> None:
    environment = {"VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "1"}

    prepare_environment(environment)

    assert "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION" not in environment


def test_the_plugin_leaves_a_vllm_alone_that_no_worker_started() -> None:
    environment = {name: value for name, value in os.environ.items() if name != WORKER_PID}
    code = (
        "import sys\n"
        "from rollstream.worker.engines.vllm.plugin import register\n"
        "register()\n"
        "sys.exit('vllm.v1' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
