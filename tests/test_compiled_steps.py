"""Steps that are compiled over a static cache: answers are those of the present way, token by token.

torch.compile traces as always here, and then runs the traced graph as it is; the inductor is for a slow test.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CompileConfig, MistralConfig, MistralForCausalLM, StaticCache
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

import evaluate_CTInstruct
from models import CTInstruct as Pretrained
from models.answering.predicting import GenerationOptions, predict
from models.answering.recent_volumes import RecentEncodings
from models.checkpoints.folder import build_ctinstruct, save_checkpoint
from models.compiled_steps import StepCache, compile_steps, compiled_steps
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.language.loading import build_language_model
from models.language.lora import LoraSettings, add_lora
from models.language.quantization import quantized_layers
from tests.test_prompt_cache import KINDS, answers, of_family, questions
from tests.test_prompt_prefixes import mixed
from tests.test_qwen_families import TEXT
from tests.tiny_model import VISION, collate, make_sample, tiny_ctinstruct, tiny_tokenizer

AS_TRACED = CompileConfig(backend="eager", mode=None, fullgraph=True)
SHAPES = {"Qwen2-VL": (Qwen2VLTextConfig, {}), "Qwen3-VL": (Qwen3VLTextConfig, {"head_dim": 16})}


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Models of one class share what was compiled, of which torch keeps a few."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged here; torch tells of every trace."""
    return [record.getMessage() for record in caplog.records if record.name == "models.compiled_steps"]


def tiny() -> CTInstruct:
    return tiny_ctinstruct().eval()


def adapted() -> CTInstruct:
    model = tiny()
    language_model = add_lora(model.language_model, model.tokenizer, LoraSettings("somewhere"))
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in language_model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    other = build_ctinstruct(VISION, language_model, model.tokenizer)
    other.vision = model.vision
    return other.eval()


def of_shape(name: str) -> CTInstruct:
    """Weights of `tests.test_qwen_families`, five times as large, so that answers vary."""
    config_class, more = SHAPES[name]
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    language_model = build_language_model(config_class(**{**TEXT, **more, **ends, "vocab_size": len(tokenizer)}))
    with torch.no_grad():
        for weight in language_model.parameters():
            weight *= 5 if weight.ndim == 2 else 1
    return build_ctinstruct(VISION, language_model, tokenizer).eval()


BUILDS = {
    "tiny": tiny,
    "adapted": adapted,
    "Llama": lambda: of_family("Llama"),
    **{name: lambda n=name: of_shape(n) for name in SHAPES},
}


@pytest.mark.parametrize("name", BUILDS)
def test_answers_are_those_without_compiled_steps(name, caplog) -> None:
    model = BUILDS[name]()
    batch = questions(model, *KINDS)
    assert batch.attention_mask.min() == 0, "some rows are padded"
    expected = [answers(model, batch, beams, 12) for beams in (1, 5)]
    assert all(len({tuple(tokens) for tokens in found}) > 1 for found in expected), "questions are not answered alike"
    compile_steps(model.language_model, AS_TRACED)
    assert [answers(model, batch, beams, 12) for beams in (1, 5)] == expected
    assert compiled_steps(model.language_model).compiled and not told(caplog)


def test_a_step_is_compiled_once_and_runs_on_tensors_that_stay(caplog) -> None:
    model = tiny()
    compiled, runs = [], []

    def backend(graph, _):
        compiled.append(graph)
        return lambda *given: runs.append(given) or graph(*given)

    compile_steps(model.language_model, CompileConfig(backend=backend, mode=None, fullgraph=True))
    steps = compiled_steps(model.language_model)
    first, second = questions(model, "open_vqa"), questions(model, "two_volumes")
    assert first.input_ids.shape != second.input_ids.shape
    places = []
    for batch in (first, second):
        runs.clear()
        found = generate(model, batch, 1, 6)[0].token_ids
        # the prompt gives the first token; a pass, the last one, for the end of an answer that ends early
        assert len(runs) == min(len(found) + 1, 6) - 1 > 0
        places.append([states.data_ptr() for cache in steps._caches.values() for states in cache.tensors()[-1]])
    assert len(compiled) == 1 and places[0] == places[1]
    assert "forward" not in vars(model.language_model), "other passes are as they were"
    assert not told(caplog)


