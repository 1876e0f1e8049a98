"""A model's id in place of a folder is refused with the way to a folder, at the worker and at the producer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollstream import Client, NameRefusedError
from rollstream.producer.cli.app import app
from rollstream.producer.policies.errors import AdapterError, CheckpointError
from rollstream.schemas.weights.folders import download_hint, folder_problem
from rollstream.worker.command import main

ID = "Qwen/Qwen2.5-0.5B-Instruct"
HINT = f"hf download {ID} --local-dir Qwen2.5-0.5B-Instruct"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no folder has the name of a model."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", ID],
        ["--engine", "stub", "--tokenizer", ID],
        ["--engine", "stub", "--adapter-dir", ID],
        ["--engine", "stub", "--checkpoint-dir", ID],
        ["--engine", "stub", "--engine-args", f'{{"model": "{ID}"}}'],
    ],
    ids=lambda flags: " ".join(flags[-2:])[:30],
)
def test_the_worker_says_how_an_id_becomes_a_folder(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--policy", "p", *flags])

    assert code == 2
    assert HINT in capsys.readouterr().err


def test_so_does_the_producer_before_anything_is_published(client: Client) -> None:
    with pytest.raises(CheckpointError, match=HINT):
        client.publish_policy(1, checkpoint=ID)
    with pytest.raises(AdapterError, match=HINT):
        client.publish_adapter("math", 1, ID)


def test_so_does_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text": "x"}\n')
    words = ["submit", "prompts.jsonl", "--policy", "p", "--max-new-tokens", "1", "--tokenizer", ID]

    said = CliRunner().invoke(app, words)

    assert said.exit_code == 1
    assert HINT in said.output


def test_a_path_that_is_no_id_is_only_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert folder_problem(Path("/nowhere/at/all")) == "is no folder"
    assert folder_problem(tmp_path / "file") == "is no folder: give the one that the file lies in"
    assert folder_problem(Path("a\0b")) == "is no path"
    assert folder_problem(tmp_path) is None
    assert "hf download gpt2" in download_hint(Path("gpt2"))
    assert not download_hint(Path("./a/b/c"))


def test_an_adapters_version_is_an_argument_of_its_own(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NameRefusedError, match="leave out what begins with the @: version=1 is an argument"):
        client.publish_adapter("math@1", 1, tmp_path)


@pytest.mark.parametrize(
    "flags", [["--model"], ["--engine", "stub", "--tokenizer"]], ids=["the model's folder", "the tokenizer's"]
)
def test_no_worker_waits_for_a_pipe_in_a_folder_that_is_loaded(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")

    assert main(["--policy", "p", *flags, str(tmp_path)]) == 2
    assert "holds tokenizer.json: it is a pipe, not a regular file" in capsys.readouterr().err


def test_no_command_waits_for_a_pipe_in_the_tokenizers_folder(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text": "x"}\n')
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "leads-nowhere").symlink_to("nothing")
    os.mkfifo(folder / "config.json")
    words = ["submit", "prompts.jsonl", "--policy", "p", "--max-new-tokens", "1", "--tokenizer", str(folder)]

    said = CliRunner().invoke(app, words)

    assert said.exit_code == 1
    assert "holds config.json: it is a pipe" in said.output
