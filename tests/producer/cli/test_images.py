"""`rollstream submit` takes images by the paths of their files, and results name what was expanded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Command, lines
from tests.support.fault_steps import stub
from tests.support.images.pictures import file_of

FLAGS = "--max-new-tokens", "4"


def row(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def test_a_row_names_the_files_of_its_images(command: Command, redis_url: str, policy: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(file_of("png"))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(row(prompt_token_ids=[1, 9, 2], images=["cat.png"]) + row(prompt_token_ids=[3]))

    with stub(redis_url, policy, "--stub-image-token", "9"):
        done = command("submit", str(prompts), *FLAGS, "--wait", "--out", str(tmp_path / "out"), "--timeout", "30")

    assert done.exit_code == 0, done.stderr
    seen, plain = sorted(lines((tmp_path / "out").read_text()), key=lambda one: one["group"])
    assert seen["prompt_token_ids"] == [1, 9, 9, 2]
    assert [(image["format"], image["width"]) for image in seen["images"]] == [("png", 6)]
    (span,) = seen["image_spans"]
    assert len(span.pop("processor")) == 64
    assert span == {"offset": 1, "length": 2, "was": [9]}
    assert not {"images", "image_spans"} & plain.keys()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("cat.png", ":1: \"images\" must be a list of paths of files"),
        ([1], ":1: \"images\" must be a list of paths of files"),
        (["nowhere.png"], "images, row 0: image 0: "),
        (["prompts.jsonl"], "no image, it begins with"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_one_clear_line(command: Command, tmp_path: Path, images: object, said: str) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(row(prompt_token_ids=[9], images=images))

    done = command("submit", str(prompts), *FLAGS)

    assert (done.exit_code, done.stdout) == (1, "")
    assert said in " ".join(done.stderr.split())


def test_golden_jobs_have_no_images(command: Command, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(row(prompt_token_ids=[9], images=["cat.png"]))

    done = command("golden", "record", "--prompts", str(prompts), "--out", str(tmp_path / "golden"))

    assert done.exit_code == 1
    assert "has images, which golden jobs do not" in " ".join(done.stderr.split())
