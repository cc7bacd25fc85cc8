"""The thin networks against functional twins written from their papers; stochastic depth; names."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from twins import agree, bn, conv

import wrn
from wrn.models.blocks import BasicBlock, PreActBottleneck, ResidualBlock
from wrn.models.imagenet import Bottleneck
from wrn.models.names import parse
from wrn.models.stochastic_depth import Path, Residual


def blocks(p):
    """Each block's name and stride: the first of groups 2 and 3 halves the size."""
    names = dict.fromkeys(".".join(key.split(".")[:2]) for key in p if key.startswith("group"))
    return [(name, 2 if name in ("group2.0", "group3.0") else 1) for name in names]


def option_a(x, stride):
    """Every second pixel; where the size halves the width doubles, with zeros."""
    return torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1) if stride == 2 else x


def averaged(x, stride):
    if stride == 1:
        return x
    x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return torch.cat([x, torch.zeros_like(x)], 1)


def bottleneck(p, x, training):
    """BN-ReLU-1x1, -3x3, -1x1, stride in the first; the first BN-ReLU also feeds the 1x1 projection, in group 1 too."""
    x = conv(p, "conv1", x)
    for name, stride in blocks(p):
        active = out = bn(p, f"{name}.bn1", x, training).relu()
        out = conv(p, f"{name}.conv1", out, stride)
        out = conv(p, f"{name}.conv2", bn(p, f"{name}.bn2", out, training).relu())
        out = conv(p, f"{name}.conv3", bn(p, f"{name}.bn3", out, training).relu())
        x = out + (conv(p, f"{name}.shortcut", active, stride) if name.endswith(".0") else x)
    return F.linear(bn(p, "bn", x, training).relu().mean((2, 3)), p["fc.weight"], p["fc.bias"])


def basic(p, x, training):
    """BN-ReLU-3x3 twice; option A, of the activated tensor, where the width changes."""
    x = conv(p, "conv1", x)
    for name, stride in blocks(p):
        active = bn(p, f"{name}.bn1", x, training).relu()
        out = conv(p, f"{name}.conv1", active, stride)
        out = conv(p, f"{name}.conv2", bn(p, f"{name}.bn2", out, training).relu())
        x = out + (option_a(active, stride) if stride == 2 else x)
    return F.linear(bn(p, "bn", x, training).relu().mean((2, 3)), p["fc.weight"], p["fc.bias"])


def original(p, x, training, shortcut=option_a):
    """3x3-BN-ReLU-3x3-BN, the sum, then ReLU."""
    x = bn(p, "bn1", conv(p, "conv1", x), training).relu()
    for name, stride in blocks(p):
        out = bn(p, f"{name}.bn1", conv(p, f"{name}.conv1", x, stride), training).relu()
        out = bn(p, f"{name}.bn2", conv(p, f"{name}.conv2", out), training)
        x = (out + shortcut(x, stride)).relu()
    return F.linear(x.mean((2, 3)), p["fc.weight"], p["fc.bias"])


def of_stochastic_depth(p, x, training):
    assert "conv1.bias" in p and "group3.1.conv2.bias" in p
    return original(p, x, training, averaged)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("pre-resnet-29-cifar", bottleneck),
        ("pre-resnet-14-cifar", basic),
        ("resnet-14-cifar", original),
        ("stochastic-depth-14", of_stochastic_depth),
    ],
)
def test_equals_functional_twin(name, twin, training):
    model = wrn.create_model(name, num_classes=7, drop_path=0.0, seed=1).train(training)
    x = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    agree(model, lambda p, x: twin(p, x, training), x)


# Stochastic depth


def residual(model):
    return [part for part in model.modules() if isinstance(part, Residual)]


@torch.no_grad()
@pytest.mark.parametrize("name", ["stochastic-depth-20", "wrn-16-1"])
def test_the_deeper_a_block_lies_the_less_often_it_is_computed(name):
    model = wrn.create_model(name, num_classes=2, drop_path=0.5, seed=0).train()
    ran, passes, x = [], 400, torch.randn(2, 3, 4, 4)
    for number, block in enumerate(residual(model), 1):
        block.conv1.register_forward_hook(lambda *_, number=number: ran[-1].add(number))
    torch.manual_seed(0)
    for _ in range(passes):
        ran.append(set())
        model(x)
    last = len(residual(model))
    for number in range(1, last + 1):
        p = 1 - number / last * (1 - 0.5)
        often = sum(number in computed for computed in ran) / passes
        assert often == pytest.approx(p, abs=4 * (p * (1 - p) / passes) ** 0.5), f"block {number} of {last}"
    # Each draws for itself: of one common draw, a block would never outlive the one before it.
    assert all(any(b in computed and a not in computed for computed in ran) for a, b in pairwise(range(1, last + 1)))


