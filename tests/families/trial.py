"""One family: its engine is started once if it can be, and every cell is asked of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import (
    CheckpointRefusedError,
    DataError,
    EngineDiedError,
    ProofFailedError,
    SettingsError,
    SwapFailedError,
    UnprovableError,
)
from tests.families.cells import CELLS, Trial, WrongError
from tests.families.models import make_model, save_model
from tests.families.outcomes import Cell, Row
from tests.support.engine.engine_requests import ON_GPU, end

REFUSED = (SettingsError, CheckpointRefusedError, SwapFailedError, UnprovableError, DataError)

Show = Callable[[str], None]


async def run_family(family: str, features: Sequence[str], show: Show, dtype: str | None = None) -> Row:
    """The family's cells, in `dtype`; None: float32, but on a GPU, where such an engine takes no adapter, bfloat16 for
    LoRA.
    """
    model = await asyncio.to_thread(make_model, family, 0)
    with tempfile.TemporaryDirectory(prefix="rollstream-families-") as place:
        folder = Path(place)
        await asyncio.to_thread(save_model, model, folder / "boot")
        asked = _Family(family, model, folder, show)
        return await (asked.cells(features) if dtype is None else asked.cells_in(dtype, features))


class _Family:
    def __init__(self, family: str, model: Any, folder: Path, show: Show) -> None:
        self._family = family
        self._model = model
        self._folder = folder
        self._show = show

    async def cells(self, features: Sequence[str]) -> Row:
        """First all cells in float32 with one engine; what this engine does not take, with another."""
        rest = [feature for feature in features if feature != "LoRA"]
        if not ON_GPU or "LoRA" not in features:
            return await self.cells_in("float32", features)
        dtype = "bfloat16" if _is_mixture(self._model) else "float32"
        found = {
            **await self._with_engine(rest, dtype, lora=False),
            **await self._with_engine(["LoRA"], "bfloat16", lora=True),
        }
        if all(found[feature].ended == "refused" for feature in rest):
            found.update(await self._with_engine(rest, "bfloat16", lora=False))
        return {feature: found[feature] for feature in features}

    async def cells_in(self, dtype: str, features: Sequence[str]) -> Row:
        """All cells in one data type, with one engine; without LoRA if an engine with it is refused."""
        rest = [feature for feature in features if feature != "LoRA"]
        if "LoRA" not in features:
            return await self._with_engine(rest, dtype, lora=False)
        found = dict(await self._with_engine(features, dtype, lora=True))
        if all(cell.ended == "refused" for cell in found.values()):
            found.update(await self._with_engine(rest, dtype, lora=False))
        return {feature: found[feature] for feature in features}

    async def _with_engine(self, features: Sequence[str], dtype: str, *, lora: bool) -> Row:
        self._show(f"starts in {dtype}{' with LoRA' if lora else ''}")
        try:
            async with _running(_settings(self._folder / "boot", dtype, lora=lora)) as engine:
                return await self._asked(features, Trial(self._family, self._model, self._folder, engine, dtype))
        except SettingsError as error:
            cell = Cell("refused", said=self._plain(error), dtype=dtype)
        except EngineDiedError as error:
            cell = Cell("died", said=f"at its start: {self._plain(error)}", dtype=dtype)
        return dict.fromkeys(features, cell)

    async def _asked(self, features: Sequence[str], trial: Trial) -> Row:
        found: dict[str, Cell] = {}
        for feature in features:
            self._show(feature)
            found[feature] = await self._cell(feature, trial)
        return found

    async def _cell(self, feature: str, trial: Trial) -> Cell:
        try:
            return Cell("right", await CELLS[feature](trial), dtype=trial.dtype)
        except REFUSED as error:
            return Cell("refused", said=f"{feature}: {self._plain(error)}", dtype=trial.dtype)
        except (WrongError, ProofFailedError) as error:
            return Cell("wrong", said=f"{self._family}, {self._plain(error)}", dtype=trial.dtype)
        except EngineDiedError as error:
            return Cell("died", said=f"{self._family}, {feature}: {self._plain(error)}", dtype=trial.dtype)
        except Exception as error:  # noqa: BLE001 - a cell whose error has no name is a finding, and the next cells run
            said = f"{self._family}, {feature}: {type(error).__name__}: {self._plain(error)}"
            return Cell("died", said=said, dtype=trial.dtype)

    def _plain(self, error: Exception) -> str:
        """Its text on one line, with the model's folder by another name, so that families share their notes."""
        text = " ".join(str(error).split()).replace(str(self._folder), "...").replace("|", "\\|")
        return text if len(text) <= 400 else f"{text[:400]}..."


def _is_mixture(model: Any) -> bool:
    """Whether tokens go to experts: rounding sends one to another where two were nearly as likely, which no tolerance
    of float32 allows, and a GPU multiplies float32 with fewer digits.
    """
    return any("experts" in name for name, _ in model.named_modules())


@asynccontextmanager
async def _running(settings: WorkerSettings) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(settings)
    try:
        await engine.start()
        yield engine
    finally:
        await end(engine)


def _settings(model: Path, dtype: str, *, lora: bool) -> WorkerSettings:
    small: dict[str, Any] = {"kv_cache_bytes": 64 * 2**20, "max_num_seqs": 16, "max_model_len": 400}
    return WorkerSettings(policy="families", model=model, dtype=dtype, lora=lora, **small)
