"""Whether the model that a worker boots with is the one that its operator means: `--probe`."""

from __future__ import annotations

from pathlib import Path

import structlog

from rollstream.schemas.message_files import PROBE_FILES, MessageFileError
from rollstream.schemas.wire.proofs.probe import MIN_SCORED, UNPROVABLE, Probe

from ..engine import Engine
from ..errors import ProofFailedError, SettingsError, UnprovableError
from ..versions.announced import BOOTED
from ..versions.proof import check_fits, proof_by_each
from ..versions.proofs import Proofs

log = structlog.get_logger()


def read_probe(path: Path) -> Probe:
    """The probe in this file. Raises `SettingsError`."""
    try:
        probe = PROBE_FILES.read(path)
    except MessageFileError as error:
        raise SettingsError(f"--probe: {error}") from None
    if not probe.is_enough:
        problem = f"{path} compares {probe.logprobs.shape[0]} log-probs, and at least {MIN_SCORED} prove anything"
        raise SettingsError(f"--probe: {problem}: make one of more tokens")
    return probe


async def prove_boot_weights(probe: Probe | None, engine: Engine, proofs: Proofs) -> None:
    """Let the boot model sample, if it reproduces its probe or has none. Raises `SettingsError`."""
    proof = None
    if probe is not None:
        try:
            check_fits(probe, BOOTED.version, engine.info)
            proof = await proof_by_each(probe, BOOTED.version, engine)
        except UnprovableError as error:
            raise SettingsError(f"--probe: the boot model {UNPROVABLE}: {error.problem}") from None
        except ProofFailedError as error:
            problem = "these are other weights, or this engine computes other numbers with them"
            raise SettingsError(f"--probe: the boot model does not reproduce it: {error.problem}: {problem}") from None
        log.info("boot weights proven", proof=str(proof))
    proofs.allow(BOOTED.version, proof)
