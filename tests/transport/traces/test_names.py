"""The page on traces names every span, attribute and outcome, and nothing imports OpenTelemetry to know them."""

from __future__ import annotations

import pytest

from rollstream.transport.traces.names import Attribute, Convention, Outcome, SpanName
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "tracing.md").read_text()


@pytest.mark.parametrize("name", [*SpanName, *Attribute, *Convention, *Outcome])
def test_the_page_has_every_name(name: str) -> None:
    assert f"`{name}`" in PAGE
