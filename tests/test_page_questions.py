"""Questions through the page: events, masks on the file's grid, the queue, clients that leave, encodings shared."""

from __future__ import annotations

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from models.answering.streaming import TextCallback
from serving.limits import Limits
from tests.page import IMAGE, LABELS, ask, client, masks_of_truth, opened, page, tiny_answering_model, truth
from tests.test_asking import counting, saying
from tests.tiny_model import ANSWERS

TWO = "The heart is <SEG> and the aorta is <SEG>."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    with page(model, tmp_path_factory.mktemp("root"), limits=replace(Limits(), waiting=3, waiting_each=2)) as found:
        yield found


@pytest.fixture
def user(address):
    with client(address) as found:
        yield found
        found.delete("/api/session")


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["event"] == kind]


def voxels(content: bytes) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


def test_words_come_as_they_are_found_and_masks_lie_on_the_structures(model, user):
    volume = opened(user)
    with saying(model, TWO), masks_of_truth(model):
        events = ask(user, volume, "Where are the heart and the aorta?")
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["queued", "started", "end"]
    assert "".join(event["text"] for event in of(events, "text")).strip() == TWO
    assert len(of(events, "text")) > 3
    [answer] = of(events, "answer")
    assert answer["answer"] == TWO and answer["masks"] == [mask["id"] for mask in of(events, "mask")]
    for mask, name in zip(of(events, "mask"), ("heart", "aorta"), strict=True):
        assert mask["name"] == name and truth(name)[tuple(mask["centre"])]
        given = voxels(user.get(f"/api/volumes/{volume}/masks/{mask['id']}.nii.gz").content)
        assert given.shape == nib.load(IMAGE).shape
        overlap = 2 * (given & truth(name)).sum() / (given.sum() + truth(name).sum())
        assert overlap > 0.7  # as far as the tiny model's grid holds a thin aorta


def test_confidences_are_told_by_disease(model, user):
    with saying(model, ANSWERS["diagnosis"]):
        [answer] = of(ask(user, opened(user), "", kind="diagnosis"), "answer")
    assert len(answer["confidences"]) == 18 and all(0 < share < 1 for share in answer["confidences"].values())


def test_all_organs_come_one_by_one(model, user):
    volume = opened(user)
    events = ask(user, volume, "", kind="organs")
    assert [mask["name"] for mask in of(events, "mask")] == LABELS
    again = ask(user, volume, "", kind="organs", labels=["heart", "<b>"])
    assert [mask["name"] for mask in of(again, "mask")] == ["heart", "<b>"]
    held = user.post("/api/session").json()["volumes"][0]
    assert sorted(mask["name"] for mask in held["masks"]) == sorted([*LABELS, "<b>"])  # the newest of each name
    gone = of(events, "mask")[0]["id"]
    assert user.get(f"/api/volumes/{volume}/masks/{gone}.nii.gz").status_code == 422


def test_a_page_that_is_loaded_again_finds_everything(model, user):
    volume = opened(user)
    with saying(model, "It is <SEG>."):
        ask(user, volume, "Where is the heart?")
    [held] = user.post("/api/session").json()["volumes"]
    assert held["id"] == volume and held["asked"][0]["question"] == "Where is the heart?"
    assert held["asked"][0]["masks"] == [held["masks"][0]["id"]] and held["masks"][0]["name"] == "heart"


def test_a_volume_is_encoded_once_for_all_questions_and_users(model, address):
    with counting(model) as counts, client(address) as one, client(address) as other:
        for user in (one, other):
            volume = opened(user, "shared.nii.gz")
            ask(user, volume, "What?")
            ask(user, volume, "", kind="organs", labels=["heart"])
        assert counts["volumes"] == 1
        one.delete("/api/session")
        ask(other, volume, "And now?", kind="organs", labels=["liver"])
        assert counts["volumes"] == 1


