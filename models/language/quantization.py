"""A language model for answering whose weights torchao holds in 8 or 4 bits; activations stay as they are.

Each linear layer of the decoder is quantised as its weight arrives from the file, so that the whole model is never in
memory.  Token embeddings and the output layer are left alone: embeddings are looked up and never multiplied, and errors
of the output layer are errors of the logits; at 7B the two are 2 of 15 GB.  Not for training, nor for saving.

int8: symmetric, a scale a row.  int4: asymmetric, a scale and a zero point for each 32 weights of a row; CPU only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.errors import InputError
from models.language.lora import LanguageModel

Quantization = Literal["int8", "int4"]
GROUP = 32  # weights that share a scale: torchao's finest for int4, at an eighth more memory than its coarsest
_KERNEL_OUTPUTS = 16  # outputs that torch's int4 kernel takes at a time
_KERNEL_INPUTS = 16  # torch's int8 kernel gives wrong numbers, or crashes, where the inputs are not a multiple of 16
_ROWS_AT_ONCE = 4096  # quantised together: the temporary copies are several times as large as what they are of
_FEW_ROWS = 8  # of an input: one step of a beam search


class QuantizedLinear(nn.Linear):
    """A linear layer that is built without numbers; `weight` is to be what `quantize` returns."""

    def __init__(self, layer: nn.Linear, scheme: Quantization) -> None:
        """With the sizes, type and device of ``layer``."""
        options = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, **options)
        self.scheme = scheme
        self.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), of the input's type."""
        if self.scheme == "int4":  # the kernel takes float32 as well, at a fiftieth of the speed
            return F.linear(input.bfloat16(), self.weight, self.bias).to(input.dtype)
        rows = math.prod(input.shape[:-1])
        if rows > _FEW_ROWS or input.device.type != "cpu" or self.in_features % _KERNEL_INPUTS:
            return F.linear(input, self.weight, self.bias)
        # torchao would make a floating-point copy of the whole weight, which takes far longer than so small a product
        weight: Any = self.weight
        product = torch._weight_int8pack_mm(
            input.reshape(rows, -1), weight.qdata, weight.scale.flatten().to(input.dtype)
        )
        output = product.reshape(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias


def quantize(weight: Tensor, scheme: Quantization) -> Tensor:
    """torchao's tensor for the weight (out, in) of a linear layer, in the type of the weight; int4's is bf16.

    Raises:
        InputError: int4 on an accelerator, where torchao's kernels are other ones.
    """
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.workflows import Int8Tensor

    if scheme == "int8":
        parts = [Int8Tensor.from_hp(rows, PerRow()) for rows in weight.split(_ROWS_AT_ONCE)]
        data, scale = torch.cat([part.qdata for part in parts]), torch.cat([part.scale for part in parts])
        return Int8Tensor(data, scale, parts[0].block_size, weight.dtype)
    if weight.device.type != "cpu":
        raise InputError(f"--quantize int4 runs on the CPU alone, the model is on {weight.device}: give int8")
    parts = [Int4OpaqueTensor.from_hp(rows, [1, GROUP]) for rows in weight.bfloat16().split(_ROWS_AT_ONCE)]
    data, scale = torch.cat([part.qdata for part in parts]), torch.cat([part.scale_and_zero for part in parts], dim=1)
    return Int4OpaqueTensor(data, scale, [1, GROUP], weight.shape)


def quantized_layers(model: LanguageModel, scheme: Quantization) -> Callable[[str, Tensor], Tensor]:
    """Put layers for quantised weights into a language model that has no storage yet.

    Layers whose sizes the kernel of int4 cannot take stay as they are.

    Returns:
        What the loader does with a tensor: (name in the model's state dict, tensor) -> tensor, quantised where the name
        is that of such a weight.

    Raises:
        InputError: no layer can be quantised.
    """
    output, weights = model.get_output_embeddings(), set()
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer is not output and _fits(layer, scheme):
            model.set_submodule(name, QuantizedLinear(layer, scheme))
            weights.add(f"{name}.weight")
    if not weights:
        raise InputError(f"--quantize {scheme}: the language model has no linear layer that it fits; leave it out")

    def convert(name: str, tensor: Tensor) -> Tensor:
        return quantize(tensor, scheme) if name in weights else tensor

    return convert


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has layers of `quantized_layers`."""
    return any(isinstance(layer, QuantizedLinear) for layer in model.modules())


def _fits(layer: nn.Linear, scheme: Quantization) -> bool:
    return scheme == "int8" or (layer.in_features % GROUP == 0 and layer.out_features % _KERNEL_OUTPUTS == 0)
