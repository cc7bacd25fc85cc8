"""Size and work of a network, measured on the meta device from the module itself: nothing is allocated or computed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wrn.models.creation import create_model
from wrn.models.families import DepthRule
from wrn.models.names import MODELS, parse, rule_of

_BATCH = 256  # figures are for one image; over many, what does not grow with them (BN's statistics) rounds away


@dataclass(frozen=True)
class Part:
    """One row of Table 1 as it came out."""

    name: str
    output: tuple[int, ...]  # channels, height, width; or features
    params: int  # trainable, BN scale and shift and biases included
    macs: int  # multiply-accumulates of convolutions and linear layers, one image
    conv_layers: int
    activation_bytes: int  # what autograd keeps for the backward pass, fp32, one image


@dataclass(frozen=True)
class Complexity:
    """What `describe` found; units as in `Part`, which the totals add up."""

    model: str
    num_classes: int
    input: tuple[int, int, int]
    parts: tuple[Part, ...]

    @property
    def params(self) -> int:
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @property
    def conv_layers(self) -> int:
        return sum(part.conv_layers for part in self.parts)

    @property
    def activation_bytes(self) -> int:
        return sum(part.activation_bytes for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        totals = {key: getattr(self, key) for key in ("params", "macs", "conv_layers", "activation_bytes")}
        return {**asdict(self), **totals}


def describe(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_channels: int = 3,
    depth_rule: DepthRule | None = None,
) -> Complexity:
    """Parameters, MACs, conv layers and activation bytes of a network, in total and by group.

    By default with 10 classes and images of 32 pixels, for ImageNet networks with 1,000 and 224.

    MACs count 2 FLOPs each and leave out BN, ReLU, additions and pooling, as is usual. Activation bytes are those of
    the distinct tensors that autograd saves in training mode. Raises ValueError as `create_model` does.
    """
    spec = parse(name, depth_rule)
    classes, size = (spec.classes if num_classes is None else num_classes), image_size or spec.image_size
    with torch.device("meta"):
        model = create_model(
            name,
            num_classes=classes,
            drop_path=0.0,  # all blocks are computed
            in_channels=in_channels,
            image_size=image_size,
            depth_rule=depth_rule,
        )
        images = torch.empty(_BATCH, in_channels, size, size, dtype=torch.float32)
    return Complexity(spec.name, classes, (in_channels, size, size), tuple(measure(model, images)))


def measure(model: nn.Module, images: Tensor) -> list[Part]:
    """The parts of `model`, its direct children, in the order they run on `images` (both on the meta device).

    Children that do not run, such as companion classifiers, come last, with parameters alone.
    """
    children = dict(model.named_children())
    names = {child: name for name, child in children.items()}
    outputs: dict[str, tuple[int, ...]] = {}
    macs = dict.fromkeys(children, 0)
    saved: dict[str, dict[int, Tensor]] = {"": {}}
    running = ""

    def enter(child: nn.Module, _: Any) -> None:
        nonlocal running
        running = names[child]
        saved.setdefault(running, {})

    def leave(child: nn.Module, _: Any, output: Tensor) -> None:
        outputs[names[child]] = tuple(output.shape[1:])

    def count(layer: nn.Conv2d | nn.Linear, _: Any, output: Tensor) -> None:
        macs[running] += output[0].numel() * layer.weight[0].numel()

    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        # A tensor saved by two operations is kept once. Holding it here keeps its storage's address its own.
        key = tensor.untyped_storage()._cdata
        if key not in seen and not isinstance(tensor, nn.Parameter):
            seen.add(key)
            saved[running][key] = tensor
        return tensor

    handles = [child.register_forward_pre_hook(enter) for child in children.values()]
    handles += [child.register_forward_hook(leave) for child in children.values()]
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    handles += [layer.register_forward_hook(count) for layer in layers]
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    for handle in handles:
        handle.remove()
    return [
        Part(
            name=name,
            output=outputs.get(name, ()),
            params=sum(p.numel() for p in children[name].parameters()),
            macs=macs[name],
            conv_layers=sum(isinstance(part, nn.Conv2d) for part in children[name].modules()),
            activation_bytes=sum(t.untyped_storage().nbytes() for t in saved.get(name, {}).values()) // len(images),
        )
        for name in [*outputs, *(name for name in children if name not in outputs)]
        if outputs.get(name) or any(True for _ in children[name].parameters())
    ]


SIZES = Path(__file__).with_name("sizes.json")


def write_sizes() -> None:
    """Write the size of every listed network, so that a list takes no torch: `python -m wrn.models.complexity`."""
    found = {name: describe(name, depth_rule=rule_of(source)) for name, source in MODELS.items()}
    lines = [f'  "{name}": {{"params": {each.params}, "macs": {each.macs}}}' for name, each in found.items()]
    SIZES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write_sizes()
