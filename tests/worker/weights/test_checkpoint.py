"""A checkpoint is taken only whole and only for the model that the worker booted with; else it is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.errors import CheckpointRefusedError
from rollstream.worker.weights.checkpoint import Booted, check, digest, stamp
from tests.support.weights.versions import shard

FIRST, NORM = "lm_head.weight", "model.norm.weight"


WEIGHTS = "model.safetensors"


SECOND = "model-00002-of-00002.safetensors"


def change_weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)

    return harm


def change_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return harm


def change_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The header says something else, the bytes and their number stay."""

    def harm(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return harm


def link_out(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        elsewhere = folder.parent / f"elsewhere-{name}"
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)

    return harm


def replace_by_fifo(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "folder: no folder of that name"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: is missing"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json: is not readable \(EOF while"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json: is no JSON object"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"no \*\.safetensors file"),
    "truncated": (lambda f: os.truncate(f / WEIGHTS, 10_000), "truncated"),
    "truncated by a byte": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1), "truncated"),
    "truncated in the header": (lambda f: os.truncate(f / WEIGHTS, 100), "truncated or no safetensors file"),
    "empty": (lambda f: os.truncate(f / WEIGHTS, 0), "truncated or no safetensors file"),
    "garbage": (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 5000), "truncated or no safetensors file"),
    "missing tensor": (change_weights(lambda w: w.pop(NORM)), f"tensor {NORM} is missing:"),
    "missing tensors": (
        change_weights(lambda w: [w.pop(name) for name in sorted(w) if "mlp" in name]),
        r"tensor model\.layers\.0\.mlp\.down_proj\.weight is missing \(and 5 more\)",
    ),
    "missing untied head": (change_weights(lambda w: w.pop("lm_head.weight")), r"tensor lm_head\.weight is missing"),
    "extra tensor": (change_weights(lambda w: w.update(extra=w[NORM].clone())), "model has no tensor extra"),
    "other shape": (change_weights(lambda w: w.update({NORM: w[NORM][:64]})), r"norm.weight has shape \[64\].*\[128\]"),
    "other dtype": (change_weights(lambda w: w.update({NORM: w[NORM].half()})), f"{NORM} is F16.*has F32.*cast"),
    "link out of the folder": (link_out(WEIGHTS), r"model\.safetensors: is a link out of the folder"),
    "config a link": (link_out("config.json"), r"config\.json: is a link out of the folder"),
    "a pipe": (replace_by_fifo, "no regular file"),
    "other architecture": (change_json("config.json", lambda c: c.update(rope_theta=1e6)), "rope_theta is 1000000.0"),
    "tied": (change_json("config.json", lambda c: c.update(tie_word_embeddings=True)), "tie_word_embeddings is True"),
    "header offsets beyond the file": (
        change_header(lambda h: h[NORM].update(data_offsets=[0, 10**12])),
        "truncated or has bytes",
    ),
    "header shape beyond its bytes": (change_header(lambda h: h[NORM].update(shape=[256])), f"of tensor {NORM}"),
    "overlapping tensors": (change_header(lambda h: h[FIRST].update(data_offsets=[0, 4])), f"of tensor {FIRST}"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMS)
def test_a_harmed_checkpoint_is_refused_by_name(name: str, booted: Path, new: Path) -> None:
    harm, says = HARMS[name]
    harm(new)

    with pytest.raises(CheckpointRefusedError, match=says) as raised:
        check(new, Booted(folder=booted))

    assert str(raised.value).startswith("checkpoint step-7: ")
    assert str(new.parent) not in str(raised.value)


SHARD_HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda f: (f / SECOND).unlink(), f"{SECOND}.* (not readable|missing)"),
    "truncated shard": (lambda f: os.truncate(f / SECOND, 2000), f"{SECOND}.*truncated"),
    "index names another file": (
        change_json("model.safetensors.index.json", lambda i: i["weight_map"].update({NORM: SECOND})),
        f"index.json: tensor {NORM} is not in {SECOND}",
    ),
    "index leads out": (
        change_json("model.safetensors.index.json", lambda i: i["weight_map"].update({NORM: "../x.safetensors"})),
        "weight_map must map",
    ),
    "index without a map": (change_json("model.safetensors.index.json", dict.clear), "weight_map must map"),
    "a tensor twice": (lambda f: shutil.copy(f / SECOND, f / SECOND.replace("2", "1", 1)), "is also in|is not in"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARD_HARMS)
