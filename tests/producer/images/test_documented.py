"""The snippet of docs/multimodal.md runs, and what it quotes is what is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rollstream import ImagesError
from rollstream.producer.images.given import read_images
from tests.support.images.pictures import bomb, file_of
from tests.support.worker_process import ROOT, running_worker

PAGE = (ROOT / "docs" / "multimodal.md").read_text()


def test_the_snippet_runs(redis_url: str, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat.png").write_bytes(file_of("png"))
    snippet, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    given: dict[str, Any] = {
        "url": redis_url, "prompts": [[1, 9], [2], [9, 9]], "folder": tmp_path, "first": file_of("jpeg"),
        "second": file_of("webp"),
    }  # fmt: skip

    with running_worker(redis_url, policy, "--engine", "stub", "--stub-image-token", "9"):
        exec(re.sub(r'policy="[^"]+"', f"policy={policy!r}", snippet), given)

    assert (given["rollouts"].errors, given["scores"].errors) == ({}, {})
    assert "ImageSpan(offset=1, length=2, was=(9,)" in capsys.readouterr().out


async def test_the_errors_are_those_that_are_quoted() -> None:
    cases: list[Any] = [[None, [bomb()]], [[file_of("png"), file_of("gif")], None], [None]]
    said = []
    for images in cases:
        with pytest.raises(ImagesError) as caught:
            await read_images(images, 2)
        said.append(str(caught.value))

    [quoted] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert quoted.splitlines() == said
    assert f"a file of\n{len(bomb())} bytes" in PAGE
