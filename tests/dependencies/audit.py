"""What pip-audit found about the locked packages, in a few lines: python -m tests.dependencies.audit REPORT.json"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def summary(report: dict[str, Any]) -> tuple[list[str], int]:
    """Lines for people, and the exit status: 1 where a vulnerability is known.

    report: of `pip-audit --format json`.  A package that the database does not have is counted apart: of it nothing is
    known, good or bad.
    """
    packages = report["dependencies"]
    looked_up = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in looked_up
        for found in package["vulns"]
    ]
    counted = f"{len(looked_up)} of {len(packages)} packages looked up, {len(lines)} vulnerabilities known"
    missing = [package["name"] for package in packages if "skip_reason" in package]
    if missing:
        counted += f"; not in the database that was asked: {', '.join(missing[:5])}{' ...' if missing[5:] else ''}"
    return [*lines, counted], 1 if lines else 0


def main(arguments: Sequence[str]) -> int:
    """Command line; the exit status."""
    try:
        report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    except ValueError:
        print("error: pip-audit gave no report; what it said stands above", file=sys.stderr)
        return 2
    lines, status = summary(report)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
