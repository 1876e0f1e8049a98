"""The tiny model's tokenizer with a chat template that writes calls as Hermes does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TEMPLATE = """{%- if tools %}<bos>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Write calls as <tool_call>{"name": "f", "arguments": {}}</tool_call><eos>
{% endif %}{%- for m in messages %}<bos>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<eos>
{% endfor %}{% if add_generation_prompt %}<bos>assistant
{% endif %}"""


def write_chat_tokenizer(model: Path, folder: Path) -> Path:
    """A folder with the tokenizer of `model` and the template."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        shutil.copy(model / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return folder
