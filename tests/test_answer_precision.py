"""In which type a model answers, and that bf16 on a CPU stays near float32, which stays what it was."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

import evaluate_CTInstruct
import serve_CTInstruct
from benchmarks import measure
from datasets.vocabulary import diseases_of
from evaluation.embed import __main__ as embedding
from evaluation.embed.embedders import load_embedder
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.pretrained_vision import save_pretraining
from models.language.diagnosis_heads import DiagnosisHeads
from models.precision import answer_dtype, cpu_multiplies_bf16
from tests.pretraining_samples import tiny_pretraining
from tests.test_asking import IMAGE
from tests.tiny_model import assert_equal_models, tiny_ctinstruct
from training import distributed

LABELS = ["liver", "spleen"]


def pretend(monkeypatch: pytest.MonkeyPatch, *capabilities: str, onednn: bool = True) -> None:
    """Let torch say that the CPU has these instructions, beside those of any CPU with AVX-512."""
    found = dict.fromkeys(("avx2", "avx512_f", "avx512_bw", "avx512_vnni", *capabilities), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"architecture": "x86_64", **found}))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_ctinstruct().eval(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[CTInstruct, CTInstruct]:
    """In float32 and in bf16."""
    return CTInstruct.from_pretrained(folder, precision="fp32"), CTInstruct.from_pretrained(folder, precision="bf16")


@pytest.mark.parametrize(
    ("capabilities", "onednn", "faster"),
    [
        ((), True, False),  # AVX-512 without products of bf16: oneDNN takes them and computes them by float32
        (("avx512_bf16",), True, True),
        (("amx_tile", "amx_bf16"), True, True),
        (("amx_tile", "amx_int8"), True, False),
        (("avx512_bf16",), False, False),  # a torch without oneDNN, or one that was told to leave AVX-512 alone
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(monkeypatch, folder, capabilities, onednn, faster):
    pretend(monkeypatch, *capabilities, onednn=onednn)
    dtype = torch.bfloat16 if faster else torch.float32
    assert cpu_multiplies_bf16() is faster and answer_dtype("auto", "cpu") == dtype
    assert next(CTInstruct.from_pretrained(folder, precision="auto").parameters()).dtype == dtype
    served = serve_CTInstruct.load_model(serve_CTInstruct.HyperParameters(checkpoint=str(folder)))
    assert next(served.parameters()).dtype == dtype
    assert load_embedder(str(folder)).made_with["precision"] == str(dtype)
    assert measure.precision() == dtype


def test_a_torch_that_does_not_tell_answers_in_float32(monkeypatch):
    pretend(monkeypatch, "amx_bf16")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert answer_dtype("auto", "cpu") == torch.float32


def test_what_is_asked_for_is_taken_on_any_cpu(monkeypatch):
    for capabilities in ((), ("amx_bf16",)):
        pretend(monkeypatch, *capabilities)
        assert answer_dtype("fp32", "cpu") == answer_dtype("autocast", "cpu") == torch.float32
        assert answer_dtype("bf16", "cpu") == torch.bfloat16
        assert answer_dtype("auto", "cuda:1") == answer_dtype("auto", "cpu", quantized=True) == torch.bfloat16


@pytest.mark.parametrize("first_in", [torch.float32, torch.bfloat16])
def test_all_ranks_answer_in_the_type_of_the_first(monkeypatch, folder, tmp_path, first_in):
    """This process stands for a later rank, on a node whose CPU would choose the other type."""
    pretend(monkeypatch, *(("amx_bf16",) if first_in == torch.float32 else ()))
    given = distributed.from_main
    monkeypatch.setattr(
        distributed,
        "from_main",
        lambda action: first_in if isinstance(own := action(), torch.dtype) else given(lambda: own),
    )
    loaded: list[object] = []
    monkeypatch.setattr(
        evaluate_CTInstruct, "evaluate_one", lambda _, model, *others: loaded.append(next(model.parameters()).dtype)
    )
    monkeypatch.setattr(embedding, "load_embedder", lambda *given: loaded.append(given[-1]) or load_embedder(*given))
    arguments = ["--checkpoint", str(folder), "--image", str(IMAGE), "--question", "?", "--output", str(tmp_path / "a")]
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments])
    evaluate_CTInstruct.main()
    (tmp_path / "images.txt").write_text(f"{IMAGE}\n")
    images = ["--images", str(tmp_path / "images.txt"), "--output", str(tmp_path / "b.safetensors")]
    assert embedding.main(["--checkpoint", str(folder), *images]) == 0
    assert loaded == [first_in, {torch.float32: "fp32", torch.bfloat16: "bf16"}[first_in]]


@pytest.mark.parametrize(("capabilities", "dtype"), [((), torch.float32), (("avx512_bf16",), torch.bfloat16)])
def test_the_evaluation_script_loads_in_the_type_of_the_machine(monkeypatch, folder, tmp_path, capabilities, dtype):
    pretend(monkeypatch, *capabilities)
    loaded = []
    monkeypatch.setattr(evaluate_CTInstruct, "evaluate_one", lambda settings, model, *others: loaded.append(model))
    arguments = ["--checkpoint", str(folder), "--image", str(IMAGE), "--question", "?", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments])
    evaluate_CTInstruct.main()
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {dtype}


def test_float32_is_what_was_stored_to_the_last_bit(monkeypatch, folder):
    pretend(monkeypatch, "amx_bf16")
    original = tiny_ctinstruct().eval()
    exact = CTInstruct.from_pretrained(folder, precision="fp32")
    assert_equal_models(exact, original)
    assert_equal_models(CTInstruct.from_pretrained(folder), original)  # none asked for: as stored
    with pytest.raises(ValueError, match="give one of the two"):
        CTInstruct.from_pretrained(folder, dtype=torch.float32, precision="auto")


def test_answers_in_bf16_are_near_those_in_float32(models):
    """Visual tokens, mask logits through the language model, and masks of the whole way."""
    exact, rounded = models
    studies = [model.study(IMAGE) for model in models]
    volumes = [study.encoded()[0] for study in studies]
    queries = torch.randn(3, exact.config.llm_width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = [model.vision.llm_tokens(volume) for model, volume in zip(models, volumes, strict=True)]
        logits = [model.vision.decode_masks(volume, queries) for model, volume in zip(models, volumes, strict=True)]
        for pair in (tokens, logits):
            ours, theirs = (values.float() for values in pair)
            assert 0 < float((ours - theirs).square().mean().sqrt() / ours.std()) < 0.05
    masks = [model.segment(IMAGE, LABELS).masks for model in models]
    for label in LABELS:
        ours, theirs = (found[label].array for found in masks)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours == theirs).mean() > 0.9  # the logits of an untrained model are all near 0
    assert next(rounded.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["CTInstruct", "pretraining"])
def test_embeddings_in_bf16_are_float32_and_near(folder, tmp_path, kind):
    if kind == "pretraining":
        folder = save_pretraining(tiny_pretraining().eval(), tmp_path / "pretraining")
    exact, rounded = (load_embedder(str(folder), precision=name).embed(str(IMAGE)) for name in ("fp32", "bf16"))
    assert exact.tokens.dtype == rounded.tokens.dtype == np.float32
    difference = np.sqrt(np.square(exact.tokens - rounded.tokens)[exact.valid].mean())
    assert 0 < difference < 0.05 * exact.tokens[exact.valid].std()


def test_confidences_of_bf16_are_not_rounded_to_it():
    torch.manual_seed(0)
    heads, hidden = DiagnosisHeads(64).bfloat16(), (20 * torch.randn(64)).bfloat16()
    weight, bias = (values.detach().double() for values in heads.heads["CT-RATE"].parameters())
    diseases = diseases_of("CT-RATE")
    exact = [float((hidden.double() * weight[row]).sum() + bias[row]) for row in range(len(diseases))]
    found = [float(heads.of_disease(hidden, disease, "CT-RATE")) for disease in diseases]
    assert found == pytest.approx(exact, abs=1e-4)
    assert max(abs(float(torch.tensor(value).bfloat16()) - value) for value in exact) > 1e-2  # what rounding would do
