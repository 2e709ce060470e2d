"""From manifest rows to samples: token ids, image tokens, cuts, and the cache of volumes."""

from __future__ import annotations

import json
import logging
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.conversation import Conversation, Turn
from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import QuestionPart, load_manifest
from datasets.mixture import load_mixture, published_weights
from datasets.sampling import SampleReference
from datasets.vocabulary import IGNORED_TOKEN
from datasets.volume.cache import VolumeLoader
from datasets.volume.preprocessing import Preprocessing
from tests.tiny_model import VISION, collate, make_sample, tiny_tokenizer

PARTS = [QuestionPart(type="image"), QuestionPart(type="text", text="Where is the liver?")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def phantom_manifest(tmp_path):
    """A CT with a bright cube in it, its mask, and three questions."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(40, 20, (50, 60, 20)).astype(np.float32)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[10:30, 20:40, 5:15] = 4
    voxels[mask > 0] += 300
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1, 2, 1])), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.diag([-1.0, 1, 2, 1])), tmp_path / "mask.nii.gz")
    question = [{"type": "image"}, {"type": "text", "text": "Where is the liver?"}]
    rows = [
        {"question": question, "image_path": "ct.nii.gz", "answer": "On the right."},
        {
            "question": question,
            "image_path": "ct.nii.gz",
            "answer": "It is <SEG>.",
            "labels": ["liver"],
            "mask_path": "mask.nii.gz",
            "mask_values": {"liver": 4},
        },
        {"question": question[1:], "image_path": [], "answer": "Text alone."},
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_prompt_is_the_chat_template_with_image_tokens_in_place(tokenizer):
    ids = Conversation(tokenizer).prompt(PARTS, [5])
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 5 + "<|vision_end|>Where is the liver?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_texts_met_before_have_the_same_ids_and_are_tokenised_once(tokenizer, monkeypatch):
    """With other numbers of image tokens, too; what is given out may be changed; only the latest texts are kept."""
    monkeypatch.setattr("datasets.conversation.MOST_REMEMBERED", 3)
    kept, calls = Conversation(tokenizer, remembers=True), []
    kept.tokenizer = lambda text, **options: calls.append(text) or tokenizer(text, **options)
    kept.tokenizer.apply_chat_template = tokenizer.apply_chat_template
    kept.tokenizer.eos_token_id = tokenizer.eos_token_id
    for count in (5, 2, 5):
        kept.prompt(PARTS, [count]).append(0)
        assert kept.prompt(PARTS, [count]) == Conversation(tokenizer).prompt(PARTS, [count])
        assert kept.answer("On the right.") == Conversation(tokenizer).answer("On the right.")
    assert len(calls) == 2
    turns = [Turn("Where is the liver?", "On the right.")]
    assert kept.dialogue("How large?", [5], earlier=turns) == Conversation(tokenizer).dialogue(
        "How large?", [5], earlier=turns
    )
    kept.answer("Left.")
    assert len(calls) == 4
    kept.answer("On the right.")
    assert len(calls) == 5, "three were kept"
    kept.remembers = False  # as where people ask
    kept.answer("Both.")
    kept.answer("Both.")
    assert len(calls) == 7


def test_labels_are_the_answer_and_its_end_alone(tokenizer):
    samples = [make_sample("open_vqa", tokenizer, 0), make_sample("diagnosis", tokenizer, 1)]
    batch = collate(samples, tokenizer)
    for row, sample in enumerate(samples):
        supervised = batch.labels[row] != IGNORED_TOKEN
        assert batch.labels[row][supervised].tolist() == sample.answer_ids
        assert sample.answer_ids[-1] == tokenizer.eos_token_id
        assert torch.equal(batch.input_ids[row][supervised], batch.labels[row][supervised])
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == sample.prompt_ids + sample.answer_ids
        assert real[-1] and not real[: int((~real).sum())].any(), "padding is on the left"


def test_a_long_question_is_cut_at_its_end_and_never_in_the_image(tokenizer, caplog):
    words = " ".join(f"word{i}" for i in range(300))
    conversation = Conversation(tokenizer, max_length=200)
    parts = [PARTS[0], QuestionPart(type="text", text="Compare: " + words)]
    with caplog.at_level(logging.WARNING):
        ids = conversation.prompt(parts, [40], "case-7")
    assert len(ids) <= 200 and ids.count(conversation.image_id) == 40
    assert "case-7: question cut by" in caplog.text and "200 of max_length 200 are left for it" in caplog.text
    text = tokenizer.decode(ids)
    assert "Compare: word0 word1" in text and text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_volumes_that_do_not_fit_are_refused_by_name(tokenizer):
    with pytest.raises(InputError, match="case-8: 500 image tokens"):
        Conversation(tokenizer, max_length=200).prompt(PARTS, [500], "case-8")


def test_the_image_token_in_a_text_is_refused_by_name(tokenizer):
    parts = [PARTS[0], QuestionPart(type="text", text="What is <|image_pad|> here?")]
    with pytest.raises(InputError, match="case-6: the question's text has"):
        Conversation(tokenizer).prompt(parts, [5], "case-6")


def test_a_long_answer_is_cut_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        ids = Conversation(tokenizer, max_answer_tokens=60).answer("word " * 400, "case-9")
    assert len(ids) == 60 and tokenizer.eos_token_id not in ids
    assert "case-9: answer cut from" in caplog.text and "to max_answer_tokens 60" in caplog.text
    whole = tokenizer("word " * 400, add_special_tokens=False)["input_ids"]
    assert Conversation(tokenizer).answer("word " * 400) == [*whole, tokenizer.eos_token_id]


def test_the_published_limit_of_an_answer_and_room_for_its_question(tokenizer):
    """4,096 tokens of an answer, the end among them, and a question beside it that is not cut."""
    conversation = Conversation(tokenizer)
    ids = conversation.answer("word " * 5000)
    assert len(ids) == 4096 and conversation.max_length == 8192
    assert conversation.prompt(PARTS, [192], room=8192 - len(ids)) == conversation.prompt(PARTS, [192])


def test_an_answer_that_leaves_no_room_is_refused_by_name(phantom_manifest, tokenizer):
    records = load_manifest(phantom_manifest)
    long = records[0].model_copy(update={"answer": "word " * 400})
    dataset = InstructionDataset({"train": records}, tokenizer, VISION, max_length=300)
    with pytest.raises(InputError, match=r"train/0: .* of max_length 300 are left for the question; raise max_length"):
        dataset.sample(long)
    cut = InstructionDataset({"train": records}, tokenizer, VISION, max_length=300, max_answer_tokens=50).sample(long)
    assert len(cut.answer_ids) == 50


@pytest.mark.parametrize("keep", [0, 3])
def test_rows_about_one_path_share_its_volume_though_it_was_loaded_twice(phantom_manifest, tokenizer, keep):
    records = load_manifest(phantom_manifest)
    folder = phantom_manifest.parent
    spelled = records[0].model_copy(update={"image_path": [str(folder / ".." / folder.name / "ct.nii.gz")]})
    copy = folder / "copy.nii.gz"
    copy.write_bytes((folder / "ct.nii.gz").read_bytes())
    other = records[0].model_copy(update={"image_path": [str(copy)]})
    dataset = InstructionDataset({"train": records}, tokenizer, VISION, keep_volumes=keep)
    samples = [dataset.sample(record) for record in (records[2], records[0], records[1], spelled, other, records[2])]
    assert (samples[1].volumes[0] is samples[2].volumes[0]) is bool(keep)
    assert samples[1].volume_keys == samples[3].volume_keys == [str(folder / "ct.nii.gz")]
    batch = collate(samples, tokenizer)
    assert batch.volumes_of == [0, 1, 1, 1, 4, 5]  # another path stays apart, and so do questions without a volume
    assert [len(row) for row in batch.volumes] == [0, 1, 0, 0, 1, 0]
    assert batch.volumes[1][0] is samples[1].volumes[0] and [len(row) for row in batch.geometries] == [0, 1, 1, 1, 1, 0]
    samples[1].volume_keys = []
    with pytest.raises(ValueError, match="train/0: 0 volume_keys for 1 volumes"):
        collate(samples, tokenizer)


def test_a_sample_has_its_mask_on_the_padded_grid(phantom_manifest, tokenizer):
    records = load_manifest(phantom_manifest)
    dataset = InstructionDataset({"train": records}, tokenizer, VISION)
    sample = dataset[SampleReference("train", 1, 0)]
    placement = sample.volumes[0].placement
    assert sample.masks.shape == (1, *placement.padded_shape)
    x, y, z = placement.patch_grid[1] * 64, placement.patch_grid[2] * 64, placement.patch_grid[0] * 16
    assert placement.padded_shape == (x, y, z)
    # the patches assembled by hand: the bright cube is where the mask is
    volume = torch.full((x, y, z), float("nan"))
    patches = iter(sample.volumes[0].patches)
    for k in range(placement.patch_grid[0]):
        for i in range(placement.patch_grid[1]):
            for j in range(placement.patch_grid[2]):
                volume[i * 64 : i * 64 + 64, j * 64 : j * 64 + 64, k * 16 : k * 16 + 16] = next(patches)
    inside, outside = volume[sample.masks[0] == 1], volume[sample.masks[0] == 0]
    assert inside.mean() > outside.mean() + 2
    assert sample.prompt_ids.count(dataset.conversation.image_id) == sample.volumes[0].slice_marks.numel()
    text_only = dataset[SampleReference("train", 2, 0)]
    assert text_only.volumes == [] and text_only.masks is None


def test_the_cache_gives_the_same_up_to_rounding_and_notices_an_edited_file(phantom_manifest, tmp_path, monkeypatch):
    folder = phantom_manifest.parent
    options = Preprocessing.standard(VISION.crop_size, 6)
    plain, cached = VolumeLoader(options), VolumeLoader(options, tmp_path / "cache")
    expected, geometry = plain.volume(folder / "ct.nii.gz")
    for _ in range(2):
        given, given_geometry = cached.volume(folder / "ct.nii.gz")
        assert torch.allclose(given.patches, expected.patches, rtol=0, atol=5e-5)
        assert torch.equal(given.slice_marks, expected.slice_marks)
        assert given.placement == expected.placement and given_geometry == geometry
        masks = cached.masks(str(folder / "mask.nii.gz"), [4], given.placement, given_geometry)
        assert torch.equal(masks, plain.masks(str(folder / "mask.nii.gz"), [4], expected.placement, geometry))
    with monkeypatch.context() as patch:
        patch.setattr("datasets.volume.cache.load_volume", lambda *a, **k: pytest.fail("the file was decoded again"))
        assert torch.equal(cached.volume(folder / "ct.nii.gz")[0].patches, given.patches)
    other = VolumeLoader(Preprocessing.standard(VISION.crop_size, 6, resize="isotropic"), tmp_path / "cache")
    assert other.volume(folder / "ct.nii.gz")[0].placement != expected.placement
    image = nib.load(folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata()[::-1] + 7, image.affine), folder / "ct.nii.gz")
    os.utime(folder / "ct.nii.gz", ns=(1, 1))
    assert not torch.equal(cached.volume(folder / "ct.nii.gz")[0].patches, expected.patches)


def test_mixtures_weigh_by_option_by_published_name_or_by_size(phantom_manifest):
    folder = phantom_manifest.parent
    known = folder / "CTRATE_Question_Answer.json"
    known.write_text(phantom_manifest.read_text())
    records, weights = load_mixture([str(phantom_manifest)])
    assert list(records) == ["train"] and weights is None
    _, weights = load_mixture([f"{phantom_manifest}=0.5", str(known)])
    assert weights == {"train": 0.5, "CTRATE_Question_Answer": published_weights()["CTRATE_Question_Answer"]}
    records, weights = load_mixture([str(phantom_manifest)], ["segmentation=3"])
    assert weights == {"open_vqa": 1.0, "segmentation": 3.0} and len(records["open_vqa"]) == 2


@pytest.mark.parametrize(
    ("manifests", "task_weights", "complaint"),
    [
        ([], [], "--manifests is empty"),
        (["{train}", "{train}"], [], "a second manifest named train"),
        (["{train}=heavy"], [], "'heavy' is not a number of 0 or more"),
        (["{train}=-1"], [], "'-1' is not a number of 0 or more"),
        (["{train}"], ["poetry=1"], "'poetry' is not one of"),
        (["{train}=1"], ["segmentation=1"], "exclude each other"),
        (["{train}", "{known}"], [], "manifest train has no weight"),
    ],
)
def test_a_bad_mixture_is_refused(phantom_manifest, manifests, task_weights, complaint):
    known = phantom_manifest.with_name("M3D_Caption.json")
    known.write_text(phantom_manifest.read_text())
    manifests = [item.format(train=phantom_manifest, known=known) for item in manifests]
    with pytest.raises(InputError, match=complaint):
        load_mixture(manifests, task_weights)
