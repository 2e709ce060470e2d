"""Figures of the report against scikit-learn, numpy and the numbers put in; overlays by the colours that they hold."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from datasets.volume.overlay import MASK_COLOURS
from evaluation.report.report_figures import (
    box_figure,
    calibration_error,
    calibration_figure,
    calibration_points,
    known_pairs,
    overlay_panels,
    roc_figure,
    roc_points,
    to_svg,
)


def test_roc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    given = [*rng.integers(0, 2, 60).tolist(), None, float("nan")]
    scores = [*np.round(rng.random(60), 1).tolist(), 0.99, 0.01]  # rounded, so that there are ties
    targets, probabilities = known_pairs(given, scores)
    assert len(targets) == 60
    false_positive, true_positive, _ = roc_curve(given[:60], scores[:60])
    line = roc_figure(targets, probabilities, 0.55).axes[0].lines
    np.testing.assert_array_equal(line[1].get_xdata(), false_positive)
    np.testing.assert_array_equal(line[1].get_ydata(), true_positive)
    called = [score >= 0.55 for score in scores[:60]]
    hits = sum(c and t for c, t in zip(called, given, strict=False)) / sum(given[:60])
    assert line[2].get_ydata()[0] == pytest.approx(hits)
    assert roc_points(np.zeros(3, int), np.ones(3))[0].size == 0


def test_missing_probability_counts_as_zero_as_in_the_metrics():
    targets, probabilities = known_pairs([1, 0, None], [None, 0.4, 0.9])
    assert targets.tolist() == [1, 0] and probabilities.tolist() == [0.0, 0.4]


def test_calibration_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    probabilities = rng.random(200)
    targets = (rng.random(200) < probabilities**2).astype(int)
    share, mean = calibration_curve(targets, probabilities, n_bins=10)
    confidence, positive, count = calibration_points(targets, probabilities)
    np.testing.assert_allclose(confidence, mean)
    np.testing.assert_allclose(positive, share)
    assert count.sum() == 200
    drawn = calibration_figure(targets, probabilities).axes[0].lines[1]
    np.testing.assert_allclose(drawn.get_ydata(), share)
    by_loop = 0.0
    for low in range(10):
        inside = [i for i in range(200) if low / 10 <= probabilities[i] < (low + 1) / 10]
        by_loop += abs(sum(probabilities[inside]) - sum(targets[inside])) / 200
    assert calibration_error(targets, probabilities) == pytest.approx(by_loop)
    assert calibration_points(np.array([1]), np.array([1.0]))[0].tolist() == [1.0]  # 1 belongs to the last bin
    assert calibration_error(np.zeros(0, int), np.zeros(0)) is None


def test_boxes_hold_the_given_numbers():
    values = {"liver": [0.9, 0.8, 0.7, 0.2], "spleen": [0.95], "lung": [0.1, 0.3]}
    axes = box_figure(values).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["spleen (1)", "liver (4)", "lung (2)"]  # highest median first
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [values["spleen"], values["liver"], values["lung"]]
    vertical = [
        set(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2 and len(set(line.get_xdata())) == 1
    ]
    assert {float(np.median(v)) for v in values.values()} <= {x for pair in vertical for x in pair}


def _near(uri: str, colour: str) -> int:
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"), dtype=float)
    return int((np.abs(picture - 255 * np.array(to_rgb(colour))).max(-1) < 30).sum())


def test_overlay_shows_truth_as_line_and_prediction():
    volume = np.full((40, 36, 30), -1000.0, dtype=np.float32)
    volume[4:36, 4:32] = 30
    truth, prediction = np.zeros((2, *volume.shape), dtype=bool)
    truth[8:16, 8:16, 10:20] = True
    prediction[9:15, 9:15, 12:18] = True
    both = overlay_panels(volume, truth, prediction, (2.0, 2.0, 2.0))
    assert [name for name, _, _ in both] == ["Axial", "Coronal", "Sagittal"]
    for _, uri, width in both:
        assert _near(uri, MASK_COLOURS[0]) > 50 and _near(uri, MASK_COLOURS[1]) > 50 and width > 100
    for _, uri, _ in overlay_panels(volume, truth, None, (2.0, 2.0, 2.0)):
        assert _near(uri, MASK_COLOURS[0]) > 50 and _near(uri, MASK_COLOURS[1]) < 10
    # a stray prediction far away does not move the planes off the truth
    stray = np.zeros_like(truth)
    stray[18:36, 18:32, 21:29] = True  # larger than the truth
    assert all(_near(uri, MASK_COLOURS[0]) > 50 for _, uri, _ in overlay_panels(volume, truth, stray, (2.0, 2.0, 2.0)))


def test_svg_takes_the_pages_colours():
    svg = to_svg(box_figure({"a <b> & c": [0.5, 0.6]}), 'Dice of "a" & <b>')
    ElementTree.fromstring(svg)
    assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("url(#", "").replace('href="#', ""))
    assert "var(--accent)" in svg and "font-family" not in svg and "<style" not in svg
    assert 'aria-label="Dice of &quot;a&quot; &amp; &lt;b>"' in svg
