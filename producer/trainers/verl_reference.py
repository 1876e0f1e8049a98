"""The log-probs of verl's reference policy, from Rollstream's workers. Imports nothing of verl, Ray or tensordict.

Written against what `RayPPOTrainer` reads of `compute_ref_log_prob` in verl/trainer/ppo/ray_trainer.py, as of August
2026 (1dda039): `ref_log_prob`, aligned with `responses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollstream.schemas import ConfigError

from ..errors import PromptsError
from .scoring import ScoringDropIn, complete_scores
from .shared import DataProtoLike

if TYPE_CHECKING:
    import torch


class VerlReference(ScoringDropIn):
    """Replaces a reference worker of which only `compute_ref_log_prob` is called."""

    def compute_ref_log_prob(self, data: DataProtoLike) -> dict[str, torch.Tensor]:
        """`{"ref_log_prob": (R, L)}` for `DataProto.from_dict`: float32, aligned with `responses`, 0.0 in the padding.

        Reads `input_ids`, `attention_mask` and `responses` of `data.batch`, as verl's agent loop makes them. Raises
        `ConfigError` for `meta_info["temperature"]` other than 1, which the scores do not have, `PromptsError` for a
        row without a response or with images, `RolloutFailedError` when a row failed, and what `Client.score` raises.
        """
        if any(data.non_tensor_batch.get("multi_modal_inputs", ())):
            problem = "rows with images have no files here: score the rollouts with a client of that policy"
            raise PromptsError("multi_modal_inputs", problem)
        temperature = data.meta_info.get("temperature", 1.0)
        if temperature != 1:
            raise ConfigError("temperature", "scores are the model's own, at temperature 1", temperature)
        ids, width = data.batch["input_ids"], data.batch["responses"].shape[1]
        mask, first = data.batch["attention_mask"], ids.shape[1] - width
        scores = complete_scores(self._client.score(ids, mask, first=first, **self._options()))
        return {"ref_log_prob": scores.log_probs}
