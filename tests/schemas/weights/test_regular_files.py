"""A pipe or a device in place of a file that others wrote is refused at once, without waiting."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from rollstream.schemas.weights.regular_files import NotRegularFileError, open_regular
from tests.support.worker_process import running_worker

CONFIG = "adapter_config.json"
PLAIN = '{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}'
WEIGHTS = "adapter_model.safetensors"


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_refused_by_its_kind(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "x")

    with pytest.raises(NotRegularFileError, match=f"it is a {kind}"):
        open_regular(tmp_path / "x")


def test_a_socket_and_a_missing_file_are_errors_of_the_system(tmp_path: Path) -> None:
    a_socket(tmp_path / "x")

    for name in ("x", "nothing"):
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")

    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


def test_adapters_that_are_pipes_and_devices_are_refused_and_the_worker_serves_and_ends(
    redis_url: str, policy: str, client: Client, tmp_path: Path
) -> None:
    for kind, file in (("pipe", CONFIG), ("device", CONFIG), ("pipe", WEIGHTS), ("device", WEIGHTS)):
        folder = tmp_path / f"{kind}-{file[8:13]}@1"
        folder.mkdir()
        (folder / CONFIG).write_text(PLAIN)
        (folder / file).unlink(missing_ok=True)
        KINDS[kind](folder / file)
    names = sorted(folder.name for folder in tmp_path.iterdir())
    config = GenerationConfig(max_new_tokens=2)

    with running_worker(redis_url, policy, "--engine", "stub", "--adapter-dir", str(tmp_path)) as worker:
        refused = {name: client.generate([[5]], None, config, adapter=name, timeout=20) for name in names}
        served = client.generate([[5]], None, config, timeout=20)
        code = worker.terminate(timeout_s=10)

    assert len(names) == 4
    for name, rollouts in refused.items():
        kind = name.partition("-")[0]
        assert rollouts.errors[0].code == "adapter_refused"
        assert f"it is a {kind}" in rollouts.errors[0].message
    assert served.errors == {}
    assert code == 0