def test_a_cache_that_is_full_is_replaced_by_a_larger_one() -> None:
    model = tiny()
    sample = make_sample("text_only", model.tokenizer, answered=False)
    length = 31  # the first token fills 31 of 32 columns
    batch = collate([replace(sample, prompt_ids=(sample.prompt_ids * length)[:length])], model.tokenizer)
    model.tokenizer.eos_token = model.tokenizer.pad_token  # no answer ends early
    expected = [answers(model, batch, beams, 40) for beams in (1, 5)]
    compile_steps(model.language_model, AS_TRACED, columns=8)
    assert [answers(model, batch, beams, 40) for beams in (1, 5)] == expected
    caches = compiled_steps(model.language_model)._caches
    assert {rows: cache.columns for (rows, *_), cache in caches.items()} == {1: 128, 5: 128}
    assert [len(found) for (found,) in expected] == [40, 40]


def test_beams_change_places_as_transformers_has_them() -> None:
    config = tiny().language_model.config
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 2, 3, 32, generator=generator).expand(6, -1, -1, -1)  # of one question and all its beams
    states = torch.cat([shared, torch.randn(6, 2, 4, 32, generator=generator)], dim=2)
    ours, theirs = StepCache(config, 16), StaticCache(config=config, max_cache_len=16)
    layers = [(states, states + 1), (states + 2, states + 3)]
    ours.fill(layers, common=3)
    for index, layer in enumerate(layers):
        theirs.update(*layer, index)
    places = [held.data_ptr() for layer in ours.tensors() for held in layer]
    beams = torch.tensor([0, 0, 5, 1, 4, 4])
    ours.reorder_cache(beams)
    theirs.reorder_cache(beams)
    for (keys, values), expected in zip(ours.tensors(), theirs.layers, strict=True):
        assert torch.equal(keys, expected.keys) and torch.equal(values, expected.values)
    assert not torch.equal(ours.tensors()[0][0][:, :, :7], states), "something was moved"
    assert [held.data_ptr() for layer in ours.tensors() for held in layer] == places
    bigger = ours.grown()
    assert bigger.columns == 32 and int(bigger.get_seq_length()) == bigger.filled == 7
    assert torch.equal(bigger.tensors()[1][1][:, :, :16], ours.tensors()[1][1])


@pytest.mark.parametrize("beams", [1, 5])
def test_questions_that_share_a_prompt_are_answered_alike(beams) -> None:
    model = tiny()
    samples, options = mixed(model), GenerationOptions(beams, 8)

    def found() -> list[list[int]]:
        encodings = RecentEncodings(model)
        apart = [predict(model, [sample], options, encodings)[0] for sample in samples]
        return [answer.prediction.token_ids.tolist() for answer in [*apart, *predict(model, samples, options)]]

    expected = found()
    compile_steps(model.language_model, AS_TRACED)
    assert found() == expected


def test_sampled_and_streamed_answers_are_the_same() -> None:
    model = tiny()
    model.language_model.generation_config.do_sample = True
    samples = [make_sample("segmentation", model.tokenizer, 3, answered=False)]

    def found() -> list[list[int]]:
        streamed: list[int] = []

        class Streamer:
            def put(self, value) -> None:
                streamed.extend(value.flatten().tolist())

            def end(self) -> None:
                pass

        options = GenerationOptions(1, 8, "release", seed=3)
        (answer,) = predict(model, samples, options, streamer=Streamer())
        return [answer.prediction.token_ids.tolist(), streamed]

    expected = found()
    assert expected[0] == expected[1][: len(expected[0])]
    compile_steps(model.language_model, AS_TRACED)
    assert found() == expected


