"""Checkpoints on disk, made whole and then harmed."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file


def shard(folder: Path) -> Path:
    """Spread the weights of a model over two files and an index, in place; gives `folder`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    # Every second tensor, so that every layer is in both files.
    weight_map = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
