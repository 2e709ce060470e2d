"""The language model in 8 and 4 bits: which weights, how far the logits move, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from datasets.errors import CheckpointError, InputError
from models import CTInstruct
from models.checkpoints.folder import FORMAT, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.released import save_released
from models.generation import generate
from models.language.loading import load_language_model
from models.language.quantization import QuantizedLinear, is_quantized, quantize, quantized_layers
from tests.launch import REPOSITORY, run_well
from tests.test_smollm2 import smollm2
from tests.tiny_model import collate, make_sample, tiny_ctinstruct

TEXT = (
    "The liver is the largest solid organ of the body and lies in the right upper abdomen. A CT of the chest without "
    "contrast shows a nodule in the left upper lobe, measuring eight millimetres, and no pleural effusion."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = tiny_ctinstruct().eval()
    return save_checkpoint(model, tmp_path_factory.mktemp("quantization") / "model")


def relative_error(found, exact) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm())


@pytest.mark.parametrize(("scheme", "bound"), [("int8", 0.008), ("int4", 0.13)])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 64), (96, 4112)], ids=["small", "tall"])
def test_a_weight_becomes_as_small_as_it_should_and_stays_near(scheme, bound, inputs, outputs):
    layer = nn.Linear(inputs, outputs, dtype=torch.bfloat16, device="meta")
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs).bfloat16()
    quantized = QuantizedLinear(layer, scheme)
    quantized.weight = nn.Parameter(quantize(weight, scheme), requires_grad=False)
    quantized.bias = nn.Parameter(bias)
    bits = {"int8": 8, "int4": 4}[scheme]
    assert quantized.weight.qdata.nbytes == weight.numel() * bits // 8
    for shape in [(1, 1), (5, 1), (2, 30)]:  # of one step, of five beams, of a prompt: kernels differ
        x = torch.randn(*shape, inputs).bfloat16()
        exact = nn.functional.linear(x.float(), weight.float(), bias.float())
        output = quantized(x)
        assert output.shape == exact.shape and output.dtype == torch.bfloat16
        assert relative_error(output, exact) < bound + 0.004, shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("scheme", "bound"), [("int8", 0.03), ("int4", 0.3)])
def test_logits_of_a_loaded_model_stay_near_and_only_the_decoder_changes(folder, scheme, bound, dtype):
    exact = load_checkpoint(folder, dtype=dtype)
    model = load_checkpoint(folder, dtype=dtype, quantize=scheme)
    decoder = {name for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    assert len(decoder) == 2 * 7 and all(name.startswith("language_model.model.layers.") for name in decoder)
    others = {name: value for name, value in exact.state_dict().items() if name.rpartition(".")[0] not in decoder}
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in others.items())
    ids = torch.tensor([model.tokenizer("Where is the liver? It is on the left side. What changed?").input_ids])
    with torch.inference_mode():
        error = relative_error(model.language_model(input_ids=ids).logits, exact.language_model(input_ids=ids).logits)
    print(scheme, dtype, error)
    assert error < bound


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantised_model_answers_with_text_masks_and_confidences(folder, scheme):
    model = load_checkpoint(folder, dtype=torch.bfloat16, quantize=scheme)
    batch = collate([make_sample("segmentation", model.tokenizer, answered=False)], model.tokenizer)
    answers = generate(model, batch, num_beams=3, max_new_tokens=4)
    assert len(answers) == 1 and len(answers[0].token_ids) <= 4


def test_int8_takes_a_layer_of_any_size():
    """The fast kernel for a few rows is wrong where the inputs are no multiple of 16, and is not used there."""
    weight = torch.randn(7, 40)
    quantized = QuantizedLinear(nn.Linear(40, 7, bias=False, device="meta"), "int8")
    quantized.weight = nn.Parameter(quantize(weight, "int8"), requires_grad=False)
    x = torch.randn(3, 40)
    assert relative_error(quantized(x), x @ weight.T) < 0.012


def test_a_released_folder_is_quantised_as_ours_is(tmp_path, folder):
    save_released(load_checkpoint(folder), tmp_path)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        ours, released = (
            load_checkpoint(path, quantize="int8").language_model(input_ids=ids).logits for path in (folder, tmp_path)
        )
        by_name = CTInstruct.from_pretrained(folder, quantize="int8").language_model(input_ids=ids).logits
    assert torch.equal(ours, released) and torch.equal(ours, by_name)


def test_a_quantised_model_is_not_saved(tmp_path, folder):
    model = load_checkpoint(folder, quantize="int8")
    assert is_quantized(model)
    with pytest.raises(CheckpointError, match="load it without --quantize"):
        save_checkpoint(model, tmp_path)


def test_an_adapter_is_not_quantised(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT, "lora": {}}))
    with pytest.raises(InputError, match=r"--quantize int8: .* is an adapter; merge it first"):
        load_checkpoint(tmp_path, quantize="int8")


@pytest.mark.slow
def test_the_script_answers_with_a_quantised_model(tmp_path, folder):
    image = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"
    options = ["--checkpoint", folder, "--image", image, "--question", "Where?", "--output", tmp_path]
    run_well("evaluate_CTInstruct.py", *options, "--quantize", "int4", "--num_beams", "1", "--max_new_tokens", "4")
    assert (tmp_path / "answer.txt").is_file()


def test_int4_is_left_out_where_the_kernel_does_not_take_the_sizes():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fits, self.narrow = nn.Linear(64, 32), nn.Linear(40, 32)

        def get_output_embeddings(self):
            return None

    model = Model()
    convert = quantized_layers(model, "int4")
    assert isinstance(model.fits, QuantizedLinear) and type(model.narrow) is nn.Linear
    weight = torch.randn(32, 40)
    assert convert("narrow.weight", weight) is weight
    model.fits = nn.Identity()
    with pytest.raises(InputError, match="--quantize int4: the language model has no linear layer"):
        quantized_layers(model, "int4")


def shuffled(model: nn.Module) -> None:
    """Renumber hidden units, which changes no output.

    The file of the test holds weights in 4 bits, in groups of 32 along a row: another rounding in the very same groups
    would find them exact.
    """
    width, inner = model.config.hidden_size, model.config.intermediate_size
    residual, hidden = torch.randperm(width), torch.randperm(inner)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            last = name.split(".")[-2]
            if last in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"):
                weight.copy_(weight[:, residual])
            if last in ("o_proj", "down_proj"):
                weight.copy_(weight[residual])
            if last.endswith("norm"):
                weight.copy_(weight[residual])
            if last in ("gate_proj", "up_proj"):
                weight.copy_(weight[hidden])
            if last == "down_proj":
                weight.copy_(weight[:, hidden])


@pytest.mark.slow
def test_error_of_logits_against_bf16_on_smollm2():
    """SmolLM2-135M, real weights: relative error of the logits, and divergence of the next token (nats a token)."""
    source, tokenizer = load_language_model(str(smollm2()))
    exact = AutoModelForCausalLM.from_config(source.config, dtype=torch.float32)
    exact.load_state_dict(source.state_dict())
    exact.tie_weights()
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        before = exact(input_ids=ids).logits
        shuffled(exact)
        assert relative_error(exact(input_ids=ids).logits, before) < 1e-4
        reference = exact.bfloat16()(input_ids=ids).logits[0].float()
    expected = reference.log_softmax(-1)
    for scheme, most_error, most_divergence in (("int8", 0.08, 0.02), ("int4", 0.6, 0.6)):
        model = AutoModelForCausalLM.from_config(source.config, dtype=torch.bfloat16)
        convert = quantized_layers(model, scheme)
        model.load_state_dict({name: convert(name, value) for name, value in exact.state_dict().items()}, assign=True)
        model.tie_weights()
        with torch.no_grad():
            found = model(input_ids=ids).logits[0].float()
        error, given = relative_error(found, reference), found.log_softmax(-1)
        divergence = float((expected.exp() * (expected - given)).sum(-1).mean())
        same = float((found.argmax(-1) == reference.argmax(-1)).float().mean())
        print(f"{scheme}: relative error {error:.4f}, divergence {divergence:.4f}, same next token {same:.3f}")
        assert error < most_error and divergence < most_divergence, scheme
