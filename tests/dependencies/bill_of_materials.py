"""A bill of materials (SBOM) of the installed packages that requirements.txt asks for, as CycloneDX 1.6 in JSON.

    python -m tests.dependencies.bill_of_materials sbom.json

It says what is installed where it runs, by the packages' own metadata; the same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datasets.errors import InputError, OneLineError
from datasets.whole_files import write_whole_text
from tests.dependencies.lock import REPOSITORY, read_requirements

_LICENCE = "License :: "
_LONGEST = 100  # letters of a licence's name; some packages have its whole text there


def installed_packages(requirements: Iterable[Requirement]) -> dict[str, tuple[metadata.Distribution, set[str]]]:
    """Name -> a package and the names of those that it needs, for all that the requirements lead to.

    Raises InputError for one that is not installed.
    """
    found: dict[str, tuple[metadata.Distribution, set[str]]] = {}
    asked: dict[str, set[str]] = {}  # the extras that were followed
    waiting = list(requirements)
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in asked and wanted.extras <= asked[name]:
            continue
        asked[name] = asked.get(name, set()) | wanted.extras
        try:
            package = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError as error:
            raise InputError(f"{wanted.name}: is not installed; run source setup_env.sh first") from error
        needed = [need for need in map(Requirement, package.requires or ()) if _applies(need, asked[name])]
        found[name] = (package, {canonicalize_name(need.name) for need in needed})
        waiting += needed
    return found


def bill_of_materials(requirements: Sequence[Requirement]) -> dict[str, Any]:
    """The document, with a component for each package and who needs whom; raises InputError as `installed_packages`."""
    packages = dict(sorted(installed_packages(requirements).items()))
    places = {name: f"pkg:pypi/{name}@{package.version}" for name, (package, _) in packages.items()}
    components = [_component(name, package, places[name]) for name, (package, _) in packages.items()]
    own: set[str] = {canonicalize_name(wanted.name) for wanted in requirements}
    needs = {"ctinstruct": own, **{places[name]: needed for name, (_, needed) in packages.items()}}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "ctinstruct", "name": "ctinstruct"}},
        "components": components,
        "dependencies": [
            {"ref": place, "dependsOn": sorted(places[name] for name in needed)} for place, needed in needs.items()
        ],
    }


def _applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _component(name: str, package: metadata.Distribution, place: str) -> dict[str, Any]:
    about = package.metadata
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": place,
        "name": name,
        "version": package.version,
        "purl": place,
    }
    if expression := about.get_all("License-Expression"):
        return {**component, "licenses": [{"expression": expression[0]}]}
    licences = [kind.split(" :: ")[-1] for kind in about.get_all("Classifier") or () if kind.startswith(_LICENCE)]
    texts = about.get_all("License") or ()
    named = licences or [text for text in texts if 0 < len(text) <= _LONGEST and "\n" not in text]
    return {**component, "licenses": [{"license": {"name": text}} for text in named]} if named else component


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.dependencies.bill_of_materials", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("output", type=Path, help="file to write")
    output = parser.parse_args(arguments).output
    try:
        bill = bill_of_materials(read_requirements(REPOSITORY / "requirements.txt"))
        write_whole_text(output, json.dumps(bill, indent=1) + "\n")
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(bill['components'])} packages in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
