"""The snippet of docs/scores.md runs, and its formula holds."""

from __future__ import annotations

import re
from typing import Any

from tests.support.worker_process import ROOT, WorkerProcess


def test_the_snippet_of_the_page_on_scores_runs(redis_url: str, policy: str, stub_worker: WorkerProcess) -> None:
    page = (ROOT / "docs" / "scores.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert {"math-7b", "teacher-72b"} <= set(re.findall(r'policy="([^"]+)"', snippet))
    names: dict[str, Any] = {"url": redis_url, "prompts": [[5, 6], [7]]}

    exec(re.sub(r'policy="[^"]+"', f"policy={policy!r}", snippet), names)

    rollouts, scores = names["rollouts"], names["scores"]
    assert scores.top_token_ids.shape == (16, rollouts.response_len, 16)
    assert "(rollouts.old_log_probs - scores.log_probs) * scores.scored_mask" in page
    assert not ((rollouts.old_log_probs - scores.log_probs) * scores.scored_mask).any()  # the stub scores as it samples
