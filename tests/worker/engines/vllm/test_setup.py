"""What vLLM is started with follows from our settings; what the operator set himself stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.command import main
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.setup import (
    CPU_KV_CACHE_BYTES,
    engine_arguments,
    eos_token_ids,
    prepare_cpu_environment,
    prepare_environment,
    sparing_states,
)
from rollstream.worker.errors import SettingsError
from rollstream.worker.exit_codes import EXIT_SETTINGS


def arguments(model: Path, *, on_cpu: bool = True, **fields: Any) -> dict[str, Any]:
    return engine_arguments(WorkerSettings(policy="test", model=model, **fields), on_cpu=on_cpu)


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [(None, None), ("", "rollstream"), ("other", "other,rollstream"), ("rollstream,other", "rollstream,other")],
)
def test_our_plugin_joins_a_list_of_plugins(plugins: str | None, expected: str | None) -> None:
    environment = {} if plugins is None else {"VLLM_PLUGINS": plugins}

    prepare_environment(environment)

    assert environment.get("VLLM_PLUGINS") == expected


def test_the_operators_environment_stays_but_for_fork() -> None:
    environment = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_WORKER_MULTIPROC_METHOD": "fork", "TORCH_COMPILE_DISABLE": "0"}

    prepare_environment(environment)
    prepare_cpu_environment(environment)

    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environment["TORCH_COMPILE_DISABLE"] == "0"
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize(("has_state", "cached"), [(True, False), (False, True)])
def test_a_model_with_a_state_has_no_prefix_cache(has_state: bool, cached: bool) -> None:
    asked = SimpleNamespace(
        enable_prefix_caching=True, create_model_config=lambda: SimpleNamespace(has_inner_state=has_state)
    )

    sparing_states(asked).create_model_config()

    assert asked.enable_prefix_caching is cached


@pytest.mark.parametrize(("value", "named"), [("1", ["VLLM_BATCH_INVARIANT"]), ("0", []), (None, [])])
def test_batch_invariance_is_dropped_on_the_cpu(value: str | None, named: list[str]) -> None:
    environment = {} if value is None else {"VLLM_BATCH_INVARIANT": value}

    assert prepare_cpu_environment(environment) == named
    assert "VLLM_BATCH_INVARIANT" not in environment


def test_the_cpu_gets_what_only_the_cpu_needs(tiny_model: Path) -> None:
    on_cpu = arguments(tiny_model)
    on_gpu = arguments(tiny_model, on_cpu=False, tensor_parallel_size=2)

    assert (on_cpu["enforce_eager"], on_cpu["enable_chunked_prefill"]) == (True, False)
    assert on_cpu["kv_cache_memory_bytes"] == CPU_KV_CACHE_BYTES
    assert not {"enforce_eager", "enable_chunked_prefill", "distributed_executor_backend"} & set(on_gpu)
    assert "kv_cache_memory_bytes" not in on_gpu
    assert (on_gpu["tensor_parallel_size"], on_gpu["gpu_memory_utilization"]) == (2, 0.9)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_what_was_found_to_be_fast_is_the_default(tiny_model: Path, on_cpu: bool) -> None:
    measured = {"disable_log_stats": True, "max_num_seqs": 256, "enable_prefix_caching": True}

    assert measured.items() <= arguments(tiny_model, on_cpu=on_cpu).items()


def test_lora_is_enabled_by_the_adapter_folder(tiny_model: Path, tmp_path: Path) -> None:
    assert "enable_lora" not in arguments(tiny_model)

    with_lora = arguments(tiny_model, adapter_dir=tmp_path, max_lora_rank=32, max_loras=2)

    assert (with_lora["enable_lora"], with_lora["max_lora_rank"], with_lora["max_loras"]) == (True, 32, 2)


def test_the_operators_engine_arguments_win(tiny_model: Path) -> None:
    assert arguments(tiny_model, engine_args={"max_logprobs": 7, "seed": 3})["max_logprobs"] == 7


def test_a_tokenizer_is_used_where_there_is_one(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert arguments(tiny_model)["skip_tokenizer_init"] is False
    assert arguments(tmp_path)["skip_tokenizer_init"] is True
    assert arguments(tmp_path, tokenizer=tiny_model)["skip_tokenizer_init"] is False


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--model: .* has no config\.json"):
        arguments(tmp_path)


def test_a_folder_without_a_tokenizer_is_no_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--tokenizer: .* has none of tokenizer\.json"):
        arguments(tiny_model, tokenizer=tmp_path)


@pytest.mark.parametrize(
    ("generation", "config", "text_config", "tokenizer", "expected"),
    [
        ([7, 3], 5, None, None, ((3, 7), ())),
        (None, 5, None, None, ((5,), ())),
        (None, [5, 900, -1], None, None, ((5,), ())),
        (None, None, 4, None, ((4,), ())),
        (None, 5, 4, None, ((5,), ())),
        (None, None, None, None, ((), ())),
        (5, 5, None, 2, ((5,), (2,))),
        ([5, 2], None, None, 2, ((2, 5), ())),
        (None, None, None, 2, ((2,), ())),
        (5, None, None, 600, ((5,), ())),
        (5, None, None, [2, 3], ((5,), (2, 3))),
        (0, 5, None, None, ((0,), ())),
        ([900], 5, None, 2, ((5,), (2,))),
        ([], None, 4, None, ((4,), ())),
    ],
)
def test_eos_ids_are_the_models_and_beside_them_its_tokenizers(
    generation: Any, config: Any, text_config: Any, tokenizer: Any, expected: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    model = SimpleNamespace(
        try_get_generation_config=lambda: {} if generation is None else {"eos_token_id": generation},
        hf_config=SimpleNamespace(eos_token_id=config),
        hf_text_config=SimpleNamespace(eos_token_id=text_config),
    )

    assert eos_token_ids(model, SimpleNamespace(eos_token_id=tokenizer), 512) == expected


def test_a_model_without_a_tokenizer_has_its_own_eos_alone() -> None:
    model = SimpleNamespace(
        try_get_generation_config=dict, hf_config=SimpleNamespace(eos_token_id=5), hf_text_config=SimpleNamespace()
    )

    assert eos_token_ids(model, None, 512) == ((5,), ())


def test_the_links_of_a_kubernetes_service_named_vllm_are_no_settings_of_vllm() -> None:
    links = {
        "VLLM_SERVICE_HOST": "10.0.0.1", "VLLM_SERVICE_PORT": "8000", "VLLM_SERVICE_PORT_HTTP": "8000",
        "VLLM_PORT": "tcp://10.0.0.1:8000", "VLLM_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "VLLM_PORT_8000_TCP_PROTO": "tcp", "VLLM_PORT_8000_TCP_PORT": "8000", "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "VLLM_DP_MASTER_PORT": "tcp://10.0.0.2:1", "VLLM_DP_MASTER_SERVICE_HOST": "10.0.0.2",
        "VLLM_PORT_53_UDP": "udp://10.0.0.1:53", "VLLM_PORT_53_UDP_PROTO": "udp",
    }  # fmt: skip
    environment = {**links, "VLLM_HOST_IP": "10.0.0.9", "VLLM_RPC_BASE_PATH": "/tmp/rpc", "REDIS_PORT": "tcp://1:2"}

    prepare_environment(environment)

    assert not links.keys() & environment.keys()
    assert {"VLLM_HOST_IP", "VLLM_RPC_BASE_PATH", "REDIS_PORT"} <= environment.keys()


@pytest.mark.parametrize("port", ["8000", "eight"])
def test_a_port_that_an_operator_set_is_vllms_to_judge(port: str) -> None:
    environment = {"VLLM_PORT": port}

    prepare_environment(environment)

    assert environment["VLLM_PORT"] == port


def test_vllm_counts_nans_and_ends_no_engine_for_them() -> None:
    environment = {"VLLM_COMPUTE_NANS_IN_LOGITS": "0", "VLLM_RAISE_ON_LOGIT_NANS": "1"}

    prepare_environment(environment)

    assert environment["VLLM_COMPUTE_NANS_IN_LOGITS"] == "1"
    assert "VLLM_RAISE_ON_LOGIT_NANS" not in environment


def test_engine_metrics_that_nobody_could_read_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--policy", "p", "--model", str(tmp_path), "--engine-metrics"]) == EXIT_SETTINGS

    assert "--engine-metrics: they are served on --metrics-port: give that too" in capsys.readouterr().err


def test_float32_with_adapters_on_a_gpu_is_refused_with_what_vllm_takes(tiny_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"--dtype float32: .*float16 or bfloat16"):
        arguments(tiny_model, on_cpu=False, dtype="float32", lora=True)

    assert arguments(tiny_model, on_cpu=True, dtype="float32", lora=True)["enable_lora"]
    assert arguments(tiny_model, on_cpu=False, dtype="float32")["dtype"] == "float32"


def test_a_mixture_with_adapters_on_the_cpu_is_refused_before_vllm_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_experts": 4, "num_experts_per_tok": 2}')

    with pytest.raises(SettingsError, match="CPU build runs no mixture of experts with LoRA: start the worker without"):
        arguments(tmp_path, lora=True)
    assert arguments(tmp_path, on_cpu=False, lora=True)["enable_lora"] is True