@pytest.mark.parametrize("beams", [1, 2])
def test_masks_are_those_of_the_same_tokens(beams) -> None:
    model = tiny()
    batch = questions(model, "two_structures", "text_only")
    forced = [model.segmentation_id, 20, model.segmentation_id, 21]
    search = model.language_model.generate
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[len(given) % 4]]
    )
    expected = generate(model, batch, beams, 4)[0]
    compile_steps(model.language_model, AS_TRACED)
    found = generate(model, batch, beams, 4)[0]
    assert found.token_ids.tolist() == expected.token_ids.tolist() == forced
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-3)


def with_a_sliding_window() -> CTInstruct:
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(**sizes, vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=8)
    torch.manual_seed(0)
    return build_ctinstruct(VISION, MistralForCausalLM(config), tokenizer).eval()


def quantised() -> CTInstruct:
    model = tiny()
    convert = quantized_layers(model.language_model, "int8")
    state = {name: convert(name, weight) for name, weight in tiny().language_model.state_dict().items()}
    model.language_model.load_state_dict(state, assign=True)
    return model


def searched_for_otherwise() -> CTInstruct:
    model = tiny()
    model.language_model.generation_config.prompt_lookup_num_tokens = 3
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (with_a_sliding_window, "the language model has sliding windows"),
        (quantised, "the language model is quantised"),
        (searched_for_otherwise, "its generation_config asks for assisted_generation"),
    ],
)
def test_what_cannot_be_compiled_is_told_in_a_line_and_answers_as_before(build, reason, caplog) -> None:
    model = build()
    compile_steps(model.language_model, AS_TRACED)
    assert compiled_steps(model.language_model) is None
    (line,) = told(caplog)
    assert line.startswith(f"answers are decoded without compiled steps: {reason}")
    batch = questions(model, "open_vqa")
    expected = answers(build(), batch, 1, 4)
    assert answers(model, batch, 1, 4) == expected


def test_without_a_compiler_answers_go_on_from_where_they_are(caplog) -> None:
    model = tiny()
    batch = questions(model, *KINDS)
    expected = [answers(model, batch, 5, 8), answers(model, batch, 1, 8)]

    def backend(graph, _):
        raise RuntimeError("no C++ compiler\nwas found")

    compile_steps(model.language_model, CompileConfig(backend=backend, mode=None, fullgraph=True))
    assert [answers(model, batch, 5, 8), answers(model, batch, 1, 8)] == expected
    (line,) = told(caplog)
    assert "without compiled steps from here on" in line and "no C++ compiler was found" in line and "\n" not in line
    assert not compiled_steps(model.language_model).compiled


def test_it_is_off_unless_asked_for(tmp_path, monkeypatch) -> None:
    folder = save_checkpoint(tiny(), tmp_path / "model")
    loaded = []
    monkeypatch.setattr(evaluate_CTInstruct, "evaluate_one", lambda _, model, *others: loaded.append(model))
    image = str(evaluate_CTInstruct.Path(__file__).parents[1] / "data/instruction_sft/volumes/example_phantom.nii.gz")
    words = ["--checkpoint", str(folder), "--image", image, "--question", "?", "--output", str(tmp_path / "out")]
    for more in ([], ["--compile"]):
        monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *words, *more])
        evaluate_CTInstruct.main()
    loaded += [Pretrained.from_pretrained(folder, **given) for given in ({}, {"compile": True})]
    assert [compiled_steps(model.language_model) is not None for model in loaded] == [False, True] * 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_answers_of_compiled_code_are_the_same(caplog) -> None:
    model = tiny()
    batch = questions(model, *KINDS)
    expected = [answers(model, batch, beams, 12) for beams in (1, 5)]
    compile_steps(model.language_model)
    assert [answers(model, batch, beams, 12) for beams in (1, 5)] == expected
    assert compiled_steps(model.language_model).compiled and not told(caplog)
