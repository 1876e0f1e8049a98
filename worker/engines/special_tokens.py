"""What a completion reads as: vLLM looks for stop strings in a text with special tokens, and ours leaves them out.

Pure, and imports no tokenizer: the special tokens are given as id and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def visible_text(text: str, token_ids: Sequence[int], special: Mapping[int, str], kept_stop: str | None) -> str:
    """`text` without what the special tokens among `token_ids` added to it.

    `kept_stop` is the stop string at the end of `text`, if it was kept: it stays whole, special tokens or not.
    """
    said = [special[token] for token in token_ids if token in special]
    if not said:
        return text
    end = len(text) - len(kept_stop or "")
    parts, start = [], 0
    for token_text in said:
        where = text.find(token_text, start, end)
        if where < 0:  # it belongs to the stop string, or vLLM left it out as the token that ended the completion
            continue
        parts.append(text[start:where])
        start = where + len(token_text)
    return "".join([*parts, text[start:]])
