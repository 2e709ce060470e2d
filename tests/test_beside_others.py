"""`benchmarks.peers`: windows counted by hand, both searches' tokens, operations in closed form, and what is left
out."""

from __future__ import annotations

import json
from itertools import product
from math import prod
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.machine import Machine
from benchmarks.own_process import json_of_process
from benchmarks.peers import __main__ as command
from benchmarks.peers import organs
from benchmarks.peers.encoders import contestant, encoder_row
from benchmarks.peers.generation import our_answer, question, their_answer, transformers_own
from benchmarks.peers.measurements import MEASUREMENTS, NNUNET, Extent, names_of
from benchmarks.peers.nnunet import (
    MISSING,
    LogitSums,
    NnUNetPlan,
    add_logits,
    build_network,
    empty_sums,
    installed,
    offsets_of,
    on_grid,
    to_source,
    windows_of,
)
from benchmarks.peers.rows import PeerRow
from benchmarks.peers.table import bar_plot, part_table
from benchmarks.same_tokens import agreement
from benchmarks.segmentation_peer.network import parameter_count
from benchmarks.stages_language import model_of
from models.configuration import ENCODER_NAMES, vision_preset

SMALL = NnUNetPlan(window=(16, 16, 16), channels=(4, 8, 8), structures=(2, 3))
WIDTHS, STRIDES = (64, 256, 512, 1024, 2048), (2, 4, 8, 16, 32)  # of ResNet-50's maps
needs_nnunet = pytest.mark.skipif(not installed(), reason="dynamic-network-architectures is not installed")


@pytest.fixture
def small_ct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(organs, "QUICK_SHAPE", (48, 48, 20))  # 24 x 24 x 20 voxels of 1.5 mm


