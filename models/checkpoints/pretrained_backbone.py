"""ImageNet weights of a ResNet-50 for the encoders that have one: 2D1D takes them as they are, ResNet3D inflated."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from datasets.errors import InputError
from models.encoders.hybrid_2d1d import Encoder2D1D
from models.encoders.resnet import SliceResNet
from models.encoders.resnet3d import CubeResNet, EncoderResNet3D
from models.vision import VisionModel

FILE_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
_HEAD = "fc."


class PretrainedBackboneError(InputError):
    """Weights cannot be had or do not fit; the message names the source and what to do."""


def load_pretrained_backbone(vision: VisionModel, source: str | Path) -> None:
    """Start the ResNet of a vision model from weights for 2D images.

    Args:
        vision: with encoder 2D1D or ResNet3D, of ResNet-50's size.
        source: a local file (.pth, .pt, .bin or .safetensors); a timm name, "resnet50.a1_in1k"; or one of
            torchvision's, "ResNet50_Weights.IMAGENET1K_V2".

    Raises:
        PretrainedBackboneError: the weights cannot be read or fetched, or the network is another one.
    """
    encoder = vision.encoder
    network: SliceResNet | CubeResNet
    if isinstance(encoder, Encoder2D1D):
        network = encoder.resnet2D
        weights = read_backbone(source)
    elif isinstance(encoder, EncoderResNet3D):
        network = encoder.resnet3D
        weights = inflate(read_backbone(source), network)
    else:
        raise PretrainedBackboneError(
            f"pretrained backbone {source}: encoder {vision.config.encoder} has no ResNet; leave the option out"
        )
    targets: dict[str, Tensor] = dict(network.state_dict())
    heads = [name for name in targets if name.startswith(_HEAD) and name in weights]
    if any(weights[name].shape != targets[name].shape for name in heads):  # of another number of classes
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_HEAD)}
    _check(weights, targets, source)
    network.load_state_dict(weights, strict=False)


def read_backbone(source: str | Path) -> dict[str, Tensor]:
    """The state dict of a 2D ResNet by file, timm or torchvision name; raises PretrainedBackboneError."""
    path = Path(source)
    if path.is_file() or path.suffix in FILE_ENDINGS:
        return _read_file(path)
    name = str(source)
    try:
        if name.startswith("ResNet") and "_Weights." in name:
            return torchvision.models.get_weight(name).get_state_dict(progress=False, check_hash=True)
        if timm.is_model(name):
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever the two libraries and their network clients raise
        raise PretrainedBackboneError(
            f"pretrained backbone {name}: it cannot be had ({' '.join(str(error).split())[:160]}); without a network, "
            "give a local .pth or .safetensors file"
        ) from error
    raise PretrainedBackboneError(
        f"pretrained backbone {name}: neither a file nor a name that timm (resnet50.a1_in1k) or torchvision "
        "(ResNet50_Weights.IMAGENET1K_V2) knows"
    )


def inflate(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """2D convolution weights for the 3D ones of the same names in `network`, everything else as it is.

    A kernel (O, I, h, w) is repeated along the slices and divided by their number, as I3D does (Carreira and Zisserman
    2017), so that an image that does not change along the slices gives what it gave in 2D.  The stem's kernels for
    three equal colour channels become one for gray, their sum.  A classification head is left out.
    """
    targets = network.state_dict()
    inflated = {}
    for name, tensor in weights.items():
        target = targets.get(name)
        if target is None and name.startswith(_HEAD):
            continue
        if target is not None and target.ndim == 5 and tensor.ndim == 4:
            if tensor.shape[1] == 3 and target.shape[1] == 1:
                tensor = tensor.sum(dim=1, keepdim=True)
            depth = target.shape[-1]
            tensor = tensor.unsqueeze(-1).expand(*tensor.shape, depth) / depth
        inflated[name] = tensor
    return inflated


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PretrainedBackboneError(f"{path}: no such file of pretrained weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise PretrainedBackboneError(
            f"{path}: not a file of weights ({' '.join(str(error).split())[:160]})"
        ) from error
    for key in ("state_dict", "model"):  # as training scripts of timm and torchvision wrap it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise PretrainedBackboneError(f"{path}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _check(weights: Mapping[str, Tensor], targets: Mapping[str, Tensor], source: str | Path) -> None:
    """Every target but an unused head and step counters must be there, of its shape, and nothing else."""
    needed = {name for name in targets if not name.startswith(_HEAD) and not name.endswith("num_batches_tracked")}
    advice = "it must be a ResNet-50, and the vision model of full size"
    for problem, names in (("lacks", needed - weights.keys()), ("has the unknown", weights.keys() - targets.keys())):
        if names:
            raise PretrainedBackboneError(
                f"pretrained backbone {source} {problem} {min(names)} ({len(names)} such keys); {advice}"
            )
    for name, tensor in weights.items():
        if tensor.shape != targets[name].shape:
            raise PretrainedBackboneError(
                f"pretrained backbone {source}: {name} has shape {tuple(tensor.shape)}, the model "
                f"{tuple(targets[name].shape)}; {advice}"
            )
