"""`rollstream` as an operator and a script meet it: what is on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from rollstream.producer.cli.app import app
from rollstream.schemas import GenerationConfig, Job, Keys, decode
from tests.support.answers import Answering, error_of, result_of
from tests.support.worker_process import ROOT, WorkerProcess, wait_for

ROWS = '{"prompt_token_ids": [1, 2]}\n\n{"prompt_token_ids": [3]}\n'


class Command:
    """The command line in this process, with one policy."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self.redis_url = redis_url
        self.env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def __call__(self, *args: str, stdin: str | bytes = "") -> Result:
        return CliRunner(env=self.env).invoke(app, list(args), input=stdin)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "rollstream", *args],
            cwd=ROOT,
            env={"PATH": "", **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text(ROWS)
    return str(file)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


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
    for _ in range(2):
        done = command("submit", "-", "--max-new-tokens", "4", "--batch-id", "mine", stdin=ROWS)
        assert (done.exit_code, done.stdout) == (0, "mine\n")
    assert len(queued(redis_url, policy)) == 1
    other = command("submit", "-", "--max-new-tokens", "5", "--batch-id", "mine", stdin=ROWS)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "already submitted with other content" in other.stderr


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


def test_a_folder_without_tokenizer_is_one_clear_line(command: Command, tmp_path: Path) -> None:
    done = command("submit", "-", "--max-new-tokens", "4", "--tokenizer", str(tmp_path), stdin='{"text": "a"}\n')
    assert done.exit_code == 1
    assert done.stderr.startswith(f"rollstream: {tmp_path}: no tokenizer can be loaded")


def test_a_missing_file_is_one_clear_line(command: Command) -> None:
    done = command("submit", "/no/such/file.jsonl", "--max-new-tokens", "4")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "rollstream: /no/such/file.jsonl: No such file or directory\n"


def test_an_empty_file_has_no_prompts(command: Command) -> None:
    done = command("submit", "-", "--max-new-tokens", "4", stdin="\n")
    assert done.exit_code == 1
    assert "<stdin>: no prompts" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["submit", "-", "--out", "x.jsonl", "--max-new-tokens", "4"],
        ["submit", "-", "--max-new-tokens", "many"],
        ["results"],
        ["results", "b", "--timeout", "1"],
        ["status", "--partitions", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(command: Command, args: list[str]) -> None:
    assert command(*args).exit_code == 2


def test_a_missing_policy_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 2
    assert "--policy" in done.stderr


def test_submit_and_wait_writes_the_results(
    stub_worker: WorkerProcess, command: Command, prompts: str, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    flags = ["--max-new-tokens", "4", "--set", "num_return_sequences=2"]
    done = command("submit", prompts, *flags, "--wait", "--timeout", "60", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    rows = sorted(lines(out.read_text()), key=lambda row: int(row["group"]))
    assert [(row["group"], row["prompt_token_ids"], len(row["completions"])) for row in rows] == [
        (0, [1, 2], 2),
        (1, [3], 2),
    ]
    assert {row["batch_id"] for row in rows} == {done.stdout.strip()}
    assert "2/2" in done.stderr


def test_a_dash_as_the_file_of_results_is_stdout(
    stub_worker: WorkerProcess, command: Command, prompts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("submit", prompts, "--max-new-tokens", "4", "--wait", "--timeout", "60", "--out", "-")
    batch_id, *rows = done.stdout.splitlines()
    again = command("results", batch_id, "--out", "-")

    assert sorted(json.loads(row)["group"] for row in rows) == [0, 1]
    assert sorted(again.stdout.splitlines()) == sorted(rows)
    assert not (tmp_path / "-").exists()


def test_failed_groups_exit_3(stub_worker: WorkerProcess, command: Command) -> None:
    rows = '{"prompt_token_ids": [1]}\n{"prompt_token_ids": [1000000]}\n'
    done = command("submit", "-", "--max-new-tokens", "4", "--wait", "--timeout", "60", stdin=rows)
    assert done.exit_code == 3, done.stderr
    again = command("results", done.stdout.strip())
    assert again.exit_code == 3
    assert {row["group"]: row.get("error", {}).get("code") for row in lines(again.stdout)} == {
        0: None,
        1: "token_out_of_vocabulary",
    }


def test_waiting_in_vain_exits_4_and_says_how_far_it_came(command: Command, prompts: str) -> None:
    done = command("submit", prompts, "--max-new-tokens", "4", "--wait", "--timeout", "0.3")
    assert done.exit_code == 4
    assert "0 of 2 groups after 0.3 s" in done.stderr
    assert len(done.stdout.splitlines()) == 1


# results


@pytest.fixture
def half_done(command: Command, redis_url: str, policy: str, prompts: str) -> Answering:
    """Batch `half`, group 1 of 2 answered."""
    assert command("submit", prompts, "--max-new-tokens", "4", "--batch-id", "half").exit_code == 0
    worker = Answering(redis_url, policy, "half", 2)
    worker.publish(result_of(1, [3], [[7, 8]], "half", texts=("a\x1b[31m",)))
    return worker


def test_results_writes_what_is_there(command: Command, half_done: Answering) -> None:
    done = command("results", "half")
    assert done.exit_code == 5
    assert "batch half: 1 of 2 groups are missing: the batch is not finished" in done.stderr
    assert lines(done.stdout) == [
        {
            "batch_id": "half",
            "group": 1,
            "prompt_token_ids": [3],
            "completions": [
                {
                    "token_ids": [7, 8],
                    "logprobs": [-1.0, -1.125],
                    "finish_reason": "stop",
                    "stop_reason": 8,
                    "text": "a\x1b[31m",
                    "score": None,
                    "version_spans": [[0, 2]],
                }
            ],
        }
    ]
    assert "\x1b" not in done.stdout


def test_results_follow_ends_when_the_batch_is_sealed(command: Command, half_done: Answering, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    following = command.start("results", "half", "--follow", "--out", str(out))
    wait_for(lambda: out.exists() and len(out.read_text().splitlines()) == 1, 30, lambda: "nothing was written")
    half_done.publish(error_of(0, [1, 2], "half"))
    stdout, stderr = following.communicate(timeout=30)
    assert (following.returncode, stdout) == (3, ""), stderr
    error = {"code": "too_long", "field": "prompt", "message": "too long by far"}
    assert lines(out.read_text())[1] == {"batch_id": "half", "group": 0, "prompt_token_ids": [1, 2], "error": error}


def test_ctrl_c_exits_130_without_a_traceback(command: Command, half_done: Answering, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    following = command.start("results", "half", "--follow", "--out", str(out))
    wait_for(lambda: out.exists() and len(out.read_text().splitlines()) == 1, 30, lambda: "nothing was written")
    following.send_signal(signal.SIGINT)
    _, stderr = following.communicate(timeout=30)
    assert following.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr


def test_an_unknown_batch_is_one_clear_line(command: Command) -> None:
    done = command("results", "nobody", "--follow")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "batch 'nobody' of policy" in done.stderr


def test_hostile_results_do_not_reach_the_terminal_raw(command: Command, half_done: Answering) -> None:
    half_done.publish(error_of(0, None, "half").model_copy(update={"batch_id": "\x1b]0;owned\x07"}))
    done = command("results", "half")
    assert done.exit_code == 1
    assert "\x1b" not in done.output


# status


def test_status_of_a_policy_that_nobody_uses(command: Command) -> None:
    done = command("status", "--json")
    assert done.exit_code == 0
    idle: dict[str, Any] = {
        "partition": 0, "entries": 0, "waiting": 0, "pending": 0, "oldest_waiting_s": None, "dead_letters": 0,
        "parked": [], "ids_ahead_s": 0.0,
    }  # fmt: skip
    assert (json.loads(done.stdout)["queues"], json.loads(done.stdout)["workers"]) == ([idle], [])


def test_status_counts_waiting_and_pending_jobs(command: Command, redis_url: str, policy: str) -> None:
    rows = '{"prompt_token_ids": [1]}\n' * 3
    command("submit", "-", "--max-new-tokens", "4", "--prompts-per-job", "1", stdin=rows)
    queue = json.loads(command("status", "--json").stdout)["queues"][0]
    assert (queue["waiting"], queue["pending"], queue["entries"]) == (3, 0, 3)
    jobs = Keys(policy).jobs(0)
    with redis.Redis.from_url(redis_url) as server:
        can_tell = int(server.info()["redis_version"].split(".")[0]) >= 7
        server.xgroup_create(jobs, "workers", "0")
        server.xreadgroup("workers", "w", {jobs: ">"}, count=1)
    queue = json.loads(command("status", "--json").stdout)["queues"][0]
    assert (queue["waiting"], queue["pending"], queue["entries"]) == (2 if can_tell else None, 1, 3)
    assert 0 <= queue["oldest_waiting_s"] < 60
    assert "oldest waiting" in command("status").stdout


def test_status_shows_live_workers(stub_worker: WorkerProcess, command: Command) -> None:
    (worker,) = json.loads(command("status", "--json").stdout)["workers"]
    assert worker["fields"]["state"] == "serving"
    assert worker["fields"]["engine"] == "stub"
    assert 0 <= worker["seen_s_ago"] < 60
    assert "1 live workers" in command("status").stdout


def test_a_worker_cannot_send_control_characters_to_the_terminal(command: Command, redis_url: str, policy: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.hset(Keys(policy).worker("w\x1b[2J"), mapping={"state": "[red]\x1b]0;x\x07", "seen_at": "never"})
        server.hset(Keys(policy).worker("v"), mapping={b"model": b"\xff"})
    shown = command("status")
    assert shown.exit_code == 0
    assert "2 live workers" in shown.stdout
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize("moment", ["-inf", "inf", "nan", "1e308", "-1e308", ""])
def test_a_worker_seen_at_no_time_at_all_is_shown_without(
    command: Command, redis_url: str, policy: str, moment: str
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.hset(Keys(policy).worker("w"), mapping={"state": "serving", "seen_at": moment})
    assert command("status").exit_code == 0
    assert json.loads(command("status", "--json").stdout)["workers"][0]["seen_s_ago"] is None


# The command itself


@pytest.mark.parametrize("args", [["--help"], ["submit", "--help"], ["results", "--help"], ["status", "--help"]])
def test_help_teaches_by_example(args: list[str]) -> None:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0
    assert "rollstream submit" in done.stdout or "Example: rollstream" in done.stdout


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ctrl_c_while_it_loads_is_quiet() -> None:
    done = run_python(
        "import os, signal, sys\n"
        "class AtNumpy:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, AtNumpy)\n"
        "from rollstream.__main__ import main\n"
        "main()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("package", ["torch", "safetensors", "tokenizers"])
def test_a_demo_without_its_packages_says_what_to_install(package: str) -> None:
    done = run_python(
        f"import sys; sys.modules['{package}'] = None; sys.argv = ['rollstream', 'demo']\n"
        "from rollstream.__main__ import main\n"
        "main()"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"rollstream: the demo needs the package {package}: pip install 'rollstream[cpu,embedded]'"
    )


def test_help_and_version_load_neither_torch_nor_vllm() -> None:
    code = (
        "import sys; sys.argv = ['rollstream', '--version']\n"
        "from rollstream.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rollstream ")
