"""Parameters that are known and not offered, each with what to do instead: none is ignored in silence."""

from __future__ import annotations

_AUDIO = "only text is offered: leave it out"
_TOOLS = "write 'tools' and 'tool_choice'"
_STORED = "answers are kept by their request id and session: leave it out"

OF_BOTH = {
    "best_of": "ask for more with 'n' and choose among them",
    "use_beam_search": "beams are not offered here: use the client's num_beams",
    "length_penalty": "beams are not offered here: use the client's num_beams",
    "guided_json": "write 'response_format' with json_schema",
    "guided_regex": "write 'structured_outputs' with regex",
    "guided_choice": "write 'structured_outputs' with choice",
    "guided_grammar": "write 'structured_outputs' with grammar",
    "prompt_logprobs": "the client's `score` gives the log-probs of given tokens",
    "truncate_prompt_tokens": "no prompt is cut: send a shorter one",
    "spaces_between_special_tokens": "text is decoded as the tokenizer does it: leave it out",
    "logits_processors": "not offered, and without it other tokens would be sampled",
    "thinking_token_budget": "not offered here: use the client's thinking_budget",
    "priority": "jobs are taken in their order: leave it out",
    "cache_salt": "the prefix cache is shared by all: leave it out",
    "kv_transfer_params": "not offered: leave it out",
    "mm_processor_kwargs": "not offered: leave it out",
    "metadata": _STORED,
    "safety_identifier": "write 'user'",
    "prompt_cache_key": "write 'session': its turns go to the worker that has their prefix",
    "prompt_cache_options": "the workers' own memory decides: leave it out",
    "prompt_cache_retention": "the workers' own memory decides: leave it out",
}  # fmt: skip

OF_COMPLETIONS = {
    **OF_BOTH,
    "suffix": "nothing is inserted: put it into the prompt",
    "prompt_embeds": "send 'prompt' as text or token ids",
    "messages": "send them to /v1/chat/completions",
    "tools": "send them to /v1/chat/completions",
    "max_completion_tokens": "write 'max_tokens'",
    "top_logprobs": "write 'logprobs' with a number",
}  # fmt: skip

OF_CHAT = {
    **OF_BOTH,
    "prompt": "send it to /v1/completions, or as 'messages'",
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "audio": _AUDIO,
    "prediction": "nothing is predicted: leave it out",
    "web_search_options": "there is no search: leave it out",
    "reasoning_effort": "write it into 'chat_template_kwargs', if the model's template has it",
    "verbosity": "write it into 'chat_template_kwargs', if the model's template has it",
    "documents": "write them into 'chat_template_kwargs', if the model's template has them",
    "chat_template": "the tokenizer's own template is used: leave it out",
    "echo": "send prompts to /v1/completions",
    "moderation": "nothing is moderated: leave it out",
}  # fmt: skip
