"""Language models of other families, from folders and from a GGUF file, in the place of Qwen2-VL."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from models.checkpoint import main
from models.checkpoints.folder import build_ctinstruct, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.generation import generate
from models.language.loading import load_language_model
from models.language.lora import LoraSettings, add_lora
from tests.tiny_model import VISION, collate, make_sample, tiny_tokenizer
from training.snapshot import snapshot

FAMILIES = {
    "Llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),  # as SmolLM2
    "Qwen2.5": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": True, "head_dim": 16}),
}


def random_model(family: str, tokenizer, vocabulary: int):
    config_class, model_class, more = FAMILIES[family]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    torch.manual_seed(0)
    return model_class(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request, tmp_path_factory, tokenizer) -> Path:
    """A language model as a hub gives it, without our tokens' rows: they have to be added."""
    path = tmp_path_factory.mktemp("language_model")
    random_model(request.param, tokenizer, len(tokenizer) - 10).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def ctinstruct(name):
    language_model, tokenizer = load_language_model(str(name))
    torch.manual_seed(1)
    return build_ctinstruct(VISION, language_model, tokenizer).eval()


def test_a_batch_of_different_lengths_is_the_mean_of_its_samples(folder):
    model = ctinstruct(folder)
    assert model.language_model.get_input_embeddings().num_embeddings >= len(model.tokenizer)
    samples = [make_sample(kind, model.tokenizer, 1) for kind in ("two_volumes", "diagnosis", "segmentation")]
    with torch.no_grad():
        together = model(collate(samples, model.tokenizer)).loss
        singles = [model(collate([sample], model.tokenizer)).loss for sample in samples]
    assert together.item() == pytest.approx(torch.stack(singles).mean().item(), rel=1e-5)


def test_answers_and_checkpoints(folder, tmp_path):
    model = ctinstruct(folder)
    questions = [make_sample(kind, model.tokenizer, 2, answered=False) for kind in ("two_volumes", "open_vqa")]
    together = generate(model, collate(questions, model.tokenizer), num_beams=2, max_new_tokens=6)
    for question, prediction in zip(questions, together, strict=True):
        alone = generate(model, collate([question], model.tokenizer), num_beams=2, max_new_tokens=6)[0]
        assert prediction.token_ids.tolist() == alone.token_ids.tolist()
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_lora_with_tied_and_untied_embeddings_merges(folder, tmp_path):
    language_model, tokenizer = load_language_model(str(folder))
    settings = LoraSettings(str(folder), rank=4, dropout=0.0)
    model = build_ctinstruct(VISION, add_lora(language_model, tokenizer, settings), tokenizer).eval()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = collate([make_sample("segmentation", tokenizer)], tokenizer)
    for _ in range(2):
        optimiser.zero_grad()
        model(batch).loss.backward()
        optimiser.step()
    save_checkpoint(model, tmp_path / "adapter")
    save_checkpoint(snapshot(model), tmp_path / "copy")  # as a save in the background does
    for file in (tmp_path / "adapter").iterdir():
        assert file.read_bytes() == (tmp_path / "copy" / file.name).read_bytes(), file.name
    with torch.no_grad():
        expected = model(batch).loss.item()
        assert load_checkpoint(tmp_path / "adapter")(batch).loss.item() == pytest.approx(expected, rel=1e-5)
        assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 0
        merged = load_checkpoint(tmp_path / "merged")
        assert merged(batch).loss.item() == pytest.approx(expected, rel=1e-4)
    embeddings, output = merged.language_model.get_input_embeddings(), merged.language_model.get_output_embeddings()
    assert (embeddings.weight is output.weight) == language_model.config.tie_word_embeddings


def write_gguf(path: Path, model: Qwen2ForCausalLM, tokenizer) -> None:
    """By the names of the GGUF specification; weights in float32."""
    config, backend = model.config, json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = [token for token, _ in sorted(backend["vocab"].items(), key=lambda item: item[1])]
    writer.add_token_list(tokens)
    special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in backend["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in parts.items()}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names[module]}.{kind}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_logits_of_the_model_that_was_written(tmp_path, tokenizer):
    vocabulary = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    source = random_model("Qwen2.5", tokenizer, vocabulary)
    write_gguf(tmp_path / "tiny.gguf", source, tokenizer)
    model = ctinstruct(tmp_path / "tiny.gguf")
    text = "Where is the liver?"
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert model.tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        expected = source(input_ids=ids).logits
        given = model.language_model(input_ids=ids).logits[..., :vocabulary]
        assert torch.allclose(given, expected, atol=1e-5)
        batch = collate([make_sample("segmentation", model.tokenizer)], model.tokenizer)
        loss = model(batch).loss.item()
        save_checkpoint(model, tmp_path / "saved")
        assert load_checkpoint(tmp_path / "saved")(batch).loss.item() == pytest.approx(loss, rel=1e-5)
