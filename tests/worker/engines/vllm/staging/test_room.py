"""Memory is what the machine has, and no more than any control group allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream.worker.engines.vllm.staging import room

MIB = 2**20


def group(folder: Path, names: tuple[str, str, tuple[str, ...]], limit: str, used: int, files: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    most, now, (inactive, active) = names[0], names[1], names[2]
    (folder / most).write_text(f"{limit}\n")
    (folder / now).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"{inactive} {files}\n{active} 0\nshmem 77\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room, "_of_machine", lambda: 900 * MIB)
    return tmp_path


def is_in(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(room, "_memberships", lambda: [line])


@pytest.mark.parametrize("line", ["0::/pod/worker", "0::/another/view/of/it"])
def test_the_limit_of_a_container_counts_whatever_its_path_is(
    groups: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    group(groups, room._UNIFIED, str(600 * MIB), 500 * MIB, 50 * MIB)
    is_in(monkeypatch, line)

    assert room.available_bytes() == 150 * MIB


def test_the_tightest_of_the_groups_around_it_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group(groups / "pod", room._UNIFIED, str(300 * MIB), 100 * MIB, 0)
    group(groups / "pod" / "worker", room._UNIFIED, "max", 90 * MIB, 0)
    is_in(monkeypatch, "0::/pod/worker")

    assert room.available_bytes() == 200 * MIB


def test_the_older_kind_of_group_counts_too(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group(groups / "memory" / "worker", room._OLD, str(400 * MIB), 100 * MIB, 0)
    is_in(monkeypatch, "4:memory:/worker")

    assert room.available_bytes() == 300 * MIB


def test_without_a_limit_the_machine_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_in(monkeypatch, "0::/")

    assert room.available_bytes() == 900 * MIB


def test_this_machine_has_memory() -> None:
    assert 0 < room.available_bytes() < 2**50
