"""The rule-based labeller sentence by sentence, clinical efficacy against hand counts and scikit-learn, CRG against
its closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from datasets.errors import InputError
from evaluation.metrics.clinical_efficacy import clinical_efficacy, crg_score
from evaluation.metrics.report_classifier import load_report_classifier
from evaluation.metrics.report_labels import FINDINGS, find_mentions, label_report, split_clauses

SENTENCES = [
    # one of each finding, stated
    ("A central venous catheter is seen in the superior vena cava.", {"Medical material"}),
    ("Sternotomy wires and a pacemaker are present.", {"Medical material"}),
    ("Calcific atheromatous plaques are observed in the aortic arch.", {"Arterial wall calcification"}),
    ("There are calcifications in the coronary arteries.", {"Coronary artery wall calcification"}),
    ("Calcified left anterior descending coronary artery.", {"Coronary artery wall calcification"}),
    ("Calcified coronary arteries (left anterior descending artery).", {"Coronary artery wall calcification"}),
    (
        "Calcific plaques are seen in the aorta and coronary arteries.",
        {"Arterial wall calcification", "Coronary artery wall calcification"},
    ),
    ("The heart is enlarged.", {"Cardiomegaly"}),
    ("Heart size has increased.", {"Cardiomegaly"}),
    ("Minimal pericardial effusion is observed.", {"Pericardial effusion"}),
    ("A sliding type hiatal hernia is present at the lower end of the esophagus.", {"Hiatal hernia"}),
    ("Enlarged lymph nodes are seen in the mediastinum.", {"Lymphadenopathy"}),
    ("Mediastinal lymphadenopathy.", {"Lymphadenopathy"}),
    ("Centrilobular emphysematous changes in both upper lobes.", {"Emphysema"}),
    ("Linear atelectasis in the lingula.", {"Atelectasis"}),
    ("Millimetric nonspecific nodules are observed in both lungs.", {"Lung nodule"}),
    ("Patchy ground-glass opacities in the right lower lobe.", {"Lung opacity"}),
    ("Pleuroparenchymal fibrotic sequelae changes are present at both apices.", {"Pulmonary fibrotic sequela"}),
    ("There is a bilateral pleural effusion reaching 3 cm.", {"Pleural effusion"}),
    ("Mosaic attenuation pattern is seen in both lungs.", {"Mosaic attenuation pattern"}),
    ("Peribronchial thickening is noted.", {"Peribronchial thickening"}),
    ("Thickening of the bronchial walls.", {"Peribronchial thickening"}),
    ("A consolidation area with air bronchograms in the left lower lobe.", {"Consolidation"}),
    ("Bronchiectatic changes in the middle lobe.", {"Bronchiectasis"}),
    ("Smooth interlobular septal thickening is observed.", {"Interlobular septal thickening"}),
    # negation before
    ("No pleural effusion.", set()),
    ("No evidence of pulmonary nodule or consolidation.", set()),
    ("There is no pleural effusion, consolidation, or nodule.", set()),
    ("The lungs are free of nodules and infiltration.", set()),
    ("Consolidation without pleural effusion.", {"Consolidation"}),
    ("Neither consolidation nor nodule is seen.", set()),
    ("No pericardial or pleural effusion was detected.", set()),
    ("No lymph node in pathological size and appearance was observed.", set()),
    ("Lymph nodes that do not reach pathological dimensions.", set()),
    # negation after
    ("Pleural effusion was not observed.", set()),
    ("Pericardial effusion and pleural effusion are not seen.", set()),
    ("Pleural effusion: none.", set()),
    ("The consolidation has resolved.", set()),
    ("The nodule is no longer seen.", set()),
    ("Cardiomegaly is absent.", set()),
    # clause scope
    ("No pleural effusion, but a pericardial effusion is present.", {"Pericardial effusion"}),
    ("No abnormality other than a small nodule in the right lung.", {"Lung nodule"}),
    ("No effusion was seen, and the heart is enlarged.", {"Cardiomegaly"}),
    ("Pleural effusion is not seen, consolidation is present.", {"Consolidation"}),
    ("Consolidation is present and pleural effusion is not seen.", {"Consolidation"}),
    ("No pleural effusion. Nodules are seen.", {"Lung nodule"}),
    ("Although there is no consolidation, ground glass is seen in the upper lobe.", {"Lung opacity"}),
    ("Except for a nodule in the left lung, no abnormality is seen.", {"Lung nodule"}),
    ("No nodule in the left lung; nodule in the right lung.", {"Lung nodule"}),
    ("No nodule measuring 1.5 cm. Emphysema.", {"Emphysema"}),
    # no negation at all
    ("No significant change in the pulmonary nodule.", {"Lung nodule"}),
    ("Consolidation cannot be excluded.", {"Consolidation"}),
    ("Calcific plaques not only in the aorta.", {"Arterial wall calcification"}),
    ("Suspicious for bronchiectasis.", {"Bronchiectasis"}),
    # the same words for other things
    ("A nodule is seen in the left thyroid lobule.", set()),
    ("Hypodense nodule in the right adrenal gland.", set()),
    ("Subcutaneous emphysema is seen on the right chest wall.", set()),
    ("Heart contour and size are normal.", set()),
    ("The portal vein is opacified with contrast.", set()),
    ("Aortic valve calcification is seen.", set()),
    ("", set()),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentences(text: str, expected: set[str]) -> None:
    assert {finding for finding, value in label_report(text).items() if value} == expected, find_mentions(text)


def test_every_finding_is_one_of_ct_rate_in_its_order() -> None:
    heads = json.loads((Path(__file__).resolve().parents[1] / "data" / "diagnosis_heads.json").read_text())
    assert list(FINDINGS) == [entry["disease"] for entry in heads["CT-RATE"]]
    stated = set().union(*(expected for _, expected in SENTENCES))
    assert stated == set(FINDINGS)  # each rule has at least one sentence that fires it


def test_a_whole_report() -> None:
    report = """Findings: Trachea and both main bronchi are open. Heart contour and size are normal. Calcific plaques
    are observed in the coronary arteries. Pericardial effusion-thickening was not observed. No enlarged lymph nodes in
    prevascular, pre-paratracheal or subcarinal areas. When examined in the lung parenchyma window, linear atelectasis
    is seen in the middle lobe. No mass, nodule or infiltration was detected. Pleural effusion is not observed.

    Impression:
    - Coronary atherosclerosis
    - Linear atelectasis"""
    labels = label_report(report)
    assert {name for name, value in labels.items() if value} == {"Coronary artery wall calcification", "Atelectasis"}


def test_clauses_end_only_where_both_sides_have_a_verb() -> None:
    assert list(split_clauses("No effusion, nodule, or mass is seen.")) == ["no effusion, nodule, or mass is seen"]
    clauses = list(split_clauses("No effusion is seen, and the heart is large."))
    assert clauses == ["no effusion is seen", "the heart is large"]


def labels_from(row: np.ndarray) -> dict[str, int]:
    return {finding: int(value) for finding, value in zip(FINDINGS, row, strict=True)}


def test_clinical_efficacy_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    true = (generator.random((40, 18)) < 0.3).astype(int)
    predicted = np.where(generator.random((40, 18)) < 0.2, 1 - true, true)
    result = clinical_efficacy(
        [labels_from(row) for row in predicted], [labels_from(row) for row in true], resamples=100
    )
    for average in ("micro", "macro"):
        expected = sk.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert result["metrics"][f"{average}_{name}"]["value"] == pytest.approx(value)
    f1 = result["metrics"]["micro_f1"]
    assert f1["low"] < f1["value"] < f1["high"]
    finding = result["findings"]["Cardiomegaly"]
    column = FINDINGS.index("Cardiomegaly")
    assert finding["f1"]["value"] == pytest.approx(sk.f1_score(true[:, column], predicted[:, column]))
    assert finding["positives"] == true[:, column].sum()


def test_crg_closed_forms() -> None:
    x, a = 90.0, 30.0  # weight r = (90 - 30) / 60 = 1, S_max = 30
    assert crg_score(a, 0, 0, x) == pytest.approx(1)  # all found, nothing false
    assert crg_score(0, 0, a, x) == pytest.approx(1 / 3)  # nothing ever reported
    assert crg_score(a, x - a, 0, x) == pytest.approx(1 / 3)  # everything always reported: s = 30 - 60 = -30
    assert crg_score(20, 10, 10, x) == pytest.approx(30 / (60 - (20 - 10 - 10)))
    assert crg_score(5, 2, 5, 100) == pytest.approx(45 / (90 - (4.5 * 5 - 4.5 * 5 - 2)))
    assert np.isnan(crg_score(0, 3, 0, x)) and np.isnan(crg_score(x, 0, 0, x))


def test_crg_of_reports_pools_all_decisions() -> None:
    true, predicted = np.zeros((2, 18), int), np.zeros((2, 18), int)
    true[0, :3] = 1
    predicted[0, :2] = predicted[1, 5] = 1
    result = clinical_efficacy(
        [labels_from(row) for row in predicted], [labels_from(row) for row in true], resamples=10
    )
    weight, best = (36 - 3) / 6, (36 - 3) / 2
    expected = best / (2 * best - (weight * 2 - weight * 1 - 1))
    assert result["metrics"]["crg"]["value"] == pytest.approx(expected)
    assert result["metrics"]["macro_recall"]["value"] == pytest.approx(2 / 3)  # over the three findings with a positive
    assert "Macro over 4 of 18" in result["notes"][0]


def test_no_positive_finding_has_no_score() -> None:
    nothing = labels_from(np.zeros(18))
    result = clinical_efficacy([nothing], [nothing], resamples=10)
    assert all(estimate["value"] is None for estimate in result["metrics"].values())
    assert clinical_efficacy([], [], resamples=10)["metrics"]["crg"]["value"] is None


def test_a_classifier_folder_labels_by_name(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    names = [*reversed(FINDINGS), "something else"]
    config = BertConfig(
        vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=19,
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.fill_(-2.0)
        model.classifier.bias[names.index("Emphysema")] = 2.0
    model.save_pretrained(tmp_path)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(tmp_path)
    labels = load_report_classifier(tmp_path)("any text")
    assert [name for name, value in labels.items() if value] == ["Emphysema"] and list(labels) == list(FINDINGS)
    config_file = tmp_path / "config.json"
    config_file.write_text(config_file.read_text().replace("Emphysema", "Emphysem"))
    with pytest.raises(InputError, match="no label for Emphysema"):
        load_report_classifier(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        load_report_classifier(tmp_path / "absent")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="no loadable classifier"):
        load_report_classifier(tmp_path)
