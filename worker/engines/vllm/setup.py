"""The environment and arguments with which vLLM starts, and what vLLM made of them. Pure: imports no vLLM."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rollstream.schemas.generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES, LogprobsFlavour

from ...config import WorkerSettings
from ...engine import EngineInfo
from ...errors import SettingsError
from . import one_more
from .inside.logits import COUNT_NANS
from .inside.packed_experts import NO_ADAPTERS
from .inside.reception import EXTENSION
from .routing.model_shape import is_mixture
from .swapping.transfers import VLLM_BACKENDS

PLUGIN = "rollstream"
"""Our entry point in the group `vllm.general_plugins`; see `worker.engines.vllm.plugin`."""

MAX_LOGPROBS = MAX_CANDIDATES + MAX_SUPPORT_TIES
CPU_KV_CACHE_BYTES = 256 * 2**20

# vLLM reads these while it is imported.
_DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# 0: the model runs inside EngineCore's process: two processes instead of three, which start in half the time.
# No compiler: on the CPU eager mode is as fast, and the first log-probs would wait 14 s for one compiled function.
# Its engine ends by SIGKILL (`VllmEngine.close`), and Python warns of the semaphore that it then removes for it.
_CPU_DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:resource_tracker",
}

_SERVICE_LINK = re.compile(r"VLLM(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_PORT = re.compile(r"VLLM(_\w+)?_PORT$")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Call before vLLM is imported. The operator's own settings stay; our plugin is added to a list of plugins."""
    for name in [name for name, value in environment.items() if _is_service_link(name, value)]:
        del environment[name]
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)
    # vLLM's default on CUDA is fork: a forked engine loads no plugins again and inherits our sockets.
    environment["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    # The count tells that a step had nothing to sample from. The second variable would end the whole engine for it.
    environment[COUNT_NANS] = "1"
    environment.pop("VLLM_RAISE_ON_LOGIT_NANS", None)
    # With this variable a completion that a swap starts again would begin with tokens of the aborted one.
    environment.pop("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", None)
    plugins = environment.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        environment["VLLM_PLUGINS"] = f"{plugins},{PLUGIN}" if plugins else PLUGIN


def prepare_cpu_environment(environment: MutableMapping[str, str]) -> list[str]:
    """Call before an engine is made on the CPU. Returns the names of variables that had to be removed.

    With VLLM_BATCH_INVARIANT an engine on the CPU calls Triton kernels and dies at its first request.
    """
    for name, value in _CPU_DEFAULTS.items():
        environment.setdefault(name, value)
    dropped = environment.pop("VLLM_BATCH_INVARIANT", "0")
    return [] if dropped in ("", "0") else ["VLLM_BATCH_INVARIANT"]


def engine_arguments(settings: WorkerSettings, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments for vLLM's `AsyncEngineArgs`. `settings.engine_args` wins over all others.

    Raises `SettingsError` for an invalid model folder, and for an engine argument that the worker itself needs.
    """
    model = settings.model
    if model is None or not (model / "config.json").is_file():
        raise SettingsError(f"--model: {model} has no config.json: give a folder in Hugging Face's format")
    if settings.tokenizer is not None and not _has_tokenizer(settings.tokenizer):
        raise SettingsError(f"--tokenizer: {settings.tokenizer} has none of {', '.join(_TOKENIZER_FILES)}")
    if "worker_extension_cls" in settings.engine_args:
        raise SettingsError("--engine-args: worker_extension_cls is taken: the worker swaps weights through its own")
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_num_seqs,
        "max_logprobs": MAX_LOGPROBS,
        "logprobs_mode": f"{settings.logprobs_mode}_logprobs",
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "skip_tokenizer_init": not _has_tokenizer(settings.tokenizer or model),
        "tokenizer": None if settings.tokenizer is None else str(settings.tokenizer),
        "max_model_len": settings.max_model_len,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "worker_extension_cls": EXTENSION,
        **_images(settings),
        **_transfer(settings),
        **_adapters(settings, on_cpu=on_cpu),
        **(_on_cpu(settings) if on_cpu else _on_gpu(settings)),
        **settings.engine_args,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def sparing_states(arguments: Any) -> Any:
    """`arguments` (`AsyncEngineArgs`), without a prefix cache if the model keeps a state beside the KV cache, as Mamba.

    With one, log-probs of repeated prompts were up to 0.2 nats off (Mamba and Falcon-H1, vLLM 0.26).
    """
    make = arguments.create_model_config

    def create_model_config(*args: Any, **kwargs: Any) -> Any:
        config = make(*args, **kwargs)
        if config.has_inner_state:
            arguments.enable_prefix_caching = False
        return config

    arguments.create_model_config = create_model_config
    return arguments


def read_info(config: Any, tokenizer: Any, runner: Mapping[str, Any]) -> EngineInfo:
    """Make the info from vLLM's `VllmConfig`, which has the final settings, and its tokenizer. Raises `SettingsError`.

    `runner`: the fields of `EngineInfo` that the config does not tell.
    """
    model = config.model_config
    mode = str(model.logprobs_mode)
    if mode not in ("processed_logprobs", "raw_logprobs"):
        raise SettingsError(f"--engine-args: logprobs_mode={mode!r} gives no log-probs")
    flavour: LogprobsFlavour = "raw" if mode == "raw_logprobs" else "processed"
    vocab_size = int(model.get_vocab_size())
    eos, spoken = eos_token_ids(model, tokenizer, vocab_size)
    return EngineInfo(
        vocab_size=vocab_size,
        max_model_len=one_more.told(int(model.max_model_len)),
        max_num_seqs=int(config.scheduler_config.max_num_seqs),
        step_tokens=int(config.scheduler_config.max_num_batched_tokens),
        eos_token_ids=eos,
        spoken_eos_ids=spoken,
        max_logprobs=vocab_size if model.max_logprobs == -1 else int(model.max_logprobs),
        logprobs_flavour=flavour,
        has_tokenizer=not model.skip_tokenizer_init,
        ranks=0 if config.weight_transfer_config is None else int(config.parallel_config.world_size),
        dtype=str(model.dtype).removeprefix("torch."),
        **runner,
    )


def eos_token_ids(model: Any, tokenizer: Any, vocab_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The model's own EOS ids, and the tokenizer's if that is another; sorted. `model` is vLLM's `ModelConfig`.

    The model's own come from the first of these that names an id of the vocabulary: generation_config.json (as in
    transformers), config.json, and the text model's part of config.json. The tokenizer's id ends a completion too, as
    in vLLM: after fine-tuning the model often emits that one, while the configs still name the base model's.
    """
    named = (
        model.try_get_generation_config().get("eos_token_id"),
        getattr(model.hf_config, "eos_token_id", None),
        getattr(model.hf_text_config, "eos_token_id", None),
    )
    known = set(range(vocab_size))
    own = next((found for ids in named if (found := _ids(ids) & known)), set())
    spoken = _ids(getattr(tokenizer, "eos_token_id", None)) & known
    return tuple(sorted(own or spoken)), tuple(sorted(spoken - own)) if own else ()


def check_plugin_installed() -> None:
    """Raises `SettingsError` when vLLM would not find our plugin: it reads entry points of installed packages only."""
    if not entry_points(group="vllm.general_plugins", name=PLUGIN):
        raise SettingsError(
            "--engine vllm: the distribution rollstream is not installed here, so vLLM would run without its plugin: "
            "pip install rollstream (or -e . in a checkout)"
        )


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set the variable for a service named vllm...; `VLLM_PORT=tcp://...` stops vLLM's start."""
    return _SERVICE_LINK.match(name) is not None or (_PORT.match(name) is not None and "://" in value)


def _adapters(settings: WorkerSettings, *, on_cpu: bool) -> dict[str, Any]:
    if not settings.serves_adapters:
        return {}
    # vLLM 0.26 does not start with one, for a reason that names neither; of a config with other names the engine asks.
    if on_cpu and settings.model is not None and is_mixture(settings.model):
        raise SettingsError(f"--model {settings.model}: {NO_ADAPTERS}")
    if settings.dtype == "float32" and not on_cpu:
        raise SettingsError(
            "--dtype float32: vLLM's LoRA on a GPU takes float16 or bfloat16: give one of these, or start the worker "
            "without --lora, --adapter-dir and --adapter-cache"
        )
    return {"enable_lora": True, "max_loras": settings.max_loras, "max_lora_rank": settings.max_lora_rank}


def _images(settings: WorkerSettings) -> dict[str, Any]:
    """vLLM passes these over for a model that takes nothing but text. Its cache: see `vllm.images.expanding`."""
    if settings.engine_args.get("mm_processor_cache_gb", 0) != 0:
        raise SettingsError(
            "--engine-args: mm_processor_cache_gb must be 0: its two sides would not agree after a swap"
        )
    limits = {"image": settings.max_images, "video": 0, "audio": 0}
    return {"limit_mm_per_prompt": limits, "mm_processor_cache_gb": 0}


def _transfer(settings: WorkerSettings) -> dict[str, Any]:
    if settings.weight_transfer is None:
        return {}
    return {"weight_transfer_config": {"backend": VLLM_BACKENDS[settings.weight_transfer]}}


def _on_cpu(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        # On the CPU a seeded request with a chunked prefill kills the engine: its generators have no offset.
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": settings.kv_cache_bytes or CPU_KV_CACHE_BYTES,
    }


def _on_gpu(settings: WorkerSettings) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
    }


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _ids(value: Any) -> set[int]:
    """The ids in a value that may be one id, a list, or neither."""
    return {token for token in (value if isinstance(value, list | tuple) else [value]) if type(token) is int}
