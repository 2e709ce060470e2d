"""The data sets that can be prepared, all together: every published task is made by one."""

from __future__ import annotations

from collections import Counter

from datasets.catalog import published_tasks
from datasets.label_descriptions import canonical
from datasets.mixture import published_weights
from datasets.prepare.coverage import UNKNOWN_FACTS, coverage
from datasets.prepare.registry import data_sets
from datasets.prepare.uses import BENCHMARKS as ASKED
from datasets.prepare.uses import pretraining_task, question_task
from evaluation.answering.benchmarks import BENCHMARKS


def test_every_task_and_benchmark_is_made():
    covered = coverage(data_sets().values())
    assert Counter(task.stage for task in covered) == {"pretraining": 39, "tuning": 8, "benchmark": 8}
    assert [task.task for task in covered if not task.data_sets] == []


def test_data_sets_make_nothing_else_by_mistake():
    published = {task.name for task in published_tasks()}
    for data_set in data_sets().values():
        assert set(data_set.benchmarks) <= {benchmark.name for benchmark in BENCHMARKS}
        for name in data_set.pretraining:
            assert name in published or not pretraining_task(name).labels
        for name in data_set.instruction:
            assert question_task(name).name == name
        if data_set.name == "own":
            continue  # what a person has is called anything and lies anywhere
        assert data_set.marks and data_set.size and data_set.licence and data_set.address.startswith("http"), (
            data_set.name
        )


def test_names_are_unique_and_fit_the_command_line():
    names = list(data_sets())
    assert all(name == name.lower() and name.replace("_", "").isalnum() for name in names)
    assert not set(names) & {"list", "check", "all"}


def test_benchmarks_are_those_of_evaluation():
    kinds = {
        "diagnosis": {"diagnosis"},
        "segmentation": {"segmentation"},
        "report": {"report_generation"},
        "questions": {"open_vqa", "yes_no", "multiple_choice", "report_generation"},
        "open_questions": {"open_vqa"},
    }
    assert list(ASKED) == [benchmark.name for benchmark in BENCHMARKS]
    for benchmark in BENCHMARKS:
        asked = ASKED[benchmark.name]
        assert kinds[asked.kind] == set(benchmark.tasks)
        assert asked.label_set == benchmark.label_set
        if benchmark.structures:
            assert set(asked.structures) == set(benchmark.structures)
        tuned = question_task(benchmark.release_task)
        assert (tuned.kind.removeprefix("open_"), tuned.label_set) == (
            asked.kind.removeprefix("open_"),
            asked.label_set,
        )
        assert tuned.structures == asked.structures


def test_labels_of_the_segmentation_benchmarks_are_those_of_pretraining():
    labels = {task.name: {canonical(label) for label in task.labels} for task in published_tasks()}
    for benchmark, task in (("AbdomenCT-1K", "AbdomenCT1K"), ("CT-ORG", "CTORG")):
        assert set(ASKED[benchmark].structures) == labels[f"{task}_structure_segmentation"]


def test_unknown_facts_are_of_known_tasks():
    known = {task.name for task in published_tasks()} | set(published_weights()) | set(ASKED)
    assert set(UNKNOWN_FACTS) <= known
