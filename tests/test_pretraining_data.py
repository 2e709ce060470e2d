"""From records of every kind to batches: masks, targets, 2D images, preprocessed crops, the cache, worker processes."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets.catalog import PretrainingTask, load_records
from datasets.errors import InputError
from datasets.label_descriptions import describe
from datasets.pretraining import EvaluationReference, PretrainingCollator, PretrainingDataset
from datasets.sampling import SampleReference
from datasets.vocabulary import UNKNOWN_CLASS
from datasets.volume.anyres import assemble_patches, place_mask
from datasets.volume.augmentation import AugmentationOptions
from datasets.volume.loading import load_volume, read_mask
from datasets.volume.rounded_patches import ERROR
from models.configuration import VISION_PRESETS
from tests.ct_files import as_orientation

VISION = replace(VISION_PRESETS["tiny"], crop_size=(32, 32, 8), patch_max=4)
SHAPE = (50, 60, 20)
VALUES = {"liver": 4, "spleen": [2, 3], "pancreas": 9}
REPORTS = ("The lungs are clear.", "A nodule in the left upper lobe.")


def embed(texts: list[str]) -> torch.Tensor:
    """A vector a text that is the same wherever it is made."""
    return torch.tensor([list(text.encode().ljust(400)[:400]) for text in texts]).float()


@pytest.fixture
def folder(tmp_path):
    """A CT stored in LPS with two organs in it (the third label is absent), and a manifest of each kind."""
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:30, 20:40, 5:15], labels[35:45, 5:15, 2:9], labels[35:45, 5:15, 9:12] = 4, 2, 3
    voxels = rng.normal(40, 20, SHAPE).astype(np.float32) + 300 * (labels == 4)
    for name, array in (
        ("ct", voxels),
        ("labels", labels),
        ("liver", labels == 4),
        ("spleen", np.isin(labels, (2, 3))),
    ):
        stored, affine = as_orientation(array.astype(np.float32), "LPS")
        nib.save(nib.Nifti1Image(stored, affine), tmp_path / f"{name}.nii.gz")
    image = {"image_path": "ct.nii.gz"}
    rows = {
        "text": [{**image, "report": report} for report in REPORTS],
        "many": [{**image, "disease_label": {"emphysema": 1, "lung nodule": None}}],
        "one": [{**image, "disease_label": "normal"}],
        "organs": [
            {**image, "mask_path": "labels.nii.gz", "mask_values": VALUES},
            {**image, "mask_path": {"liver": "liver.nii.gz", "spleen": "spleen.nii.gz"}},
        ],
    }
    for name, records in rows.items():
        (tmp_path / f"{name}_train.json").write_text(json.dumps(records))
    return tmp_path


def tasks_of(folder):
    def task(name, kind, labels=(), loss=None):
        return PretrainingTask(name, kind, 1.0, f"{folder}/{name}_{{split}}.json", labels, loss)

    return [
        task("text", "image_text"),
        task("many", "classification", ("lung nodule", "emphysema", "atelectasis"), "BCE"),
        task("one", "classification", ("common pneumonia", "normal"), "CE"),
        task("organs", "segmentation", ("spleen", "liver", "pancreas")),
    ]


def dataset_of(folder, tasks=None, **options) -> PretrainingDataset:
    tasks = tasks or tasks_of(folder)
    options.setdefault("augmentation", None)
    return PretrainingDataset(tasks, load_records(tasks), embed, VISION, **options)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_masks_are_those_of_the_dense_path(folder, index, cached):
    data = dataset_of(folder, cache=folder / "cache" if cached else None)
    _, geometry = load_volume(folder / "ct.nii.gz")
    for _ in range(2):
        sample = data[EvaluationReference("organs", index)]
        assert sample.labels == [["liver", "spleen", "pancreas"], ["liver", "spleen"]][index]
        dense = read_mask(str(folder / "labels.nii.gz"), geometry, [VALUES[name] for name in sample.labels])
        assert torch.equal(sample.masks, place_mask(dense, sample.volume.placement))
        assert torch.equal(sample.label_embeddings, embed([describe(name) for name in sample.labels]))


def test_an_augmented_mask_still_lies_on_its_organ(folder):
    data = dataset_of(folder, augmentation=AugmentationOptions(rotate=1.0, segmentation_flip=0.5))
    shapes = set()
    for seed in range(12):
        sample = data[SampleReference("organs", 0, seed)]
        image = assemble_patches(sample.volume.patches, sample.volume.patch_grid)[0]
        liver = sample.masks[sample.labels.index("liver")]
        assert image[liver == 1].mean() > image[liver == 0].mean() + 2
        assert bool((image[liver == -1] == 0).all()) and tuple(liver.shape) == sample.volume.placement.padded_shape
        shapes.add(tuple(liver.shape))
    assert len(shapes) == 2  # turned or not: the grid of patches is not square


def test_the_second_epoch_decodes_no_file(folder, monkeypatch):
    data = dataset_of(folder, cache=folder / "cache", augmentation=AugmentationOptions(rotate=0.5))
    names = [(name, index) for name, size in data.sizes.items() for index in range(size)]
    first = [data[SampleReference(name, index, 7)] for name, index in names]

    def refuse(*args, **kwargs):
        raise AssertionError("a file was decoded again")

    for reader in (
        "datasets.volume.loading.read_raw",
        "datasets.volume.cache.load_volume",
        "nibabel.Nifti1Image.from_stream",
    ):
        monkeypatch.setattr(reader, refuse)
    for sample, (name, index) in zip(first, names, strict=True):
        again = data[SampleReference(name, index, 7)]
        assert torch.equal(again.volume.patches, sample.volume.patches)
        assert sample.masks is None or torch.equal(again.masks, sample.masks)
    monkeypatch.undo()
    image = nib.load(folder / "labels.nii.gz")
    nib.save(
        nib.Nifti1Image(np.where(image.get_fdata() == 4, 9, 0).astype(np.uint8), image.affine), folder / "labels.nii.gz"
    )
    changed = data[EvaluationReference("organs", 0)]  # an edited mask is read anew
    assert [int((mask == 1).sum() > 0) for mask in changed.masks] == [0, 0, 1]


def test_targets_and_embeddings_of_a_batch(folder):
    data, collate = dataset_of(folder), PretrainingCollator()
    batch = collate([data[SampleReference("text", index, 0)] for index in (1, 0)])
    assert batch.kind == "image_text" and torch.equal(batch.text_embeddings, embed([REPORTS[1], REPORTS[0]]))
    assert batch.sample_ids == [str(folder / "ct.nii.gz")] * 2
    batch = collate([data[SampleReference("many", 0, 0)]] * 2)
    labels = data.tasks["many"].labels
    assert torch.equal(batch.label_embeddings, embed([describe(label) for label in labels])) and batch.loss == "BCE"
    assert torch.equal(batch.targets.nan_to_num(-1), torch.tensor([[-1.0, 1.0, -1.0]] * 2))
    batch = collate([data[SampleReference("one", 0, 0)]] * 2)
    assert (
        batch.targets.tolist() == [1, 1] and batch.targets.dtype == torch.int64 and UNKNOWN_CLASS not in batch.targets
    )
    batch = collate([data[SampleReference("organs", index, 0)] for index in (0, 1)])
    assert [len(masks) for masks in batch.masks] == [3, 2] == [len(queries) for queries in batch.query_embeddings]
    with pytest.raises(ValueError, match="a batch has one task"):
        collate([data[SampleReference(name, 0, 0)] for name in ("one", "many")])


def test_prevalence_counts_the_known_labels_of_the_multi_label_tasks(folder):
    rows = [{"lung nodule": 1, "emphysema": 0}, {"lung nodule": 0, "emphysema": None}]
    rows = [{"image_path": "ct.nii.gz", "disease_label": row} for row in rows]
    (folder / "more_train.json").write_text(json.dumps(rows))
    more = replace(tasks_of(folder)[1], name="more", manifest=f"{folder}/more_{{split}}.json", weight=3.0)
    data = dataset_of(folder, [*tasks_of(folder), more])
    assert data.prevalence == pytest.approx((1 * (1 / 1) + 3 * (1 / 3)) / 4)
    assert dataset_of(folder, tasks_of(folder)[2:]).prevalence is None


def test_loader_processes_give_what_the_main_process_gives(folder):
    data = dataset_of(folder, augmentation=AugmentationOptions(), cache=folder / "cache")
    references = [[SampleReference("organs", index % 2, index)] for index in range(4)]
    expected = [PretrainingCollator()([data[one] for one in batch]) for batch in references]
    loader = DataLoader(data, batch_sampler=references, collate_fn=PretrainingCollator(), num_workers=1)
    for given, wanted in zip(loader, expected, strict=True):
        assert torch.equal(given.volumes[0].patches, wanted.volumes[0].patches)
        assert torch.equal(given.masks[0], wanted.masks[0])
    copied = pickle.loads(pickle.dumps(data))  # as a spawned process gets it
    assert torch.equal(copied[references[0][0]].volume.patches, expected[0].volumes[0].patches)


@pytest.mark.parametrize("absent", ["all", "balanced"])
def test_the_labels_of_a_training_step(folder, absent):
    """The pancreas is absent: at two labels a step it is asked for at times as published, and never if balanced."""
    data = dataset_of(folder, absent_labels=absent)
    assert data[SampleReference("organs", 0, 3)].labels == ["liver", "spleen", "pancreas"]
    few = dataset_of(folder, absent_labels=absent, labels_per_step=2)
    drawn = {tuple(few[SampleReference("organs", 0, seed)].labels) for seed in range(20)}
    pairs = {("liver", "spleen"), ("liver", "pancreas"), ("spleen", "pancreas")}
    assert drawn == (pairs if absent == "all" else {("liver", "spleen")})
    with pytest.raises(InputError, match="labels_per_step is 0"):
        dataset_of(folder, labels_per_step=0)


def test_an_evaluation_sees_every_structure_of_every_record_in_parts(folder):
    data = dataset_of(folder, labels_per_step=2)
    samples = [data[reference] for reference in data.evaluation_references("organs")]
    assert [sample.labels for sample in samples] == [["liver", "spleen"], ["pancreas"], ["liver", "spleen"]]
    whole = dataset_of(folder)[EvaluationReference("organs", 0)].masks
    assert torch.equal(torch.cat([samples[0].masks, samples[1].masks]), whole)
    assert data.evaluation_references("text", limit=1) == [EvaluationReference("text", 0)]


@pytest.fixture
def crop(tmp_path):
    """The published layout: one mask in its box, one as large as the crop, one absent."""
    rng = np.random.default_rng(1)
    image = rng.normal(0.3, 2, (1, 40, 48, 12)).astype(np.float32)
    liver, spleen = np.zeros(image.shape[1:], bool), np.zeros(image.shape[1:], bool)
    liver[5:20, 10:30, 3:9] = rng.random((15, 20, 6)) > 0.5
    spleen[30:38, 2:9, 1:4] = True
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "crop.npy", image)
    np.save(tmp_path / "masks/liver.npy", liver[5:20, 10:30, 3:9])
    nib.save(nib.Nifti1Image(spleen.astype(np.uint8), np.eye(4)), tmp_path / "masks/spleen.nii.gz")
    row = {
        "renorm_image": "crop.npy",
        "chwd": [1, 40, 48, 12],
        "renorm_segmentation_dir": "masks",
        "label": ["liver", "spleen", "pancreas"],
        "renorm_y1x1z1_y2x2z2": [[5, 10, 3, 20, 30, 9], [0, 0, 0, 40, 48, 12], False],
    }
    task = PretrainingTask(
        "crops", "segmentation", 1, f"{tmp_path}/crops_{{split}}.json", ("spleen", "liver", "pancreas")
    )
    return tmp_path, row, task, image, np.stack([liver, spleen, np.zeros_like(liver)])


@pytest.mark.parametrize("cached", [False, True])
def test_a_preprocessed_crop_is_taken_as_it_is(crop, cached):
    folder, row, task, image, masks = crop
    (folder / "crops_train.json").write_text(json.dumps([row]))
    data = dataset_of(folder, [task], cache=folder / "cache" if cached else None)
    for _ in range(2):
        sample = data[EvaluationReference("crops", 0)]
        assert sample.volume.placement.original_shape == (40, 48, 12)  # not cropped to what is above 0
        assert torch.equal(sample.masks, place_mask(masks, sample.volume.placement))
        padded = assemble_patches(sample.volume.patches, sample.volume.patch_grid)
        content = padded[(slice(None), *sample.volume.placement.content)]
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(image)[None], content.shape[1:], mode="trilinear", align_corners=True
        )[0]
        moved = ERROR * (expected.max() - expected.min()).item() if cached else 0
        assert torch.allclose(content, expected, atol=1e-5 + moved)  # nor normalised again


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"chwd": [1, 48, 40, 12]}, r"crop\.npy: has shape \(1, 40, 48, 12\), but chwd"),
        (
            {"renorm_y1x1z1_y2x2z2": [[5, 10, 3, 20, 29, 9], False, False]},
            r"liver\.npy: has shape .* fits neither the crop",
        ),
    ],
)
def test_a_crop_that_contradicts_its_record_is_refused(crop, change, complaint):
    folder, row, task, *_ = crop
    (folder / "crops_train.json").write_text(json.dumps([{**row, **change}]))
    data = dataset_of(folder, [task])
    with pytest.raises(InputError, match=complaint):
        data[EvaluationReference("crops", 0)]


def test_a_label_without_description_is_refused_at_the_start(folder):
    task = replace(tasks_of(folder)[1], labels=("emphysema", "lung nodule", "glow"))
    with pytest.raises(InputError, match="no description of the label 'glow'"):
        dataset_of(folder, [task])