def test_who_has_stochastic_depth_by_default():
    model = wrn.create_model("stochastic-depth-110", num_classes=10)
    assert [block.path.drop for block in residual(model)] == pytest.approx([number / 108 for number in range(1, 55)])
    for name in ["resnet-110", "pre-resnet-110", "wrn-16-4", "resnet-18", "pre-resnet-29-cifar"]:
        assert {block.path for block in residual(wrn.create_model(name, num_classes=10))} == {Path(0.0)}, name


@torch.no_grad()
@pytest.mark.parametrize("shape", [(8, 8), (8, 16, (3, 3), 2)], ids=["identity", "projection"])
def test_evaluation_is_the_mean_of_training_per_batch(shape):
    """Exactly so where nothing but the draw differs (BN evaluates) and no ReLU follows the sum."""
    torch.manual_seed(0)
    block, x = ResidualBlock(*shape).eval(), torch.randn(2, 8, 6, 6)
    whole = block(x)
    block.path = Path(0.4, "batch")
    evaluated = block(x)
    block.train()
    for part in (block.bn1, block.bn2):
        part.eval()
    draws = torch.stack([block(x) for _ in range(1000)])
    shortcut = next(draw for draw in draws if not torch.equal(draw, whole))
    assert all(torch.equal(draw, whole) or torch.equal(draw, shortcut) for draw in draws)  # the branch in full, or not
    torch.testing.assert_close(evaluated - shortcut, 0.6 * (whole - shortcut), atol=1e-5, rtol=0)
    assert ((draws.mean(0) - evaluated).abs() <= 4 * draws.std(0) / 1000**0.5 + 1e-5).all()


@torch.no_grad()
def test_training_per_sample_has_the_plain_block_as_its_mean():
    torch.manual_seed(0)
    block, x = ResidualBlock(8, 8).eval(), torch.randn(1, 8, 6, 6)
    plain = block(x)
    block.path = Path(0.4, "sample")
    assert torch.equal(block(x), plain)
    block.train()
    for part in (block.bn1, block.bn2):
        part.eval()
    draws = block(x.expand(2000, -1, -1, -1))
    skipped = (draws == x).flatten(1).all(1)
    assert skipped.float().mean() == pytest.approx(0.4, abs=4 * (0.4 * 0.6 / 2000) ** 0.5)
    torch.testing.assert_close(draws[~skipped], (x + (plain - x) / 0.6).expand_as(draws[~skipped]), atol=1e-5, rtol=0)
    assert ((draws.mean(0) - plain[0]).abs() <= 4 * draws.std(0) / 2000**0.5 + 1e-5).all()


BLOCKS = [
    pytest.param(lambda: ResidualBlock(8, 8), id="pre-activation"),
    pytest.param(lambda: PreActBottleneck(8, 8), id="pre-activation-bottleneck"),
    pytest.param(lambda: BasicBlock(8, 8), id="original"),
    pytest.param(lambda: Bottleneck(8, 4, 8), id="original-bottleneck"),
]


@pytest.mark.parametrize("make", BLOCKS)
def test_a_skipped_block_is_not_computed(make):
    block, computed = make().train(), []
    block.path = Path(1.0)
    for part in block.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda *_: computed.append(1))
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    out = block(x)
    assert not computed
    assert torch.equal(out, x.relu() if isinstance(block, (BasicBlock, Bottleneck)) else x)
    out.sum().backward()
    assert all(p.grad is None for p in block.parameters())
    assert x.grad.any()


