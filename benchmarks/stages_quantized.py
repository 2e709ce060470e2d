"""Stage of the language model in 8 bits: seconds a token beside the same model in the type that answers have."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks.measure import Aim, Row, best_seconds, peak_gib, precision
from benchmarks.stages_language import model_of, prompt_of
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.language.quantization import Quantization, quantized_layers

AIM = 1.5  # times as many tokens a second


def quantize_in_place(model: CTInstruct, scheme: Quantization) -> None:
    """The language model's linear layers become quantised ones; the model loads them so from a file elsewhere."""
    weights = {name: tensor.detach() for name, tensor in model.language_model.named_parameters()}
    convert = quantized_layers(model.language_model, scheme)
    for name, tensor in weights.items():
        module = model.language_model.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], nn.Parameter(convert(name, tensor), requires_grad=False))


def quantized_decoding(size: str, new_tokens: int) -> tuple[list[Row], list[Aim]]:
    """Greedy answers of the same random model, before and after it is quantised to int8."""
    model = model_of(size)
    batch = prompt_of(model)
    seconds: dict[str, float] = {}
    rows = []
    with torch.inference_mode():
        for name in (str(precision()).removeprefix("torch."), "int8"):
            if name == "int8":
                quantize_in_place(model, "int8")
            # less the prompt's own time
            whole, first = (best_seconds(partial(generate, model, batch, 1, n), repeats=2) for n in (new_tokens, 1))
            seconds[name] = (whole - first) / (new_tokens - 1)
            row = Row(f"a decoded token in {name}, {size}", seconds[name], peak_gib=peak_gib())
            row.note = f"{1 / seconds[name]:.1f} tokens/s"
            rows.append(row)
    before, after = seconds.values()
    return rows, [Aim(f"tokens a second in int8, of those in {next(iter(seconds))}, {size}", before / after, AIM, True)]
