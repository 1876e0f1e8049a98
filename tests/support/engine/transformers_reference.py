"""What transformers says about the same weights: the other side of every comparison with vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, logging
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

logging.set_verbosity_error()
torch.set_num_threads(1)  # the model is tiny, and the engine beside us has the cores


class Reference:
    """A float32 transformers model, with a LoRA adapter added to its weights by hand (W + alpha / r * B A)."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        if adapter is not None:
            _add_adapter(self.model, adapter)

    def logits(self, prompt: list[int], tokens: list[int]) -> torch.Tensor:
        """(len(tokens), vocab): before each token."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(torch.tensor([prompt + tokens])).logits[0]
        return logits[len(prompt) - 1 : -1]

    def logprobs(
        self,
        prompt: list[int],
        tokens: list[int],
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
    ) -> NDArray[np.float32]:
        """(len(tokens),): of each token under the sampling distribution."""
        steps = LogitsProcessorList()
        if repetition_penalty != 1:
            steps.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
        if temperature != 1:
            steps.append(TemperatureLogitsWarper(temperature))
        if min_p > 0:
            steps.append(MinPLogitsWarper(min_p))
        if top_k > 0:
            steps.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            steps.append(TopPLogitsWarper(top_p))
        found = []
        for i, row in enumerate(self.logits(prompt, tokens)):
            shaped = steps(torch.tensor([prompt + tokens[:i]]), row[None])
            found.append(shaped.log_softmax(-1)[0, tokens[i]].item())
        return np.array(found, np.float32)

    def generate(self, prompt: list[int], max_new_tokens: int, **options: Any) -> tuple[list[list[int]], list[float]]:
        """Completions as transformers pads them, and beam scores."""
        with torch.no_grad():
            output = self.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                pad_token_id=0,
                **options,
            )
        scores = getattr(output, "sequences_scores", None)
        return output.sequences[:, len(prompt) :].tolist(), [] if scores is None else scores.tolist()


def _add_adapter(model: Any, folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    weights = dict(model.named_parameters())
    for name, lower in tensors.items():
        if ".lora_A." not in name:
            continue
        upper = tensors[name.replace(".lora_A.", ".lora_B.")]
        target = weights[name.removeprefix("base_model.model.").replace(".lora_A", "")]
        target.data += scale * upper.float() @ lower.float()
