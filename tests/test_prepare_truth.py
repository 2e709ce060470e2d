"""From a miniature's files to the manifests, and back by the project's own loaders: each voxel is what was put in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datasets.catalog import load_records, published_tasks
from datasets.manifest import load_manifest
from datasets.mask_files import MaskSource
from datasets.prepare.case import Findings
from datasets.prepare.command import main
from datasets.prepare.registry import find_data_set
from datasets.pretraining_records import SegmentationRecord
from datasets.record_masks import read_source
from datasets.volume.loading import read_volume
from tests.replicas import SEGMENTATION


@pytest.fixture(scope="module", params=SEGMENTATION)
def replica(request, tmp_path_factory):
    """The data set, the folder of manifests, and by image the truths of the cases that have it."""
    source, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("prepared") / "out"
    truth = SEGMENTATION[request.param](source)
    data_set = find_data_set(request.param.partition("@")[0])
    options = ["--source", str(source), "--out", str(out), "--workers", "1"]
    assert main([data_set.name, *options]) == 0
    by_image = {}
    for case in data_set.read(source.resolve(), {}, Findings()):
        by_image.setdefault(str(case.image), []).append(truth.cases[case.id])
    return data_set, out, by_image


def truth_of(truths, labels):
    """Of the cases of an image the one that has these labels."""
    (found,) = [truth for truth in truths if set(labels) <= set(truth.masks)]
    return found


def test_pretraining_records_give_the_truth_voxel_by_voxel(replica):
    data_set, out, by_image = replica
    seen = 0
    for task in published_tasks(out / "pretraining"):
        for split in ("train", "val", "test"):
            if task.name not in data_set.pretraining or not task.path(split).is_file():
                continue
            for record in load_records([task], split)[task.name]:
                assert isinstance(record, SegmentationRecord)
                truth = truth_of(by_image[record.image_path], record.labels)
                assert record.patient_id == truth.patient
                assert truth.split in (None, split) or (truth.split, split) == ("train", "val")
                hu, geometry = read_volume(record.image_path, hu_offset=record.hu_offset)
                np.testing.assert_array_equal(hu[0], truth.hu)
                np.testing.assert_allclose(geometry.affine, truth.affine, atol=1e-4)
                values = record.values or [None] * len(record.labels)
                files = record.mask_files * (len(record.labels) if isinstance(record.mask_path, str) else 1)
                for label, paths, value in zip(record.labels, files, values, strict=True):
                    mask = read_source(MaskSource(paths, value), geometry)
                    np.testing.assert_array_equal(mask, truth.masks[label], err_msg=f"{record.image_path} {label}")
                seen += 1
    records = json.loads((out / data_set.name / "prepared.json").read_text())["records"]
    assert seen == sum(count for path, count in records.items() if path.startswith("pretraining/"))


def test_questions_are_answered_by_the_true_masks(replica):
    data_set, out, by_image = replica
    asked = 0
    for path in [*(out / "instruction").glob("*_Seg*.json"), *(out / "benchmarks").glob("*.json")]:
        for record in load_manifest(path):
            truth = truth_of(by_image[record.image_path[0]], record.labels)
            _, geometry = read_volume(record.image_path[0])
            for number, label in enumerate(record.labels):
                mask = read_source(record.mask_source(number), geometry)
                assert mask.any(), "an absent structure is not asked for"
                np.testing.assert_array_equal(mask, truth.masks[label])
            asked += 1
    assert bool(asked) == bool(data_set.instruction)
