"""Processors of images that give the model other values have other digests; a float's last bits make none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollstream.worker.engines.vllm.images.processor_digest import digest_of, probe_picture


def made(mean: float = 0.48, std: float = 0.27, scale: float = 1 / 255, **others: Any) -> dict[str, Any]:
    """What a processor hands on."""
    pixels = torch.from_numpy(probe_picture().pixels).to(torch.float32) * scale
    return {"pixel_values": (pixels - mean) / std, "image_grid_thw": torch.tensor([1, 4, 4]), **others}


def test_the_same_processor_has_the_same_digest_whatever_the_order_and_the_last_bits() -> None:
    found = made()

    one_bit_off = torch.nextafter(found["pixel_values"], torch.tensor(torch.inf))
    turned = {name: found[name] for name in reversed(found)}

    assert digest_of([found]) == digest_of([{**turned, "pixel_values": one_bit_off}])


@pytest.mark.parametrize(
    "other",
    [
        made(mean=0.481),
        made(std=0.271),
        made(scale=1 / 256),
        made(image_grid_thw=torch.tensor([1, 2, 8])),
        made(more=[torch.zeros(2), 1]),
        made(pixel_values=made()["pixel_values"].reshape(-1)),
        made(pixel_values=made()["pixel_values"].flip(0)),
    ],
    ids=["mean", "std", "scale", "grid", "another value", "shape", "order"],
)
def test_another_processor_has_another_digest(other: dict[str, Any]) -> None:
    assert digest_of([other]) != digest_of([made()])


def test_what_is_no_tensor_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="processor's text is str"):
        digest_of([made(text="a")])