def test_earlier_questions_stand_before_one_that_asks_for_it(model, user):
    volume = opened(user)
    with saying(model, "On the left side.") as prompts:
        for remember in (False, False, True):
            ask(user, volume, "What changed?", remember=remember)
    first, second, third = [prompt.shape[1] for prompt in prompts]
    assert first == second < third


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"question": "  "}, "empty"),
        ({"question": "x" * 5000}, "4000"),
        ({"kind": "treatment"}, "kind"),
        ({"kind": "organs", "labels": [" "]}, "no letters"),
        ({"question": "x", "label_set": "../x"}, "label_set"),
    ],
)
def test_what_cannot_be_asked(user, body, words):
    refused = user.post(f"/api/volumes/{opened(user)}/questions", json=body)
    assert refused.status_code == 422 and words in refused.json()["detail"] and "\n" not in refused.json()["detail"]


def test_a_question_that_the_model_refuses_is_one_event(user):
    events = ask(user, opened(user), "<|image_pad|>")
    assert "marks a volume" in of(events, "error")[0]["message"] and events[-1]["event"] == "end"


def test_a_failure_within_the_model_is_told_without_its_traceback(model, user, monkeypatch, caplog):
    volume = opened(user)
    monkeypatch.setattr(model, "study", lambda path: 1 / 0)
    monkeypatch.setattr("serving.answerer.Answerer._study", lambda self, file: model.study(file))
    events = ask(user, volume, "What?")
    assert of(events, "error")[0]["message"].startswith("the model could not answer")
    assert "ZeroDivisionError" in caplog.text


class Gate:
    """Holds every answer at its second word until it is opened; counts the words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.words, self.entered = threading.Event(), 0, threading.Event()
        original = TextCallback.on_finalized_text

        def held(callback, text, stream_end=False):
            self.words += bool(text)
            self.entered.set()
            if self.words > 1:
                self.opened.wait(20)
            original(callback, text, stream_end)

        monkeypatch.setattr(TextCallback, "on_finalized_text", held)


def test_those_who_wait_are_told_their_place(model, address, monkeypatch):
    gate = Gate(monkeypatch)
    with saying(model, TWO), ThreadPoolExecutor(3) as pool:
        started = []
        for _ in range(3):
            started.append(pool.submit(_asked_by_another, address))
            time.sleep(1.0)  # one after the other, on a busy machine too
        gate.entered.wait(20)
        time.sleep(1.0)
        gate.opened.set()
        places = [[event["before"] for event in of(each.result(), "queued")] for each in started]
    assert places == [[0], [1], [2, 1]]  # the third moved up


def _asked_by_another(address: str) -> list[dict]:
    with client(address) as user:
        return ask(user, opened(user), "What changed?")


def test_a_client_that_leaves_stops_its_answer(model, user, monkeypatch):
    volume = opened(user)
    gate = Gate(monkeypatch)
    with saying(model, "On the left side. " * 30) as prompts:
        with user.stream("POST", f"/api/volumes/{volume}/questions", json={"question": "What?"}) as answer:
            for line in answer.iter_lines():
                if '"text"' in line:
                    break
        time.sleep(0.5)  # the server notices that the connection is gone
        gate.opened.set()
        events = ask(user, volume, "What changed?")
    assert of(events, "answer") and len(prompts) == 2
    assert gate.words < 1.5 * len(of(events, "text"))  # two whole answers would be twice as many
    [held] = user.post("/api/session").json()["volumes"]
    assert [asked["question"] for asked in held["asked"]] == ["What changed?"]


def test_the_queue_has_an_end(model, user, monkeypatch):
    volume = opened(user)
    gate = Gate(monkeypatch)
    with saying(model, TWO), ThreadPoolExecutor(3) as pool:
        running = pool.submit(ask, user, volume, "What?")
        gate.entered.wait(20)
        waiting = [pool.submit(ask, user, volume, "What?") for _ in range(2)]
        time.sleep(1.5)
        refused = user.post(f"/api/volumes/{volume}/questions", json={"question": "What?"})
        assert refused.status_code == 429 and "your questions wait" in refused.json()["detail"]
        gate.opened.set()
        assert all(of(each.result(), "answer") for each in (running, *waiting))