def test_a_harmed_sharded_checkpoint_is_refused_by_name(name: str, booted: Path, new: Path) -> None:
    harm, says = SHARD_HARMS[name]
    shard(new)
    harm(new)

    with pytest.raises(CheckpointRefusedError, match=says):
        check(new, Booted(folder=booted))


def test_whole_checkpoints_pass_sharded_or_not(booted: Path, new: Path) -> None:
    check(new, Booted(folder=booted))
    check(new, None)
    check(shard(new), Booted(folder=booted))


def test_a_booted_model_may_be_made_of_links_as_a_cache_has_them(booted: Path, new: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.mkdir()
    for path in booted.iterdir():
        (cached / path.name).symlink_to(path)

    check(new, Booted(folder=cached))


@pytest.mark.parametrize("with_head", ["neither", "booted", "new"])
def test_a_tied_head_may_be_there_or_not(with_head: str, tmp_path: Path) -> None:
    booted = write_model(tmp_path / "booted", seed=1, tied=True, tokenizer=False)
    new = write_model(tmp_path / "new", seed=2, tied=True, tokenizer=False)
    add_head = change_weights(lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    if with_head != "neither":
        add_head(tmp_path / with_head)

    check(new, Booted(folder=booted))


def test_without_a_model_to_compare_with_a_checkpoint_must_still_be_whole(new: Path) -> None:
    os.truncate(new / WEIGHTS, 10_000)

    with pytest.raises(CheckpointRefusedError, match="truncated"):
        check(new, None)


@pytest.mark.parametrize("name", ["header shape beyond its bytes", "overlapping tensors", "truncated", "garbage"])
def test_the_safetensors_library_refuses_these_too(name: str, new: Path) -> None:
    HARMS[name][0](new)

    with pytest.raises(SafetensorError), safe_open(new / WEIGHTS, "np"):
        pass


@pytest.mark.parametrize("name", ["no folder", "link out of the folder", "a pipe"])
def test_what_cannot_be_read_has_no_digest(name: str, new: Path) -> None:
    HARMS[name][0](new)

    with pytest.raises(CheckpointRefusedError):
        digest(new)


def loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


def below_a_file(folder: Path) -> Path:
    return folder / "config.json" / "step-8"


def with_too_long_a_name(folder: Path) -> Path:
    return folder.parent / ("x" * 300)


def weights_loop(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / WEIGHTS)


UNREADABLE: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "below a file": (below_a_file, "checkpoint step-8: folder: no folder of that name"),
    "a loop": (loop, r"checkpoint step-7: folder: cannot be read \(Too many levels of symbolic links\)"),
    "too long a name": (with_too_long_a_name, r"checkpoint x+: folder: cannot be read \(File name too long\)"),
    "a file": (lambda f: f / "config.json", "folder: no folder of that name"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_the_file_system_refuses_is_a_refused_checkpoint_that_says_why(name: str, booted: Path, new: Path) -> None:
    harm, says = UNREADABLE[name]
    folder = harm(new) or new

    assert stamp(folder) == ()
    for asked in (digest, lambda f: check(f, Booted(folder=booted)), lambda f: check(f, None)):
        with pytest.raises(CheckpointRefusedError, match=says) as raised:
            asked(folder)
        assert str(new.parent) not in str(raised.value)


def test_a_file_that_leads_to_itself_is_refused_and_not_stamped(booted: Path, new: Path) -> None:
    before = stamp(new)
    weights_loop(new)

    assert set(stamp(new)) == {file for file in before if file[0] != WEIGHTS}
    for asked in (digest, lambda f: check(f, Booted(folder=booted))):
        with pytest.raises(CheckpointRefusedError, match=r"model\.safetensors: is (missing or no regular file|a link)"):
            asked(new)


@pytest.mark.parametrize("name", [b"\xff.safetensors", b"new\nline.safetensors"])
def test_a_file_whose_name_cannot_be_printed_is_refused(name: bytes, booted: Path, new: Path) -> None:
    (new / os.fsdecode(name)).write_bytes(b"")

    for asked in (digest, lambda f: check(f, Booted(folder=booted))):
        with pytest.raises(CheckpointRefusedError, match="cannot be printed") as raised:
            asked(new)
        assert str(raised.value).isprintable()