def starts_of(size: int, edge: int) -> list[int]:
    """First voxels of windows along an axis, one half edge after the other, the last one moved back to the end."""
    starts = [0]
    while starts[-1] + edge < size:
        starts.append(min(starts[-1] + edge // 2, size - edge))
    return starts


@pytest.mark.parametrize("shape", [(200, 200, 160), (128, 128, 128), (129, 192, 193), (333, 128, 257)])
def test_windows_are_those_counted_by_hand(shape: tuple[int, int, int]) -> None:
    window = (128, 128, 128)
    places = [tuple(part.start for part in place) for place in windows_of(shape, window)]
    assert sorted(places) == sorted(product(*(starts_of(size, 128) for size in shape)))
    if shape == (200, 200, 160):
        assert len(places) == 18 == organs.window_count(quick=False)


def test_means_of_windows_are_what_each_window_says_where_all_agree() -> None:
    voxels = torch.randn(24, 17, 16, generator=torch.Generator().manual_seed(0))

    def network(window: Tensor) -> Tensor:
        return torch.cat([window, 3 - 2 * window], dim=1)

    sums = empty_sums(voxels, (16, 16, 16), 2)
    add_logits(network, voxels, windows_of(voxels.shape, (16, 16, 16)), sums)
    assert sums.weight.min() > 0
    torch.testing.assert_close(
        (sums.logits / sums.weight).float(), torch.stack([voxels, 3 - 2 * voxels]), atol=0.02, rtol=0.01
    )


def test_the_ct_comes_to_voxels_of_the_plan_and_labels_go_back() -> None:
    plan = NnUNetPlan()
    assert on_grid(torch.zeros(400, 400, 160), (0.75, 0.75, 1.5), plan).shape == (200, 200, 160)
    voxels = torch.zeros(60, 40, 30)
    voxels[30:] = 1
    grid = on_grid(voxels, (1.5, 3.0, 1.5), SMALL)
    assert grid.shape == (60, 80, 30)
    assert torch.equal(to_source((grid > 0.5).byte(), voxels.shape, (1.5, 3.0, 1.5), SMALL), voxels.byte())
    thin = on_grid(voxels[..., :5], (1.5, 1.5, 1.5), SMALL)  # as long as a window at least
    assert thin.shape == (60, 40, 16) and not thin[..., :5].any() and not thin[..., 10:].any()
    assert torch.equal(to_source((thin > 0.5).byte(), (60, 40, 5), (1.5,) * 3, SMALL), voxels[..., :5].byte())


def test_labels_of_five_networks_are_those_of_117_structures() -> None:
    labels = [offset + 1 + number for count, offset in offsets_of(NnUNetPlan()) for number in range(count)]
    assert labels == list(range(1, 118))


@needs_nnunet
def test_the_network_is_of_the_planned_size() -> None:
    network = build_network(SMALL, 2)
    convolutions = [
        module for module in network.modules() if type(module) is torch.nn.Conv3d and module.kernel_size[0] == 3
    ]
    assert len({id(module) for module in convolutions}) == 2 * 3 + 2 * 2, "two a stage, on the way down and up"
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@needs_nnunet
def test_what_is_scaled_is_said(small_ct: None) -> None:
    whole, share = organs.by_nnunet(True, None, SMALL), organs.by_nnunet(True, 3, SMALL)
    count = len(starts_of(24, 16)) ** 2 * len(starts_of(20, 16))
    assert whole.note.startswith(f"2 networks, {count} windows each") and "scaled" not in whole.note
    assert share.note.endswith(f"3 of {count} windows, scaled")
    assert "5 structures" in whole.name and whole.group == "36 × 36 × 30 mm"


@needs_nnunet
def test_windows_alone_are_scaled(small_ct: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of 1 s a reading, and 10 s for making a network's sums: six spans beside two of three windows each."""
    passed = [0.0]

    def now() -> float:
        passed[0] += 1
        return passed[0]

    def slow_sums(*given: Any) -> LogitSums:
        passed[0] += 10
        return empty_sums(*given)

    monkeypatch.setattr(organs, "now", now)
    monkeypatch.setattr(organs, "empty_sums", slow_sums)
    count = len(starts_of(24, 16)) ** 2 * len(starts_of(20, 16))
    assert organs.by_nnunet(True, 3, SMALL).figures["seconds"] == pytest.approx(6 + 2 * 10 + 2 * count / 3)
    assert organs.by_nnunet(True, None, SMALL).figures["seconds"] == pytest.approx(6 + 2 * 10 + 2)


def tiny_peers() -> tuple:
    model = model_of("tiny").float()
    with torch.no_grad():  # with weights as small as they are drawn, a prompt's answer is one token again and again
        for weight in model.language_model.parameters():
            weight *= 5 if weight.ndim == 2 else 1
    model.tokenizer.eos_token = model.tokenizer.pad_token
    return model, transformers_own(model)


@torch.inference_mode()
def test_both_searches_find_the_same_tokens() -> None:
    model, peer = tiny_peers()
    batch = question(model, 40)
    for beams in (1, 5):
        theirs = their_answer(peer, batch, beams, 8, model.tokenizer.eos_token_id).tolist()
        assert len(set(theirs)) > 4
        assert agreement(our_answer(model, batch, beams, 8).tolist(), theirs) == "the same 8 tokens"
    model.language_model.lm_head.weight.neg_()
    answers = our_answer(model, batch, 1, 8).tolist(), their_answer(peer, batch, 1, 8, 0).tolist()
    assert agreement(*answers) == "the same first 0 of 8 tokens"


def test_agreement_in_words() -> None:
    answer = [4, 5, 6, 7]
    assert agreement(answer, answer) == "the same 4 tokens"
    assert agreement(answer, [4, 5, 9, 7]) == "the same first 2 of 4 tokens"
    assert agreement(answer[:3], answer) == "the same first 3 of 4 tokens"


def test_encoders_see_as_many_voxels() -> None:
    assert {prod(vision_preset("full", name).crop_size) for name in ENCODER_NAMES} == {128**3}


def test_figures_of_a_transformer_are_those_of_its_closed_form() -> None:
    row, config = encoder_row("ViT3D", quick=True, size="tiny"), vision_preset("tiny", "ViT3D")
    tokens, width = prod(size // config.vit_patch for size in config.crop_size), config.vit_width
    layer = (
        12 * tokens * width**2 + 2 * tokens**2 * width
    )  # queries, keys, values, output; 4 x width and back; attention
    embedding = tokens * config.vit_patch**3 * width
    assert row.figures["multiply_adds"] == pytest.approx((config.vit_depth * layer + embedding) / 1e9, rel=1e-3)
    assert row.ours and row.figures["forward"] > 0 and row.figures["both"] > 0


def test_peers_are_of_their_published_size() -> None:
    """Swin UNETR's encoder with 48 channels has 8.1 million parameters, ResNet-50 in 3D 46.2 (MedicalNet)."""
    swin, _ = contestant("MONAI SwinUNETR", "tiny")
    resnet, _ = contestant("MONAI ResNet-50", "tiny")
    assert parameter_count(swin) == pytest.approx(8.06e6, rel=0.01)
    assert parameter_count(resnet) == pytest.approx(46.2e6, rel=0.01)


def test_resnets_of_both_sides_give_the_same_maps() -> None:
    network, theirs = contestant("MONAI ResNet-50", "tiny")
    network.to(measure.precision())
    encoder, ours = contestant("ResNet3D", "tiny")
    encoder.to(measure.precision())
    edge = vision_preset("tiny", "ViT3D").crop_size[0]
    shapes = [(1, channels, *(edge // stride,) * 3) for channels, stride in zip(WIDTHS, STRIDES, strict=True)]
    for _ in range(2):  # a second pass must not add to the first one's
        assert [tuple(one.shape) for one in theirs()] == shapes
    assert [tuple(one.shape)[2:] for one in ours()[1:]] == [shape[2:] for shape in shapes]
    assert all(one.requires_grad for one in theirs())


def test_ratios_are_to_the_first_row_of_a_group() -> None:
    rows = [
        PeerRow("a", "peer", False, {"seconds": 10.0, "peak_gib": 2.0}, "18 windows"),
        PeerRow("a", "ours", True, {"seconds": 2.5, "peak_gib": 4.0}),
        PeerRow("b", "peer", False, {"seconds": 3.0}),
    ]
    lines = part_table(rows).splitlines()
    assert lines[0] == "|  | s | peak GiB |  |"
    assert lines[2:] == [
        "| peer | 10.0 | 2.0 | 18 windows |",
        "| ours | 2.5 (0.25×) | 4.0 |  |",
        "| peer | 3.0 |  |  |",
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the measurements that processes would have been started for."""
    names: list[str] = []

    def answered(module: str, arguments: list[str]) -> tuple[list[dict], str]:
        names.append(arguments[1])
        return [vars(PeerRow("CT", arguments[1], True, {"seconds": 1.0}))], ""

    monkeypatch.setattr(command, "json_of_process", answered)
    monkeypatch.setattr(command.machine, "about", lambda: Machine("a machine", 1e12, None))
    return names


def test_without_the_package_one_line_says_so(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.peers.nnunet.find_spec", lambda name: None)
    assert command.main(["--parts", "organs", "--quick", "--output", str(tmp_path)]) == 0
    assert asked == ["60 masks"]
    assert "\n" not in MISSING and capsys.readouterr().out.splitlines()[0] == MISSING
    text = (tmp_path / "peers.md").read_text()
    assert text.startswith("a machine\n") and text.endswith(f"| 60 masks | 1.0 |  |\n\n{MISSING}\n")
    assert json.loads((tmp_path / "peers.json").read_text())["parts"]["All organs of a CT of 150 × 150 × 120 mm"]
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_the_larger_language_models_are_on_request(asked: list[str], tmp_path: Path) -> None:
    assert command.main(["--output", str(tmp_path)]) == 0
    assert set(asked) == set(MEASUREMENTS) - {"135M", "2B"} - ({NNUNET} if not installed() else set())
    assert names_of("organs", Extent(), nnunet_installed=True) == [NNUNET, "60 masks", "117 masks"]


@pytest.mark.parametrize("windows", ["0", "19"])
def test_more_windows_than_there_are_are_refused(windows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--windows", windows]) == 2
    assert capsys.readouterr().err == f"error: --windows {windows}: nnU-Net has 18 on this CT; give 1 to 18\n"


def test_a_plot_of_one_figure_alone(tmp_path: Path) -> None:
    bar_plot([PeerRow("a", "b", True, {"tokens_a_second": 3.0})], "a machine", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_a_process_gives_its_json_or_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"name": 1}]')
    assert json_of_process("json.tool", ["--compact", str(tmp_path / "rows.json")]) == ([{"name": 1}], "")
    (tmp_path / "rows.json").write_text("[")
    result, error = json_of_process("json.tool", [str(tmp_path / "rows.json")])
    assert result is None and error.startswith("Expecting value")


def test_the_clock_of_the_processor_stands_still_in_sleep() -> None:
    measure.choose_clock("cpu")
    try:
        begun = measure.now()
        sleep(0.3)
        slept = measure.now() - begun
        assert slept < 0.15
    finally:
        measure.choose_clock("wall")
    begun = measure.now()
    sleep(0.05)
    assert measure.now() - begun >= 0.05
