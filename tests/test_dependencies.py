"""The lock file fits the ranges of requirements.txt, and a misfit is named; the bill of materials is whole."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from datasets.errors import InputError
from tests.dependencies import audit
from tests.dependencies.bill_of_materials import bill_of_materials, installed_packages, main
from tests.dependencies.lock import REPOSITORY, disagreements, read_lock, read_requirements

HASH = "--hash=sha256:" + "0" * 64


def test_the_lock_has_a_version_in_the_range_of_each_requirement() -> None:
    assert disagreements(REPOSITORY / "requirements.txt", REPOSITORY / "requirements.lock") == []
    lock = read_lock(REPOSITORY / "requirements.lock")
    wanted = [need.name.lower().replace("_", "-") for need in read_requirements(REPOSITORY / "requirements.txt")]
    assert lock.versions.keys() > set(wanted) and len(wanted) > 30
    assert min(lock.hashes.values()) >= 1


def test_the_lock_names_no_place_to_fetch_from() -> None:
    """Where packages come from is a matter of whoever installs them."""
    text = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in text and "index" not in re.sub(r"[0-9a-f]{64}", "", text)


@pytest.mark.parametrize(
    ("lock", "fault"),
    [
        (f"a==1.5 \\\n    {HASH} \\\n    {HASH}\n", None),
        (f"A==1.5 ; python_version >= '3.11' \\\n    {HASH}\n", None),
        (f"# a==1.5 {HASH}\n", "a: is in ranges and not in lock"),
        (f"a==2.0 {HASH}\n", "a: lock has 2.0, ranges takes <2,>=1"),
        ("a==1.5\n", "a: has no hash"),
        (f"a==1.5 {HASH}\nb>=1 {HASH}\n", f"'b>=1 {HASH}': is no pinned version"),
        (f"a==1.5 {HASH}\n--index-url somewhere\n", "'--index-url somewhere': is no pinned version"),
        ("a==1.5 --hash=md5:00\n", "a: has no hash"),
    ],
)
def test_what_is_amiss_is_named(lock: str, fault: str | None, tmp_path: Path) -> None:
    (tmp_path / "ranges").write_text("a>=1,<2  # a comment\n\n# b\n")
    (tmp_path / "lock").write_text(lock)
    assert disagreements(tmp_path / "ranges", tmp_path / "lock") == ([fault] if fault else [])


def test_a_line_that_is_no_requirement_is_named(tmp_path: Path) -> None:
    (tmp_path / "ranges").write_text("a>=1\nb>>1\n")
    with pytest.raises(ValueError, match="b>>1"):
        read_requirements(tmp_path / "ranges")


def test_the_bill_has_every_package_and_what_it_needs() -> None:
    bill = bill_of_materials([Requirement("pytest>=8"), Requirement("numpy")])
    components = {component["name"]: component for component in bill["components"]}
    assert {"pytest", "pluggy", "iniconfig", "packaging", "numpy"} <= components.keys()  # pytest's own, and its needs
    assert components["pluggy"]["version"] == metadata.version("pluggy")
    assert components["pluggy"]["purl"] == f"pkg:pypi/pluggy@{metadata.version('pluggy')}"
    needs = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    assert needs["ctinstruct"] == [components["numpy"]["purl"], components["pytest"]["purl"]]
    assert components["pluggy"]["purl"] in needs[components["pytest"]["purl"]]
    assert needs.keys() == {"ctinstruct", *(component["bom-ref"] for component in bill["components"])}
    assert all(set(needed) <= needs.keys() for needed in needs.values())


def test_extras_are_followed() -> None:
    plain = installed_packages([Requirement("uvicorn")])
    assert "h11" in plain and "websockets" not in plain
    with pytest.raises(InputError, match="is not installed"):
        installed_packages([Requirement("uvicorn[no-such-extra]"), Requirement("no-such-package-of-ours")])


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "new" / "sbom.json")]) == 0
    bill = json.loads((tmp_path / "new" / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    named = {component["name"] for component in bill["components"]}
    assert {"torch", "transformers", "nibabel"} <= named
    assert capsys.readouterr().out.startswith(f"{len(named)} packages in ")


def test_what_an_audit_found_is_told_and_what_it_did_not_look_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"id": "PYSEC-1", "fix_versions": ["1.6", "2.0"], "aliases": [], "description": ""}
    clean = {"name": "a", "version": "1.5", "vulns": []}
    skipped = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"dependencies": [clean, {"name": "b", "version": "1.5", "vulns": [known]}, skipped]}))
    assert audit.main([str(report)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "b 1.5: PYSEC-1, mended in 1.6, 2.0",
        "2 of 3 packages looked up, 1 vulnerabilities known; not in the database that was asked: c",
    ]
    assert audit.summary({"dependencies": [clean]}) == (["1 of 1 packages looked up, 0 vulnerabilities known"], 0)
    report.write_text("")
    assert audit.main([str(report)]) == 2
    assert capsys.readouterr().err.startswith("error: pip-audit gave no report")
