"""Whether requirements.lock has a version, with hashes, for each line of requirements.txt; nothing is fetched.

python -m tests.dependencies.lock
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))?(?P<hashes>( --hash=\S+)*)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Lock:
    """Of each package, by its canonical name, its version and how many hashes it has; and what is no pin, as read."""

    versions: dict[str, Version]
    hashes: dict[str, int]
    others: list[str]


def read_requirements(path: Path) -> list[Requirement]:
    """The lines of a file of ranges, comments left out; raises ValueError for a line that is no requirement."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in path.read_text(encoding="utf-8").splitlines()]
    try:
        return [Requirement(line) for line in lines if line]
    except InvalidRequirement as error:
        raise ValueError(f"{path}: {error}") from error


def read_lock(path: Path) -> Lock:
    """The pins of a lock file as pip reads it: a line each, continued by a backslash."""
    lock = Lock({}, {}, [])
    for line in re.sub(r"\s*\\\n\s*", " ", path.read_text(encoding="utf-8")).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        found = _PIN.fullmatch(line)
        if found is None:
            lock.others.extend([line] if line else [])
            continue
        name = canonicalize_name(found["name"])
        lock.versions[name] = Version(found["version"])
        lock.hashes[name] = len(_HASH.findall(found["hashes"]))
    return lock


def disagreements(requirements: Path, lock_file: Path) -> list[str]:
    """One line for each thing that is amiss; empty where the lock will do for the ranges."""
    lock, faults = read_lock(lock_file), []
    for wanted in read_requirements(requirements):
        version = lock.versions.get(canonicalize_name(wanted.name))
        if version is None:
            faults.append(f"{wanted.name}: is in {requirements.name} and not in {lock_file.name}")
        elif not wanted.specifier.contains(version, prereleases=True):
            faults.append(
                f"{wanted.name}: {lock_file.name} has {version}, {requirements.name} takes {wanted.specifier}"
            )
    faults += [f"{name}: has no hash" for name, count in lock.hashes.items() if not count]
    faults += [f"{line!r}: is no pinned version" for line in lock.others]
    return faults


def main() -> int:
    """The exit status: 1 where the two disagree."""
    faults = disagreements(REPOSITORY / "requirements.txt", REPOSITORY / "requirements.lock")
    for fault in faults:
        print(f"{fault}; run .ci/lock", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
