"""A template is bounded in time and size and runs no code; what it does not render is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatFormat, ChatRequestError, ChatTemplateError
from rollstream.producer.gateway.chat.template import ChatTemplate
from tests.support.chat.replies import TOOLS
from tests.support.chat.tokenizers import saved

Formats = Callable[[str], ChatFormat]
USER = {"role": "user", "content": "q"}
SIMPLE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"


def with_template(tmp_path: Path, template: str) -> Path:
    folder = saved("chatml", tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return folder


@pytest.mark.parametrize(
    "loop",
    [
        "{% for a in messages * 3000 %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for a in range(9) %}{{ f(n + 1) if n < 30 }}{% endfor %}{% endmacro %}{{ f(0) }}",
    ],
)
def test_a_template_without_an_end_is_ended(loop: str, tmp_path: Path, formats: Formats) -> None:
    tokenizer = ChatFormat.of(with_template(tmp_path, SIMPLE)).tokenizer
    tokenizer.chat_template = loop
    began = monotonic()

    with pytest.raises(ChatRequestError, match=r"needs more than 0.2 s"):
        ChatTemplate(tokenizer, seconds=0.2).text([USER], prompt=True)

    assert monotonic() - began < 10


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
        "{{ range(10**9)|list }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for",
        "{{ raise_exception('no') }}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content.x }}",
    ],
)
def test_a_template_that_raises_is_an_error_at_the_start(template: str, tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="the chat template refuses"):
        ChatFormat.of(with_template(tmp_path, template))


@pytest.mark.parametrize("template", ["", "{{ messages[0].role }}", "{{ messages | length }}"])
def test_a_template_that_renders_no_reply_is_an_error_at_the_start(template: str, tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError):
        ChatFormat.of(with_template(tmp_path, template))


def test_a_text_that_is_too_long_is_refused(formats: Formats) -> None:
    template = ChatTemplate(formats("chatml").tokenizer, characters=1000)

    with pytest.raises(ChatRequestError, match="more than 1,000"):
        template.text([{"role": "user", "content": "q" * 1000}], prompt=True)


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_a_role_that_a_template_leaves_out_is_refused(role: str, tmp_path: Path) -> None:
    template = "{% for m in messages if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    form = ChatFormat.of(with_template(tmp_path, template))

    with pytest.raises(ChatRequestError, match="no place for role") as caught:
        form.whole([{"role": role, "content": "s"}, USER])

    assert caught.value.param == "messages[0].role"


def test_developers_speak_as_the_system_where_a_template_knows_only_that(formats: Formats) -> None:
    form = formats("qwen3")

    assert form.whole([{"role": "developer", "content": "s"}, USER]) == form.whole(
        [{"role": "system", "content": "s"}, USER]
    )


def test_tools_and_calls_that_a_template_leaves_out_are_refused(formats: Formats) -> None:
    form = formats("chatml")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}

    with pytest.raises(ChatRequestError, match="no place for tools"):
        form.whole([USER], TOOLS)
    with pytest.raises(ChatRequestError, match="no place for calls"):
        form.whole([USER, {"role": "assistant", "content": "", "tool_calls": [call]}])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"enable_thinkin": False}, "not among"),
        ({"messages": []}, "not for requests"),
        ({"bos_token": "x"}, "not for requests"),
        ({"eos_token": "x"}, "not for requests"),
        ({"chat_template": "x"}, "not for requests"),
    ],
)
def test_an_option_that_a_template_does_not_have_is_refused(
    options: dict[str, Any], problem: str, formats: Formats
) -> None:
    with pytest.raises(ChatRequestError, match=problem) as caught:
        formats("llama3.1").whole([USER], **options)

    assert caught.value.param.startswith("chat_template_kwargs.")


def test_the_time_limit_leaves_a_debugger_as_it_was(formats: Formats) -> None:
    import sys

    def tracer(*_: Any) -> None:
        return None

    sys.settrace(tracer)
    try:
        formats("chatml").whole([USER])
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(None)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded|no tokenizer.json"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "no chat template"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(spoil: Any, problem: str, tmp_path: Path) -> None:
    spoil(saved("chatml", tmp_path))

    with pytest.raises(ChatTemplateError, match=problem):
        ChatFormat.of(tmp_path)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="is no folder"):
        ChatFormat.of(tmp_path / "none")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = saved("chatml", tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    mapped = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "Evil", "auto_map": mapped}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    with pytest.raises(ChatTemplateError):
        ChatFormat.of(folder)

    assert not (tmp_path / "ran").exists()
