"""Batch norm folded into the convolution before it, for evaluation: the same function, one pass over the maps less."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Module = TypeVar("Module", bound=nn.Module)

NORM_NAMES = ("bn", "norm")  # what a norm is called whose convolution is `conv`, with the same number behind it


def folded(module: Module) -> Module:
    """A replica of `module` in evaluation mode in which convolution and batch norm are one, if they follow each other.

    Pairs are told by their names (`conv2` and `bn2` of timm, `conv2` and `norm2` of MONAI) or by standing side by side
    in a Sequential.  Parameters that nothing is folded into are shared with `module`, which stays as it is; a replica
    does not follow later changes of its weights, so make one for each use.  Weights are laid out channels last, which
    they would else be copied to in every call.

    Raises ValueError if a batch norm is in training mode, where it depends on the batch.
    """
    replica = copy.copy(module)
    replica._modules = {name: child and folded(child) for name, child in module._modules.items()}
    for conv_name, norm_name in _pairs(module):
        norm, (holder, key) = module._modules[norm_name], _convolution_in(replica, conv_name)
        convolution = holder._modules[key]
        assert isinstance(norm, _BatchNorm) and isinstance(convolution, (nn.Conv2d, nn.Conv3d))  # as `_pairs` says
        if norm.training:
            raise ValueError(f"batch norm {norm_name} is in training mode: call eval() first")
        holder._modules[key] = _joined(convolution, norm)
        replica._modules[norm_name] = nn.Identity()
    return replica


@torch.no_grad()
def _joined(convolution: nn.Conv2d | nn.Conv3d, norm: _BatchNorm) -> nn.Module:
    """One convolution that does what both do (Jacob et al. 2018, section 3.2).

    Written here, since torch's `fuse_conv_bn_eval` copies the weights three times, which eight slices do not repay.
    """
    assert norm.running_mean is not None and norm.running_var is not None  # there by default
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    flat = isinstance(convolution, nn.Conv2d)
    layout = torch.channels_last if flat else torch.channels_last_3d
    weight = torch.empty_like(convolution.weight, memory_format=layout, requires_grad=False)
    torch.mul(convolution.weight, scale.view(-1, *(1 for _ in weight.shape[1:])), out=weight)
    bias = norm.bias - norm.running_mean * scale
    if convolution.bias is not None:
        bias = bias + convolution.bias * scale
    joined = copy.copy(convolution)
    joined._parameters = {"weight": nn.Parameter(weight, requires_grad=False), "bias": nn.Parameter(bias, False)}
    return joined


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the children that are a convolution and its norm."""
    names = list(module._modules)
    if isinstance(module, nn.Sequential):
        candidates = list(pairwise(names))
    else:
        candidates = [(name, name.replace("conv", norm)) for name in names if "conv" in name for norm in NORM_NAMES]
    for conv_name, norm_name in candidates:
        if isinstance(module._modules.get(norm_name), _BatchNorm):
            holder, key = _convolution_in(module, conv_name)
            if isinstance(holder._modules[key], (nn.Conv2d, nn.Conv3d)):
                yield conv_name, norm_name


def _convolution_in(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds what child `name` stands for, and its name there.

    MONAI wraps a convolution in a Sequential that holds nothing else.
    """
    child = module._modules[name]
    if isinstance(child, nn.Sequential) and list(child._modules) == ["conv"]:
        return child, "conv"
    return module, name
