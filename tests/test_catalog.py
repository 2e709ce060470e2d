"""The configured tasks against the published list, and a description for each of their labels."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from datasets.catalog import available_tasks, load_records, phantom_tasks, published_tasks, select_tasks
from datasets.errors import InputError
from datasets.label_descriptions import canonical, describe, descriptions, has_side
from datasets.mixture import published_weights
from datasets.prepare.sets import open_kbp
from datasets.vocabulary import diagnosis_facts

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_facts.json").read_text(encoding="utf-8"))


def every_label() -> list[str]:
    tasks = [*published_tasks(), *phantom_tasks("phantoms")]
    return list(dict.fromkeys([*(label for task in tasks for label in task.labels), *open_kbp.ORGANS.values()]))


def test_all_published_tasks_are_there_as_published():
    """Against a copy of the facts of its own, so that a slip in data/ or in its reading is seen."""
    tasks, facts = published_tasks("somewhere"), PUBLISHED["pretraining_tasks"]
    assert [task.name for task in tasks] == [fact["name"] for fact in facts]
    for task, fact in zip(tasks, facts, strict=True):
        assert (task.kind, task.weight, task.is_2d) == (fact["kind"], fact["weight"], fact["is_2d"]), task.name
        assert task.loss == (fact["loss"] if task.kind == "classification" else None), task.name
        assert len(task.labels) == fact["labels"], task.name
        assert sha256("\n".join(task.labels).encode()).hexdigest() == fact["labels_sha256"], task.name
        assert task.path("val") == Path(f"somewhere/{task.name}_val.json")


def test_the_published_tasks_in_numbers():
    tasks = published_tasks()
    assert len({task.name for task in tasks}) == len(tasks) == 39
    assert Counter(task.kind for task in tasks) == {"image_text": 3, "classification": 6, "segmentation": 30}
    assert sum(task.weight for task in tasks) == 64
    assert Counter(task.loss for task in tasks) == {"CE": 4, "BCE": 2, None: 33}
    assert sum(len(task.labels) for task in tasks) == 417
    assert len({label for task in tasks for label in task.labels}) == 298
    assert sum(task.is_2d for task in tasks) == 3 and all(task.loss == "CE" for task in tasks if task.is_2d)


def test_the_published_heads_and_mix_are_there_as_published():
    heads = {name: [list(pair) for pair in pairs] for name, pairs in diagnosis_facts().items()}
    assert heads == PUBLISHED["diagnosis_heads"] and list(heads) == ["RadChestCT", "CT-RATE"]
    assert {name: len(pairs) for name, pairs in heads.items()} == {"RadChestCT": 16, "CT-RATE": 18}
    assert published_weights() == PUBLISHED["instruction_mix"] and len(published_weights()) == 8
    assert published_weights()["CTRATE_Question_Answer"] == 1.0


def test_which_tasks_know_left_from_right():
    tasks = {task.name: task for task in published_tasks()}
    assert tasks["CTRATE_image_text"].sided and tasks["BTCV_structure_segmentation"].sided
    assert tasks["FLARE22_structure_segmentation"].sided and tasks["WORD_structure_segmentation"].sided
    assert not tasks["AbdomenCT1K_structure_segmentation"].sided
    assert not tasks["RadGenome_disease_classification"].sided
    assert has_side("head of left femur") and has_side("Right_lung") and not has_side("bright spot")


def test_missing_manifests_are_all_named_at_once_or_left_out(tmp_path):
    tasks = published_tasks(tmp_path)
    path = tasks[7].path()
    path.write_text("[]")
    with pytest.raises(InputError, match=r"38 of 39 tasks have no manifest.*--skip_missing_tasks") as error:
        available_tasks(tasks)
    for task in tasks:
        assert (f"{task.name} ({task.path()})" in str(error.value)) == (task is not tasks[7])
    found, missing = available_tasks(tasks, skip_missing=True)
    assert found == [tasks[7]] and missing == tasks[:7] + tasks[8:]
    path.unlink()
    with pytest.raises(InputError, match="39 of 39 tasks have no manifest; write at least one"):
        available_tasks(tasks, skip_missing=True)


def test_records_are_found_in_a_folder_with_braces_in_its_name(tmp_path):
    folder = tmp_path / "{odd}"
    folder.mkdir()
    task = published_tasks(folder)[6]
    (folder / "ct.npy").touch()
    task.path("val").write_text(json.dumps([{"image_path": "ct.npy", "report": "Clear."}]))
    assert [record.report for record in load_records([task], "val")[task.name]] == ["Clear."]


def test_tasks_are_chosen_by_kind_and_weight():
    tasks = phantom_tasks("phantoms", weights={"segmentation": 2})
    assert {task.name.removeprefix("phantom_"): task.weight for task in tasks} == {
        **{"image_text": 1, "classification": 1, "detail_classification": 0},
        **{"segmentation": 2, "lesion_segmentation": 0},
    }
    kinds = [task.kind for task in select_tasks(tasks, ["segmentation", "image_text"])]
    assert kinds == ["image_text", "segmentation"]
    given = {"phantom_image_text": 0, "phantom_segmentation": 0.5, "phantom_lesion_segmentation": 3}
    chosen = select_tasks(tasks, weights=[f"{name}={weight}" for name, weight in given.items()])
    assert {task.name: task.weight for task in chosen} == {
        "phantom_classification": 1,
        "phantom_segmentation": 0.5,
        "phantom_lesion_segmentation": 3,
    }
    assert all(task.weight > 0 for task in select_tasks(published_tasks(), ["classification"]))


@pytest.mark.parametrize(
    ("kinds", "weights", "complaint"),
    [
        (["poetry"], [], "'poetry' is not a kind"),
        (["image_text"], ["phantom_image_text=0"], "no pretraining task of kind image_text"),
        (["image_text"], ["nothing=1"], "'nothing' is not one of the tasks phantom_image_text"),
        (["image_text"], ["phantom_image_text=much"], "'much' is not a number"),
        (["image_text"], ["phantom_image_text=-1"], "'-1' is not a number of 0 or more"),
    ],
)
def test_a_bad_choice_is_refused(kinds, weights, complaint):
    with pytest.raises(InputError, match=complaint):
        select_tasks(phantom_tasks("phantoms"), kinds, weights)


def test_every_label_has_a_description_of_its_own():
    labels = {canonical(label) for label in every_label()}
    texts = [describe(label) for label in labels]
    assert all(len(text.split()) >= 8 and text == text.strip() and text.endswith(".") for text in texts)
    assert len({text.casefold() for text in texts}) == len(labels)
    assert set(descriptions()) == labels  # and none is left over


def test_a_description_names_the_side_of_its_label_first():
    sides = {"left", "right"}
    for label in every_label():
        side = sides & set(canonical(label).split())
        if side:
            words = describe(label).lower().replace(",", "").split()
            assert next(word for word in words if word in sides) in side, label


def test_a_numbered_bone_is_described_by_its_own_number():
    for label in every_label():
        text = describe(label)
        if "(" in label:  # "thoracic vertebrae 4 (t4)"
            assert text.startswith(label.partition("(")[2].rstrip(")").upper()), label
        if label.split()[-2:-1] == ["rib"] and label[-1].isdigit():
            assert f"attached to T{label.split()[-1]} " in text, label


def test_spellings_of_one_label_share_its_description():
    assert describe("Right Adrenal Gland") == describe("right_adrenal gland")
    with pytest.raises(InputError, match="no description of the label 'third eye'; add it"):
        describe("third eye")
