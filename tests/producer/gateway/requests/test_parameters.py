"""Every parameter of OpenAI's is honoured, or refused by its name: none is ignored in silence."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
from openai.resources.chat.completions import Completions as ChatClient
from openai.resources.completions import Completions as CompletionsClient

from rollstream import GenerationConfig
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.requests.asked import ChatAsked, CompletionAsked, Terms
from rollstream.producer.gateway.requests.chat import chat_asked
from rollstream.producer.gateway.requests.completion import completion_asked
from rollstream.producer.gateway.requests.refused import OF_CHAT, OF_COMPLETIONS

TERMS = Terms(policy="math", max_tokens=64, has_chat=True, end_ids=frozenset({2}))
USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
DEEP = json.loads("[" * 64 + "]" * 64)
NOT_PARAMETERS = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def completion(headers: dict[str, str] | None = None, **asked: Any) -> CompletionAsked:
    return completion_asked({"model": "math", "prompt": [1, 2], **asked}, headers or {}, TERMS)


def chat(headers: dict[str, str] | None = None, **asked: Any) -> ChatAsked:
    return chat_asked({"model": "math", "messages": USER, **asked}, headers or {}, TERMS)


def config(**fields: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_new_tokens": 64, **fields})


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({}, {}),
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 0.5, "top_k": 7, "min_p": 0.1}, {"top_p": 0.5, "top_k": 7, "min_p": 0.1}),
        ({"n": 3, "seed": 1}, {"num_return_sequences": 3, "seed": 1}),
        ({"stop": "a"}, {"stop_strings": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop_strings": ("a", "b")}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"logit_bias": {"5": 1, "6": -100}}, {"logit_bias": {5: 1, 6: -100}}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"min_tokens": 2}, {"min_new_tokens": 2}),
        ({"stop_token_ids": [7], "ignore_eos": True}, {"stop_token_ids": (7,), "ignore_eos": True}),
        ({"bad_words": ["x"], "allowed_token_ids": [1]}, {"bad_words": ("x",), "allowed_token_ids": (1,)}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"guided": {"json_schema": {"type": "object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}},
            {"guided": {"json_schema": {"type": "integer"}}},
        ),
        ({"structured_outputs": {"regex": "a+"}}, {"guided": {"regex": "a+"}}),
        ({"logprobs": 3}, {"top_logprobs": 3}),
        ({"temperature": None, "stop": None, "user": None, "logit_bias": None}, {}),
        ({"store": False, "service_tier": "auto", "user": "me", "best_of": 1, "echo": False}, {}),
    ],
)
def test_what_is_asked_is_what_is_sampled(asked: dict[str, Any], fields: dict[str, Any]) -> None:
    assert completion(**asked).config == config(**fields)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 1e400}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": [1]}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.0}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"logit_bias": []}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias"),
        ({"logit_bias": {"9" * 30: 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "x"),
        ({"stream": True, "stop": "a"}, "stream"),
        ({"stream": True, "presence_penalty": 1}, "stream"),
        ({"stream": True, "response_format": {"type": "json_object"}}, "stream"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "text"}, "response_format"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": {"type": "object"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}, "schema": {}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}},
            "response_format.json_schema.strict",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
        ({"structured_outputs": {"lark": "x"}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [2**31]}, "prompt[0]"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": ["a"] * 256, "n": 17}, "n"),
        ({"skip_special_tokens": False, "stop": "a"}, "skip_special_tokens"),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": "gpt-5"}, "model"),
        ({"model": "math:adapter"}, "model"),
        ({"user": 5}, "user"),
        ({"store": True}, "store"),
        ({"echo": True}, "echo"),
        ({"best_of": 5}, "best_of"),
        ({"session": "a"}, "session"),
        ({"return_token_ids": "yes"}, "return_token_ids"),
        ({"whatever": 0}, "whatever"),
        *(({name: 1}, name) for name in OF_COMPLETIONS if name != "best_of"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        completion(**asked)
    assert (refused.value.param, refused.value.status) in {(param, 400), ("model", 404)}
    assert refused.value.body()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": [5]}, "messages[0]"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"max_completion_tokens": 2**40}, "max_completion_tokens"),
        ({"chat_template_kwargs": {"a": DEEP}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": json.loads('{"a":' * 600 + "1" + "}" * 600)}}, "chat_template_kwargs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"session": 5}, "session"),
        ({"session": "a b"}, "session"),
        ({"session": "../../x"}, "session"),
        *(({name: 1}, name) for name in OF_CHAT),
    ],
)
def test_a_conversation_is_held_to_the_same(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**asked)
    assert (refused.value.param, refused.value.status) == (param, 400)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"max_completion_tokens": 2**40}, "max_completion_tokens: "),
        ({"max_tokens": 2**20, "n": 1024}, "max_tokens: times the sequences"),
        ({"max_completion_tokens": 2, "min_tokens": 3}, "min_tokens: exceeds max_completion_tokens=2"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens: exceeds max_tokens=2"),
        ({"n": 2, "temperature": 0}, "n: with temperature 0 all 2 completions are the same one: set temperature"),
    ],
)
def test_an_error_has_the_words_of_the_request(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**asked)

    assert str(refused.value).startswith(text)
    assert not {"max_new_tokens", "num_beams"} & set(re.findall(r"\w+", str(refused.value)))


def test_no_parameter_is_too_deep_for_its_reader() -> None:
    """The body's reader goes deeper than code that goes down by recursion."""
    deep = json.loads('{"a":' * 600 + "1" + "}" * 600)
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": deep}}
    values: list[Any] = [deep, {"a": deep}, [deep], schema]
    names = set(inspect.signature(ChatClient.create).parameters) | {"structured_outputs", "chat_template_kwargs"}
    for name in names - NOT_PARAMETERS:
        for value in values:
            with pytest.raises(ApiError):
                chat(None, **{name: value})


