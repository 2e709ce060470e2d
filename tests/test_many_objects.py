"""While records are made Python does not look for cycles; afterwards all is as it was."""

from __future__ import annotations

import gc

import pytest

from datasets import manifest
from datasets.many_objects import no_search_for_cycles


@pytest.mark.parametrize("enabled", [True, False])
def test_afterwards_it_is_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with no_search_for_cycles(), no_search_for_cycles():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ZeroDivisionError), no_search_for_cycles():
            1 / 0  # noqa: B018
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_manifest_is_read_so(tmp_path, monkeypatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[]")
    seen = []
    monkeypatch.setattr(manifest, "read_rows", lambda path: seen.append(gc.isenabled()) or [])
    assert manifest.read_manifest(path) == ({}, []) and seen == [False] and gc.isenabled()
