"""The text of a completion, without special tokens; vLLM looks for stop strings in a text that has them.

Pure, and imports no tokenizer: special tokens are given as id and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def visible_text(text: str, token_ids: Sequence[int], special: Mapping[int, str], kept_stop: str | None) -> str:
    """`text` without the texts of the special tokens among `token_ids`.

    `kept_stop` is the stop string at the end of `text`, if it was kept; it stays whole even if it has special tokens.
    """
    said = [special[token] for token in token_ids if token in special]
    if not said:
        return text
    end = len(text) - len(kept_stop or "")
    parts, start = [], 0
    for token_text in said:
        where = text.find(token_text, start, end)
        if where < 0:  # the token is part of the stop string, or ended the completion and vLLM left it out
            continue
        parts.append(text[start:where])
        start = where + len(token_text)
    return "".join([*parts, text[start:]])
