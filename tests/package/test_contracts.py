"""Every contract of import-linter is red when what it forbids is put in, and so no contract is only words."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract
from importlinter.domain.contract import Contract

from tests.support.worker_process import ROOT

KINDS: dict[str, type[Contract]] = {
    "acyclic_siblings": AcyclicSiblingsContract,
    "forbidden": ForbiddenContract,
    "layers": LayersContract,
}
SETTINGS: dict[str, Any] = read_configuration(str(ROOT / "pyproject.toml"))
CONTRACTS: dict[str, dict[str, Any]] = {one["id"]: one for one in SETTINGS["contracts_options"]}

FORBIDDEN = {
    "packages": ("rollstream.producer.errors", "rollstream.worker.config"),
    "schemas-rooms": ("rollstream.schemas.errors", "rollstream.schemas.times"),
    "worker-rooms": ("rollstream.worker.exit_codes", "rollstream.worker.weights.checkpoint"),
    "producer-rooms": ("rollstream.producer.progress", "rollstream.producer.calls.patience"),
    "engines": ("rollstream.worker.engines.stub", "rollstream.worker.jobs.seeds"),
    "vllm": ("rollstream.worker.jobs.seeds", "vllm"),
    "traces": ("rollstream.worker.jobs.seeds", "opentelemetry"),
    "circles": ("rollstream.schemas.wire.fields", "rollstream.schemas.wire.messages"),
}
"""For each contract an import that only it forbids: the importing module, and the imported one."""

STEPS = [
    (id, container, lower, upper)
    for id, contract in CONTRACTS.items()
    if contract["type"] == "layers"
    for container in contract["containers"]
    for uppers, lowers in itertools.pairwise(contract["layers"])
    for upper, lower in itertools.product(uppers.split(" | "), lowers.split(" | "))
]
"""Every room, and every room of the layer above it."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Which module of the tree imports which."""
    packages = SETTINGS["session_options"]["root_packages"]
    return grimp.build_graph(packages[0], *packages[1:], include_external_packages=True, cache_dir=None)


def red(imports: grimp.ImportGraph, ids: set[str]) -> set[str]:
    """The contracts, of those asked for, that these imports break."""
    return {id for id in ids if not _contract(id).check(copy.deepcopy(imports), verbose=False).kept}


def _contract(id: str) -> Contract:
    options = CONTRACTS[id]
    return KINDS[options["type"]](options["name"], SETTINGS["session_options"], options)


def with_import(imports: grimp.ImportGraph, importer: str, imported: str) -> grimp.ImportGraph:
    changed = copy.deepcopy(imports)
    assert importer in changed.modules, f"{importer} is no module: name another in FORBIDDEN"
    assert imported in changed.modules, f"{imported} is no module: name another in FORBIDDEN"
    changed.add_import(importer=importer, imported=imported)
    return changed


def test_every_contract_has_an_import_that_breaks_it() -> None:
    assert FORBIDDEN.keys() == CONTRACTS.keys()


def test_no_contract_is_red_as_the_tree_is(imports: grimp.ImportGraph) -> None:
    assert red(imports, set(CONTRACTS)) == set()


@pytest.mark.parametrize("id", FORBIDDEN)
def test_one_forbidden_import_turns_exactly_its_contract_red(imports: grimp.ImportGraph, id: str) -> None:
    assert red(with_import(imports, *FORBIDDEN[id]), set(CONTRACTS)) == {id}


@pytest.mark.parametrize(("id", "container", "lower", "upper"), STEPS, ids=lambda step: str(step).rpartition(".")[2])
def test_a_room_that_imports_the_one_above_it_turns_its_contract_red(
    imports: grimp.ImportGraph, id: str, container: str, lower: str, upper: str
) -> None:
    assert red(with_import(imports, f"{container}.{lower}", f"{container}.{upper}"), {id}) == {id}
