"""Replies as policies sample them."""

from __future__ import annotations

from rollstream.producer.gateway.chat import ChatFormat, checked_tools

_BAR = "\uff5c"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = checked_tools([{"type": "function", "function": {"name": "weather", "description": "w", "parameters": CITY}}])
CALLS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom ü"}}\n</tool_call>',
    "llama3": '{"name": "weather", "parameters": {"city": "Rom ü"}}',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rom ü"}}]',
    "deepseek": (
        f"<{_BAR}tool▁calls▁begin{_BAR}><{_BAR}tool▁call▁begin{_BAR}>function<{_BAR}tool▁sep{_BAR}>weather\n"
        f'```json\n{{"city": "Rom ü"}}\n```<{_BAR}tool▁call▁end{_BAR}><{_BAR}tool▁calls▁end{_BAR}>'
    ),
    "harmony": '<|channel|>commentary to=functions.weather json<|message|>{"city": "Rom ü"}',
}
"""A call of the tool, by the name of its parser."""


def shattered(form: ChatFormat, text: str) -> list[int]:
    """The text as ids that no tokenizer would choose, since a policy samples such; added tokens stay whole."""
    known: dict[str, int] = form.tokenizer.get_added_vocab()
    ids: list[int] = []
    at = 0
    while at < len(text):
        token = next((name for name in known if name and text.startswith(name, at)), None)
        piece = token or text[at]
        ids += [known[token]] if token else _bytes_of(form, piece)
        at += len(piece)
    return ids


def _bytes_of(form: ChatFormat, letter: str) -> list[int]:
    """Ids of a character: of its bytes where it has no id of its own. Pieces that a space is put before are cut."""
    vocabulary = form.tokenizer.get_vocab()
    if "<0x0A>" in vocabulary:
        piece = letter.replace(" ", "▁")
        return [vocabulary[piece]] if piece in vocabulary else [vocabulary[f"<0x{one:02X}>"] for one in letter.encode()]
    return list(form.tokenizer(letter, add_special_tokens=False)["input_ids"])
