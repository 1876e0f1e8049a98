"""Other libraries' names for our options. The nearest spelling often means something else, as `stop`, `top_p`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_SAME = {
    "max_new_tokens": (
        "max_tokens", "max_completion_tokens", "max_completion_length", "max_output_tokens", "max_gen_toks",
        "max_generated_tokens", "max_response_length", "response_length", "generate_max_len", "n_predict",
    ),
    "min_new_tokens": ("min_tokens", "min_completion_tokens", "min_completion_length", "min_gen_toks"),
    "num_return_sequences": (
        "n", "num_generations", "num_samples", "n_samples", "n_samples_per_prompt", "num_completions", "n_completions",
        "num_return_sequences_in_group", "group_size", "samples_per_prompt", "candidate_count", "rollout_n",
    ),
    "num_beams": ("beam_width", "beam_size", "use_beam_search", "beams"),
    "stop_strings": ("stop_sequences", "stop_words", "stop_texts", "stop_strs"),
    "stop_token_ids": ("stop_ids", "stop_tokens", "stop_token_id", "extra_eos_token_ids"),
    "eos_token_id": ("eos_token_ids", "eos_id", "eos_ids", "eos_token", "end_token_id", "eos"),
    "seed": ("sampling_seed", "random_seed", "random_state", "rng_seed", "manual_seed", "generator"),
    "repetition_penalty": ("repeat_penalty", "rep_pen"),
    "include_stop_str_in_output": ("no_stop_trim", "include_stop_string_in_output"),
    "top_p": ("nucleus_p", "nucleus"),
    "logit_bias": ("logits_bias",),
    "allowed_token_ids": ("allowed_tokens", "allowed_ids"),
    "temperature": ("temp",),
    "routed_experts": (
        "return_routed_experts", "enable_return_routed_experts", "enable_rollout_routing_replay", "router_replay",
    ),
    "logprobs": (
        "calculate_log_probs", "return_logprob", "return_logprobs", "return_log_probs", "output_logprobs", "log_probs",
    ),
}  # fmt: skip
"""Names that mean the same, or nearly the same."""

_RENAMED = {theirs: f"write {ours!r}" for ours, names in _SAME.items() for theirs in names}

_DIFFERENT = {
    "max_length": "write 'max_new_tokens', which counts the completion alone, without its prompt",
    "min_length": "write 'min_new_tokens', which counts the completion alone, without its prompt",
    "stop": "write 'stop_strings' for texts or 'stop_token_ids' for ids",
    "bad_words_ids": "write 'bad_words' for texts, or 'logit_bias' with -100 for single ids",
    "suppress_tokens": "write 'logit_bias' with -100 for each id",
    "sequence_bias": "write 'logit_bias' for single ids; a bias on sequences of ids is not offered",
    "do_sample": "the temperature says it: temperature=0 is greedy, above 0 samples",
    "greedy": "write temperature=0",
    "num_logprobs": "write 'top_logprobs' for the likeliest ids; 'logprobs' gives those of the sampled tokens",
    "structured_outputs": "write 'guided', with exactly one of regex, json_schema, choice and grammar",
    "guided_decoding": "write 'guided', with exactly one of regex, json_schema, choice and grammar",
    "guided_decoding_regex": "write 'guided' with regex",
    "vllm_structured_outputs_regex": "write 'guided' with regex",
    "vllm_guided_decoding_regex": "write 'guided' with regex",
    "guided_json": "write 'guided' with json_schema, a dict or its JSON text",
    "json_schema": "write 'guided' with json_schema, a dict or its JSON text",
    "response_format": "write 'guided' with json_schema, a dict or its JSON text",
    "guided_regex": "write 'guided' with regex",
    "regex": "write 'guided' with regex",
    "guided_choice": "write 'guided' with choice",
    "guided_grammar": "write 'guided' with grammar",
    "grammar": "write 'guided' with grammar",
    "ebnf": "write 'guided' with grammar",
    "prompt_logprobs": "the client's `score` gives the log-probs of given tokens",
    "echo": "the client's `score` gives the log-probs of given tokens",
    "repetition_detection": "write 'stop_on_repetition' with max_pattern_size, min_count and min_pattern_size",
    "thinking_token_budget": "write 'thinking_budget'",
    "max_thinking_tokens": "write 'thinking_budget'",
    "logprob_token_ids": "write 'label_token_ids'",
    "best_of": "not offered: ask for more with 'num_return_sequences' and choose among them",
    "output_scores": "write logprobs='processed'",
    "output_logits": "write logprobs='raw' for the log-probs of the sampled tokens",
    "pad_token_id": "padding is no part of sampling: give pad_token_id to `result` or `generate`, beside the config",
    "pad_to_max_new_tokens": "padding is no part of sampling: give it to `result` or `generate`, beside the config",
    "adapter": "give adapter='name@version' to `submit` or `generate`, beside the config",
    "lora_request": "give adapter='name@version' to `submit` or `generate`, beside the config",
    "lora_path": "give adapter='name@version' to `submit` or `generate`, beside the config",
    "max_time": "give run_deadline_s to `submit` or `generate`, beside the config",
    "timeout": "give timeout to `result` or `generate`, beside the config",
    "batch_id": "give it to `submit` or `generate`, beside the config",
    "model": "the workers of the client's policy say which model: Client(url, policy=...)",
    "policy": "give it to the client: Client(url, policy=...)",
    "prompt": "prompts are the first argument of `submit`, as token ids",
    "prompts": "they are the first argument of `submit`, as token ids",
    "messages": "apply the tokenizer's chat template; prompts are the first argument of `submit`, as token ids",
    "input_ids": "they are the first argument of `submit`, beside the config",
    "attention_mask": "it is the second argument of `submit`, beside the config",
    "max_prompt_length": "cut the prompts before `submit`; the worker's --max-model-len bounds prompt and completion",
    "prompt_length": "cut the prompts before `submit`; the worker's --max-model-len bounds prompt and completion",
    "truncate_prompt_tokens": "cut the prompts before `submit`: none is cut here",
    "generation_kwargs": "write its options themselves",
    "generation_config": "write its options themselves",
    "sampling_params": "write its options themselves",
    "val_kwargs": "write its options themselves",
    "num_beam_groups": "only plain beam search is offered: 'num_beams'",
    "diversity_penalty": "only plain beam search is offered: 'num_beams'",
    "stream": "`handle.groups()` gives each group as it finishes",
    "streamer": "`handle.groups()` gives each group as it finishes",
    "bos_token_id": "the prompt's ids go to the model as they are: put it in front of them",
    "skip_special_tokens": "ids come back, and text only with 'stop_strings': decode them as you like",
    "detokenize": "ids come back, and text only with 'stop_strings': decode them as you like",
    "return_dict_in_generate": "leave it out: what comes back is a RolloutBatch",
    "use_cache": "leave it out: vLLM always does",
    "transformers_version": "leave it out: it says nothing of sampling",
    "_from_model_config": "leave it out: it says nothing of sampling",
}  # fmt: skip

_NOT_OFFERED = frozenset({
    "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "top_a", "tfs", "mirostat", "penalty_alpha", "dola_layers",
    "no_repeat_ngram_size", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "guidance_scale",
    "exponential_decay_length_penalty", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "force_words_ids", "constraints", "renormalize_logits", "remove_invalid_values", "token_healing", "watermarking",
    "watermarking_config", "logits_processor", "logits_processors", "stopping_criteria", "prefix_allowed_tokens_fn",
    "stop_regex", "extra_args", "reasoning_effort", "dry_multiplier", "tools", "tool_choice", "assistant_model",
    "prompt_lookup_num_tokens",
})  # fmt: skip
"""Without these options other tokens would be sampled, so none of them may be ignored."""


def advice(name: str, known: Collection[str]) -> str:
    """What to write instead of `name`, which is not in `known`."""
    plain = _snake(name)
    if plain in known:
        return f"write {plain!r}"
    if told := _RENAMED.get(plain) or _DIFFERENT.get(plain):
        return told
    if plain in _NOT_OFFERED:
        return "no worker offers it, and without it other tokens would be sampled: leave it out if that is meant"
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(known)}"


def _snake(name: str) -> str:
    """The name in snake case: `topP` and `Top-P` become `top_p`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:100]).replace("-", "_").replace(" ", "_").lower()
