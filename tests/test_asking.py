"""CTInstruct as people use it: files in, words, confidences and named masks out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.vocabulary import diseases_of
from datasets.volume.overlay import mask_colours
from datasets.volume.preprocessing import Preprocessing
from models import CTInstruct
from models.answering import segmenting
from models.answering.mask_labels import mask_names
from models.checkpoints.folder import save_checkpoint
from tests.launch import REPOSITORY
from tests.tiny_model import ANSWERS, with_varied_queries

IMAGE = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"
LABELS = ["liver", "spleen", "left lung"]
TRAINING = {"recipe": "phantom", "labels": LABELS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, but looking at the volume and at its words more than small random weights would."""
    return save_checkpoint(with_varied_queries(), tmp_path_factory.mktemp("model"), training=TRAINING)


@pytest.fixture(scope="module")
def model(folder):
    model = CTInstruct.from_pretrained(folder)
    model.options = model.options.with_changes(num_beams=1, max_new_tokens=12)
    return model


@contextmanager
def saying(model, text: str) -> Iterator[list[torch.Tensor]]:
    """The model says nothing but `text`; yields the embeddings of the prompts that it is given."""
    forced = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
    original, prompts = model.language_model.generate, []

    def generate(**options):
        prompts.append(options["inputs_embeds"])
        options |= {"max_new_tokens": len(forced)}
        return original(**options, prefix_allowed_tokens_fn=lambda _, given: [forced[min(len(given), len(forced) - 1)]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.language_model, "generate", generate)
        yield prompts


@contextmanager
def counting(model) -> Iterator[dict[str, int]]:
    """How often volumes are encoded, the language model is run and masks are decoded."""
    counts = {"volumes": 0, "passes": 0, "decodings": 0}
    encode, decode = model.vision.encode_many, model.vision.decode_masks

    def encode_many(volumes):
        counts["volumes"] += len(volumes)
        return encode(volumes)

    def decode_masks(*arguments):
        counts["decodings"] += 1
        return decode(*arguments)

    def passed(*_):
        counts["passes"] += 1

    hook = model.language_model.register_forward_hook(passed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.vision, "encode_many", encode_many)
        patch.setattr(model.vision, "decode_masks", decode_masks)
        yield counts
    hook.remove()


def test_masks_are_named_and_lie_on_the_file(model, tmp_path):
    with saying(model, ANSWERS["two_structures"]):
        answer = model.ask(str(IMAGE), "Where are the liver and the spleen?")
    assert str(answer) == answer.text == ANSWERS["two_structures"] and not answer.confidences
    assert list(answer.masks) == ["liver", "spleen"]
    source, mask = nib.load(IMAGE), answer.masks["spleen"]
    written = nib.load(mask.save(tmp_path / "spleen.nii.gz"))
    assert written.shape == source.shape and np.allclose(written.affine, source.affine)
    assert np.array_equal(np.asarray(written.dataobj), mask.array)
    voxel = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    assert mask.millilitres == pytest.approx(mask.array.sum() * voxel, rel=1e-3)
    with pytest.raises(InputError, match=r"spleen\.png: masks are written as"):
        mask.save(tmp_path / "spleen.png")


def test_an_overlay_shows_each_mask_in_its_colour(model):
    with saying(model, ANSWERS["two_structures"]):
        answer = model.ask(IMAGE, "Where are the liver and the spleen?")
    half = {"left": slice(0, 40), "right": slice(-40, None)}
    for mask, part in zip(answer.masks.values(), half.values(), strict=True):
        mask.voxels[:] = 0
        mask.voxels[part] = 1
    picture = np.asarray(answer.overlay()).astype(int)
    for colour in mask_colours(2):
        assert (np.abs(picture - 255 * np.array(colour)).max(-1) < 40).sum() > 100


def test_many_labels_are_those_of_single_questions_in_one_pass(model):
    with counting(model) as counts:
        together = model.segment(IMAGE, LABELS)
    assert counts == {"volumes": 1, "passes": 1, "decodings": 1} and list(together.masks) == LABELS
    sizes = set()
    for label in LABELS:
        with saying(model, "It is <SEG>."):  # the same by a search for words, question by question
            single = model.ask(IMAGE, segmenting.QUESTION.format(label=label)).masks[label].array
        assert (together.masks[label].array == single).mean() > 0.9999
        sizes.add(int(single.sum()))
    assert len(sizes) == len(LABELS), "masks of an untrained model that differ tell one label from another"


def test_a_language_model_that_cannot_share_gives_the_same_masks(model, monkeypatch):
    together = model.segment(IMAGE, LABELS[:2])
    monkeypatch.setattr(segmenting, "can_share_prefix", lambda config: False)
    monkeypatch.setattr(segmenting, "_TOGETHER", 1)
    for label, mask in model.segment(IMAGE, LABELS[:2]).masks.items():
        assert (together.masks[label].array == mask.array).mean() > 0.9999 and mask.array.any()


def test_a_label_that_was_not_trained_is_named(model, caplog):
    with caplog.at_level(logging.WARNING):
        assert list(model.segment(IMAGE, "spleeen").masks) == ["spleeen"]
    assert "'spleeen' is not among the 3 labels of training; did you mean spleen?" in caplog.text


def test_labels_come_with_the_checkpoint(model, tmp_path, caplog):
    assert model.labels() == LABELS
    assert CTInstruct.from_pretrained(model.save_pretrained(tmp_path)).labels() == LABELS
    config = json.loads((tmp_path / "config.json").read_text())
    del config["training"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    older = CTInstruct.from_pretrained(tmp_path)
    assert older.labels() == [] and "does not tell which labels" in caplog.text


def test_many_questions_are_answered_as_single_ones_on_one_encoding(model):
    questions = ["Where is the liver?", "What changed?", "Is it left?"]
    with counting(model) as counts:
        answers = model.ask_many(IMAGE, questions)
    assert counts["volumes"] == 1
    assert [answer.text for answer in answers] == [model.ask(IMAGE, question).text for question in questions]


@pytest.mark.parametrize("beams", [1, 3])
def test_questions_at_once_are_one_batch_with_the_answers_of_single_ones(model, beams):
    questions = ["Where is the liver?", "What changed since then, and how much?", "Is it left?", "Where is the spleen?"]
    with counting(model) as counts:
        answers = model.ask_many(IMAGE, questions, at_once=3, num_beams=beams, max_new_tokens=12)
    assert counts["volumes"] == 1
    assert [answer.question for answer in answers] == questions
    alone = [model.ask(IMAGE, question, num_beams=beams, max_new_tokens=12) for question in questions]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    with pytest.raises(InputError, match="at_once is 0"):
        model.ask_many(IMAGE, questions, at_once=0)


def test_masks_of_questions_at_once_bear_their_own_names(model):
    with saying(model, "It is <SEG>."):
        liver, spleen = model.ask_many(IMAGE, ["Where is the liver?", "Where is the spleen?"], at_once=2)
        single = model.ask(IMAGE, "Where is the spleen?")
    assert list(liver.masks) == ["liver"] and list(spleen.masks) == ["spleen"]
    assert (spleen.masks["spleen"].array == single.masks["spleen"].array).mean() > 0.999


def test_diagnosis_and_report_ask_in_the_words_of_training(model):
    with saying(model, ANSWERS["diagnosis"]):
        answer = model.diagnose(IMAGE)
    assert list(answer.confidences) == diseases_of("CT-RATE")
    assert all(0 < share < 1 for share in answer.confidences.values())
    report = model.report(IMAGE, max_new_tokens=3)
    assert report.question.endswith("<report_generation>") and report.text


def test_several_volumes_have_masks_on_the_first(model, tmp_path):
    image = nib.load(IMAGE)
    prior = tmp_path / "prior.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::2], image.affine @ np.diag([1, 1, 2, 1])), prior)
    with counting(model) as counts, saying(model, "It is <SEG>.") as prompts:
        pair = model.ask([prior, IMAGE], "Where is the liver?")
        model.ask(IMAGE, "Where is the liver?")
    assert counts["volumes"] == 3 and prompts[0].shape[1] > prompts[1].shape[1] + 4
    assert pair.masks["liver"].array.shape == nib.load(prior).shape


def test_a_volume_is_embedded_by_its_tokens(model):
    found = model.embed(IMAGE)
    width = model.config.token_width
    assert found.tokens.shape == (*found.valid.shape, width) and found.volume.shape == (width,)
    assert np.allclose(found.volume, found.tokens[found.valid].mean(0), atol=1e-5)
    assert found.patches.shape[1] == width and np.ptp(found.patches, axis=0).max() > 0


def test_volumes_are_prepared_as_the_checkpoint_says(model):
    calm = model.vision.preprocessing
    before = model.embed(IMAGE).volume
    model.vision.preprocessing = Preprocessing.standard(calm.crop_size, calm.patch_max, "LPS", calm.resize)
    try:
        assert np.abs(model.embed(IMAGE).volume - before).max() > 1e-3
    finally:
        model.vision.preprocessing = calm


@pytest.mark.parametrize(
    ("ct", "question", "complaint"),
    [
        ("nowhere.nii.gz", "What?", r"nowhere\.nii\.gz: no such file"),
        (IMAGE, "  ", "the question is empty"),
        (IMAGE, "<|image_pad|>", "which marks a volume"),
        (np.zeros((3, 3, 3)), "What?", "path of a file"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(model, ct, question, complaint):
    with pytest.raises(InputError, match=complaint) as raised:
        model.ask(ct, question)
    assert "\n" not in str(raised.value)


def test_other_refusals(model):
    with pytest.raises(InputError, match="label_set 'COVID' is not known; choose one of"):
        model.ask(IMAGE, "What?", label_set="COVID")
    with pytest.raises(InputError, match="at least one label"):
        model.segment(IMAGE, [])
    with pytest.raises(InputError, match="about no volume"):
        model.ask([], "What changed?").overlay()


@pytest.mark.parametrize(
    ("question", "answer", "names"),
    [
        ("?", "The left kidney is <SEG> and the Spleen <SEG>.", ["left kidney", "spleen"]),
        ("Where are the kidney and the spleen?", "They are <SEG> and <SEG>.", ["kidney", "spleen"]),
        ("Where is the spleen?", "It is <SEG> and <SEG>.", ["mask 1", "mask 2"]),
        ("Mark the gland", "kidney <SEG> kidney <SEG> there <SEG>", ["kidney", "kidney 2", "mask 3"]),
        ("Where is the spleenium?", "It is <SEG>.", ["mask 1"]),
    ],
)
def test_names_of_masks(question, answer, names):
    labels = ["kidney", "left_kidney", "spleen"]
    assert mask_names(question, answer, len(names), labels) == names


def test_names_of_masks_without_the_labels_of_training():
    assert mask_names("Where is the liver?", "It is <SEG>.", 1) == ["liver"]
