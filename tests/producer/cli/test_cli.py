"""What `rollstream submit` queues and prints, and which input it refuses by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from rollstream.schemas import GenerationConfig, Job, Keys, decode
from tests.support.command_line import ROWS, Command


def queued(redis_url: str, policy: str) -> list[Job]:
    with redis.Redis.from_url(redis_url) as server:
        return [decode(fields[b"payload"], Job) for _, fields in server.xrange(Keys(policy).jobs(0))]


# submit
def test_submit_prints_the_batch_id_alone_on_stdout(
    command: Command, redis_url: str, policy: str, prompts: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"temperature": 0.5, "top_k": 7, "logit_bias": {"12": 1.5}, "max_new_tokens": 99}')
    done = command(
        "submit", prompts, "--config", str(config), "--max-new-tokens", "4", "--set", "top_k=9",
        "--set", 'stop_strings=["a","b"]', "--adapter", "math@2", "--prompts-per-job", "1",
    )  # fmt: skip
    jobs = queued(redis_url, policy)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{jobs[0].batch_id}\n"
    assert done.stderr == "2 prompts queued in 2 jobs\n"
    assert jobs[0].config == GenerationConfig(
        temperature=0.5, top_k=9, logit_bias={12: 1.5}, max_new_tokens=4, stop_strings=("a", "b")
    )
    assert jobs[0].adapter == "math@2"


def test_submit_reads_stdin_and_again_is_a_no_op(command: Command, redis_url: str, policy: str) -> None:
    for told in ("queued", "were queued already,"):
        done = command("submit", "-", "--max-new-tokens", "4", "--batch-id", "mine", stdin=ROWS)
        assert (done.exit_code, done.stdout) == (0, "mine\n")
        assert done.stderr == f"2 prompts {told} in 1 jobs\n"
    assert len(queued(redis_url, policy)) == 1
    other = command("submit", "-", "--max-new-tokens", "5", "--batch-id", "mine", stdin=ROWS)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "already submitted with other content" in other.stderr


def test_the_longest_row_is_queued_first(command: Command, redis_url: str, policy: str) -> None:
    rows = "".join(f'{{"prompt_token_ids": [{tokens}], "expected_tokens": {tokens}}}\n' for tokens in (5, 0, 900))
    done = command("submit", "-", "--max-new-tokens", "4", "--prompts-per-job", "1", stdin=rows)
    assert done.exit_code == 0, done.stderr
    jobs = queued(redis_url, policy)
    assert [job.expected_tokens.tolist() for job in jobs if job.expected_tokens is not None] == [[900], [5], [0]]
    assert [job.prompts[0].tolist() for job in jobs] == [[900], [5], [0]]


def test_text_rows_are_tokenized_with_the_given_tokenizer(
    command: Command, redis_url: str, policy: str, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    done = command(
        "submit", "-", "--max-new-tokens", "4", "--tokenizer", str(tiny_model), stdin='{"text": "two and two"}\n'
    )
    assert done.exit_code == 0, done.stderr
    expected = AutoTokenizer.from_pretrained(tiny_model).encode("two and two")
    assert queued(redis_url, policy)[0].prompts[0].tolist() == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"text": "hello"}', "<stdin>:2: text needs --tokenizer"),
        ("{no json", "<stdin>:2: no JSON"),
        ("[1, 2]", '<stdin>:2: a row is {"prompt_token_ids"'),
        ('{"ids": [1]}', '<stdin>:2: a row is {"prompt_token_ids"'),
        ('{"prompt_token_ids": [1, -2]}', "<stdin>:2: \"prompt_token_ids\" must be a list of integers"),
        ('{"prompt_token_ids": [1, true]}', "<stdin>:2: \"prompt_token_ids\" must be a list of integers"),
        ('{"prompt_token_ids": [1], "expected_tokens": 1.5}', '<stdin>:2: "expected_tokens" must be an integer from 0'),
        ('{"prompt_token_ids": [1], "expected_tokens": -1}', '<stdin>:2: "expected_tokens" must be an integer from 0'),
        ('{"prompt_token_ids": [1], "expected_tokens": 9}', '<stdin>: 1 of 2 rows have no "expected_tokens": give'),
        ('{"text": 3}', '<stdin>:2: "text" must be a string'),
        ("[" * 100_000, "<stdin>:2: JSON nested too deeply"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line(command: Command, row: str, words: str) -> None:
    done = command("submit", "-", "--max-new-tokens", "4", stdin=f'{{"prompt_token_ids": [1]}}\n{row}\n')
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rollstream: {words}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [(b'{"text": "\\ud800"}', '"text" holds half of a surrogate pair'), (b'{"text": "caf\xe9"}', "no UTF-8")],
)
def test_text_that_no_tokenizer_takes_is_named_by_line(
    command: Command, tiny_model: Path, row: bytes, words: str
) -> None:
    rows = b'{"text": "two"}\n' + row
    done = command("submit", "-", "--max-new-tokens", "4", "--tokenizer", str(tiny_model), stdin=rows)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rollstream: <stdin>:2: {words}")


def test_a_config_file_nested_too_deeply_is_one_clear_line(command: Command, prompts: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("[" * 100_000)
    done = command("submit", prompts, "--config", str(config))
    assert done.exit_code == 1
    assert done.stderr == f"rollstream: generation config: --config: {config}: nested too deeply\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "max_new_tokens: is required"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--max-new-tokens", "4", "--set", "temprature=1"], "did you mean 'temperature'?"),
        (["--max-new-tokens", "4", "--set", "temperature=NaN"], "temperature"),
        (["--max-new-tokens", "4", "--set", "temperature"], "write name=value"),
        (["--max-new-tokens", "4", "--set", "stop_strings=end"], "--set 'stop_strings=\"end\"'"),
        (["--max-new-tokens", "4", "--set", "top_k=" + "[" * 100_000], "top_k: nested too deeply"),
        (["--max-new-tokens", "4", "--set", f'logit_bias={{"{"9" * 5000}": 1}}'], "logit_bias"),
        (["--max-new-tokens", "4", "--config", "/nowhere.json"], "/nowhere.json"),
        (["--max-new-tokens", "4", "--adapter", "math"], "name@version"),
        (["--max-new-tokens", "4", "--prompts-per-job", "0"], "prompts_per_job"),
        (["--max-new-tokens", "4", "--redis", "redis://:pw@127.0.0.1:1/0"], "***@127.0.0.1:1"),
    ],
)
def test_what_cannot_be_submitted_is_one_clear_line(
    command: Command, prompts: str, flags: list[str], words: str
) -> None:
    done = command("submit", prompts, *flags)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "it has no tokenizer.json: give the folder that the tokenizer's save_pretrained wrote"),
        ({"tokenizer.json": "x"}, "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ({"tokenizer.json": "{}"}, "KeyError: 'added_tokens'"),
        ({"tokenizer.json": '{"added_tokens": []}'}, "Exception: Model missing. at line 1 column 20"),
    ],
    ids=["none", "no JSON", "another JSON", "no tokenizer's JSON"],
)
def test_a_folder_without_tokenizer_is_one_clear_line(
    command: Command, tmp_path: Path, files: dict[str, str], told: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = command("submit", "-", "--max-new-tokens", "4", "--tokenizer", str(tmp_path), stdin='{"text": "a"}\n')
    assert done.exit_code == 1
    assert done.stderr == f"rollstream: {tmp_path}: no tokenizer can be loaded: {told}\n"


def test_a_missing_file_is_one_clear_line(command: Command) -> None:
    done = command("submit", "/no/such/file.jsonl", "--max-new-tokens", "4")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "rollstream: /no/such/file.jsonl: No such file or directory\n"


def test_an_empty_file_has_no_prompts(command: Command) -> None:
    done = command("submit", "-", "--max-new-tokens", "4", stdin="\n")
    assert done.exit_code == 1
    assert "<stdin>: no prompts" in done.stderr