def test_the_most_completions_of_a_request_are_named() -> None:
    terms = Terms(policy="math", max_completions=4, has_chat=True)
    asked: dict[str, Any] = {"model": "math", "prompt": ["a", "b"]}

    assert completion_asked({**asked, "n": 2}, {}, terms).config.num_return_sequences == 2
    with pytest.raises(ApiError, match=r"at most 4 completions .*: 2 prompts with n=3 are 6"):
        completion_asked({**asked, "n": 3}, {}, terms)
    with pytest.raises(ApiError, match=r"at most 4 completions .*: not 5"):
        chat_asked({"model": "math", "messages": USER, "n": 5}, {}, terms)


def test_the_most_characters_of_a_prompt_are_named() -> None:
    terms = Terms(policy="math", max_characters=20, has_chat=True)

    assert completion_asked({"model": "math", "prompt": ["a" * 20, "b" * 20]}, {}, terms).characters == 40
    for param, read, asked in (
        ("prompt[1]", completion_asked, {"prompt": ["a", "a" * 21]}),
        ("messages", chat_asked, {"messages": [{"role": "user", "content": "a" * 21}]}),
    ):
        with pytest.raises(ApiError, match="at most 20 characters") as refused:
            read({"model": "math", **asked}, {}, terms)
        assert (refused.value.param, refused.value.code) == (param, "context_length_exceeded")


def test_a_conversation_ends_with_the_ids_of_its_template_too() -> None:
    assert chat(stop_token_ids=[7]).config.stop_token_ids == (7, 2)
    assert chat(ignore_eos=True).config.stop_token_ids == ()
    assert chat(max_completion_tokens=5, max_tokens=5).config.max_new_tokens == 5
    assert (chat(logprobs=True).shown.logprobs, chat().shown.logprobs) == (0, None)
    assert not chat(tools=[TOOL], tool_choice="none").has_calls


def test_a_session_and_an_id_come_from_headers_and_the_body() -> None:
    headers = {"x-rollstream-session": "s-1", "idempotency-key": "a", "x-request-id": "b"}
    assert chat(headers).caller.session == chat(headers, session="s-1").caller.session == "s-1"
    assert chat(headers).caller.request_id == "a"
    assert chat({"x-request-id": "b"}).caller.request_id == "b"
    with pytest.raises(ApiError, match="another one stands in the header"):
        chat(headers, session="s-2")
    for hostile in ("a\r\nb", "é", "", "a" * 129, "rs:{x}", "*"):
        with pytest.raises(ApiError):
            chat({"x-rollstream-session": hostile})


def test_an_adapter_is_named_behind_the_policy() -> None:
    assert (completion(model="math:chess@3").adapter, completion().adapter) == ("chess@3", None)


@pytest.mark.parametrize(("client", "ask"), [(ChatClient, chat), (CompletionsClient, completion)])
def test_no_parameter_of_openais_client_is_unknown(client: Any, ask: Any) -> None:
    """Each is taken or refused with advice of its own, also those that a later client brings."""
    names = set(inspect.signature(client.create).parameters) - NOT_PARAMETERS
    assert len(names) > 15
    unknown = []
    for name in names:
        try:
            ask(**{name: object()})
        except ApiError as error:
            if error.code == "unknown_parameter":
                unknown.append(name)
    assert unknown == []