@pytest.mark.parametrize("make", BLOCKS)
def test_a_skipped_block_keeps_its_statistics(make):
    block = make().train()
    before = {name: tensor.clone() for name, tensor in block.named_buffers()}
    block.path = Path(1.0)
    block(torch.randn(4, 8, 6, 6))
    for name, tensor in block.named_buffers():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("name", "shortcut"),
    [
        ("wrn-10-2", ("bn1.weight", "bn1.bias", "shortcut.weight")),
        ("resnet-18", ("downsample.0.weight", "downsample.1.weight", "downsample.1.bias")),
    ],
)
def test_where_the_width_changes_a_skipped_block_still_has_its_shortcut(name, shortcut):
    block = next(
        block for block in residual(wrn.create_model(name, num_classes=2, seed=0)) if block.conv1.stride[0] == 2
    )
    block.path = Path(1.0)
    x = torch.randn(2, block.conv1.in_channels, 6, 6)
    block.train()(x).square().sum().backward()
    assert {key for key, p in block.named_parameters() if p.grad is not None} == set(shortcut)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("wrn-10-1", {"drop_path": 1.0}, r"\[0, 1\)"),
        ("wrn-10-1", {"drop_path": -0.1}, r"\[0, 1\)"),
        ("wrn-10-1", {"drop_path": float("nan")}, r"\[0, 1\)"),
        ("wrn-10-1", {"drop_path": 0.5, "drop_path_per": "image"}, "batch, sample"),
        ("nin", {"drop_path": 0.5}, "no residual blocks"),
    ],
)
def test_stochastic_depth_that_makes_no_sense(name, options, says):
    with pytest.raises(ValueError, match=says):
        wrn.create_model(name, num_classes=2, **options)


# Names


@pytest.mark.parametrize(
    ("name", "blocks_per_group"),
    [
        ("resnet-8-cifar", 1),
        ("resnet-20-cifar", 3),
        ("resnet-110", 18),
        ("resnet-1202", 200),
        ("pre-resnet-8-cifar", 1),
        ("pre-resnet-11-cifar", 1),
        ("pre-resnet-110", 18),
        ("pre-resnet-164", 18),
        ("pre-resnet-1001", 111),
        ("pre-resnet-20-basic-cifar", 3),
        ("pre-resnet-20-bottleneck-cifar", 2),
        ("stochastic-depth-8", 1),
        ("stochastic-depth-1202", 200),
    ],
)
def test_depth_and_blocks(name, blocks_per_group):
    """He et al. count stem, blocks and classifier: 6N + 2, of bottlenecks 9N + 2."""
    assert parse(name).arguments["blocks_per_group"] == blocks_per_group
    assert parse(name).name == name


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ResNet_110", "resnet-110"),
        ("resnet-110-cifar", "resnet-110"),
        ("pre-resnet-164-bottleneck", "pre-resnet-164"),
        ("pre-resnet-164-basic", "pre-resnet-164-basic-cifar"),
        ("pre-resnet-29-bottleneck-cifar", "pre-resnet-29-cifar"),
    ],
)
def test_spellings_of_one_network(name, same):
    assert parse(name) == parse(same)
    assert parse(name).name == same


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pre-resnet-20-cifar", "pre-resnet-20-basic-cifar or pre-resnet-20-bottleneck-cifar"),
        ("resnet-111-cifar", r"6N \+ 2 .* nearest is 110 or 116"),
        ("resnet-2-cifar", "nearest is 8"),
        ("pre-resnet-21-bottleneck-cifar", r"9N \+ 2 .* nearest is 20 or 29"),
        ("pre-resnet-164-basic-cifar-cifar", "no such model"),
        ("stochastic-depth-111", "nearest is 110 or 116"),
        ("resnet-110-bottleneck", "basic blocks alone"),
        ("resnet-56", "has 18, 34, 50, 101, 152 layers; for small images: write resnet-56-cifar"),
        ("pre-resnet-21-cifar", r"neither 6N \+ 2 .* nor 9N \+ 2"),
        ("resnet-50-bottleneck", "no such model"),
        ("stochastic-depth-110-cifar", "no such model"),
    ],
)
def test_bad_names(name, says):
    with pytest.raises(ValueError, match=says):
        parse(name)


@given(
    st.sampled_from(
        [
            ("resnet-{}-cifar", 6),
            ("stochastic-depth-{}", 6),
            ("pre-resnet-{}-basic-cifar", 6),
            ("pre-resnet-{}-bottleneck-cifar", 9),
        ]
    ),
    st.integers(1, 250),
)
def test_printed_names_are_read_back(kind, n):
    name, step = kind
    spec = parse(name.format(step * n + 2))
    assert spec.arguments["blocks_per_group"] == n
    assert parse(spec.name) == spec
