"""A misspelt variable is refused as a misspelt flag is; what Kubernetes puts beside them is left alone."""

from __future__ import annotations

import pytest

from rollstream.producer.cli.usage import usage_problem
from rollstream.schemas.environment import PREFIX, WORKER_SETTINGS, UnknownVariableError, check_environment
from rollstream.worker.command import main
from rollstream.worker.config import WorkerSettings


def test_every_setting_of_the_worker_is_known() -> None:
    assert {name.upper() for name in WorkerSettings.model_fields} == WORKER_SETTINGS


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ROLLSTREAM_REDSI", "ROLLSTREAM_REDIS"),
        ("ROLLSTREAM_MAX_NUM_SEQ", "ROLLSTREAM_MAX_NUM_SEQS"),
        ("rollstream_lease", "ROLLSTREAM_LEASE_S"),
        ("ROLLSTREAM_REDIS_PORT", "ROLLSTREAM_REDIS"),
        ("ROLLSTREAM_", None),
        ("ROLLSTREAM_COLOUR_OF_THE_SKY", None),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(name: str, near: str | None) -> None:
    with pytest.raises(UnknownVariableError) as caught:
        check_environment({name: "SECRET"})

    assert (caught.value.name, caught.value.near) == (name, near)
    assert "SECRET" not in str(caught.value)


def test_what_is_set_rightly_and_what_kubernetes_sets_is_left_alone() -> None:
    service = {
        "REDIS_SERVICE_HOST": "10.0.0.1", "REDIS_SERVICE_PORT": "6379", "REDIS_SERVICE_PORT_METRICS": "1",
        "REDIS_PORT": "tcp://10.0.0.1:6379", "REDIS_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        "REDIS_PORT_6379_TCP_PROTO": "tcp", "REDIS_PORT_6379_TCP_PORT": "6379", "REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
        "WORKER_GPU_PORT_53_UDP_ADDR": "10.0.0.1", "SERVICE_HOST": "10.0.0.1", "PORT": "udp://10.0.0.1:53",
    }  # fmt: skip
    ours = dict.fromkeys(WORKER_SETTINGS, "x") | {"REDIS_SERVER": "x"}

    check_environment({PREFIX + name: value for name, value in (service | ours).items()} | {"VLLM_PORT": "x"})


def test_the_worker_refuses_one_and_still_gives_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROLLSTREAM_POLCY", "p")

    code = main(["--engine", "stub"])
    with pytest.raises(SystemExit) as helped:
        main(["--help"])

    assert code == 2
    assert "ROLLSTREAM_POLCY: there is no such setting; do you mean ROLLSTREAM_POLICY?" in capsys.readouterr().err
    assert helped.value.code == 0


def test_the_command_line_refuses_one_and_still_gives_help() -> None:
    environment = {"ROLLSTREAM_POLCY": "p"}

    assert "do you mean ROLLSTREAM_POLICY" in (usage_problem(["status"], environment) or "")
    assert usage_problem(["status", "--help"], environment) is None
