"""A data set that can be prepared: what it is, what it makes, and the function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.prepare.case import Case, Findings, Question

# (folder as downloaded, settings by name, where to note what is met) -> the cases, in an order that is always the same.
# Reads names, tables and lists, never voxels.
Reader = Callable[[Path, Mapping[str, str], Findings], list[Case]]
# (case, seed) -> the questions whose truth is measured in the case's voxels; InputError where they cannot be read.
# A function of a module, which other processes can call.
Asker = Callable[[Case, int], list[Question]]


@dataclass(frozen=True)
class Setting:
    """Something about a data set that nobody has pinned: its default, and what it decides.

    warn: what to say where the default is taken; empty says nothing.
    """

    default: str
    meaning: str
    warn: str = ""


@dataclass(frozen=True)
class Measured:
    """Questions that a data set asks in its own words about what can be measured in its voxels.

    name: of the manifests, instruction/<name>_{train,val,test}.json.
    """

    name: str
    ask: Asker


@dataclass(frozen=True)
class DataSet:
    """One data set.

    name: on the command line.  title: in tables.
    pretraining, instruction, benchmarks: names of the tasks of both stages and of the benchmarks that it makes.
    size, licence, address: for a person who wants to download it.
    marks: glob patterns that all match something in a folder which is this data set as downloaded; so `all` finds it.
    patients: data sets of one pool share patients, whose names are then the same; empty for a pool of its own.
    settings: by name, given as --set NAME=VALUE.
    measured: the questions that it measures in voxels; None for no such.
    """

    name: str
    title: str
    read: Reader
    marks: tuple[str, ...]
    pretraining: tuple[str, ...] = ()
    instruction: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    size: str = ""
    licence: str = ""
    address: str = ""
    patients: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    measured: Measured | None = None

    @property
    def pool(self) -> str:
        """What names of patients are unique in."""
        return self.patients or self.name

    def setting(self, given: Mapping[str, str], name: str, findings: Findings) -> str:
        """A setting's value; where its default is taken, its warning is noted."""
        if name in given:
            return given[name]
        setting = self.settings[name]
        if setting.warn and setting.warn not in findings.warnings:
            findings.warnings.append(setting.warn)
        return setting.default
