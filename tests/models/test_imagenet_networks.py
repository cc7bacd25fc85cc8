"""ImageNet's networks: torchvision's where it has them, a functional twin of fb.resnet.torch's where not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import agree, bn, conv

import wrn

TORCHVISION = {
    "resnet-18": "resnet18",
    "resnet-34": "resnet34",
    "resnet-50": "resnet50",
    "resnet-101": "resnet101",
    "resnet-152": "resnet152",
    "wrn-18-1-imagenet": "resnet18",
    "wrn-34-1-imagenet": "resnet34",
    "wrn-50-2-bottleneck": "wide_resnet50_2",
    "wrn-101-2-bottleneck": "wide_resnet101_2",
}


def torchvisions(name):
    """With random statistics, scales and shifts, that nothing hides."""
    torch.manual_seed(1)
    models = pytest.importorskip("torchvision").models
    model = getattr(models, TORCHVISION[name])(num_classes=5)
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(0.2, 1.2).sub_(0.7 if key.endswith(("mean", "bias")) else 0.0)
    return model


def ours(name):
    """Without weights: large ones take seconds to draw."""
    with torch.device("meta"):
        return wrn.create_model(name, num_classes=5).to_empty(device="cpu")


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [*((name, 64) for name in TORCHVISION), ("resnet-18", 224)])
def test_is_torchvisions_bit_for_bit(name, size):
    here, there = ours(name), torchvisions(name)
    assert [(key, t.shape) for key, t in here.state_dict().items()] == [
        (key, t.shape) for key, t in there.state_dict().items()
    ]
    here.load_state_dict(there.state_dict(), strict=True)
    images = torch.randn(2, 3, size, size)
    for training in (False, True):
        logits = here.train(training)(images)
        assert logits.isfinite().all()
        assert torch.equal(logits, there.train(training)(images)), training
    for key, tensor in here.state_dict().items():  # statistics, after the step in training mode
        assert torch.equal(tensor, there.state_dict()[key]), key


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet-18", "resnet-50"])
def test_torchvision_takes_our_weights(name):
    here, there = wrn.create_model(name, num_classes=5, seed=0).eval(), torchvisions(name).eval()
    images = torch.randn(2, 3, 64, 64)
    there.load_state_dict(here.state_dict(), strict=True)
    assert torch.equal(here(images), there(images))


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50"])
def test_gradients_are_torchvisions(name):
    here, there, images = ours(name), torchvisions(name), torch.randn(2, 3, 64, 64)
    here.load_state_dict(there.state_dict())
    for model in (here, there):
        F.cross_entropy(model.train()(images), torch.tensor([3, 1])).backward()
    theirs = dict(there.named_parameters())
    for key, parameter in here.named_parameters():
        assert torch.equal(parameter.grad, theirs[key].grad), key


@pytest.mark.parametrize("k", [0.5, 1, 1.3, 1.5, 2, 3])
@pytest.mark.parametrize("depth", [18, 34])
def test_blocks_alone_are_widened(depth, k):
    """Of these torchvision can only build k = 1."""
    with torch.device("meta"):
        model = wrn.create_model(f"wrn-{depth}-{k}-imagenet", num_classes=10)
    assert model.conv1.out_channels == 64  # the stem never
    groups = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [len(group) for group in groups] == {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}[depth]
    before = 64
    for number, (group, width) in enumerate(zip(groups, [int(base * k) for base in (64, 128, 256, 512)], strict=True)):
        convs = [part for block in group for part in (block.conv1, block.conv2)]
        assert [(c.in_channels, c.out_channels) for c in convs] == [(before, width)] + [(width, width)] * (
            len(convs) - 1
        )
        assert [c.stride for c in convs] == [(2, 2) if number else (1, 1)] + [(1, 1)] * (len(convs) - 1)
        projection = group[0].downsample
        assert (projection is not None) == (before != width)  # so in the first group exactly where k is not 1
        if projection is not None:
            assert [type(part) for part in projection] == [nn.Conv2d, nn.BatchNorm2d]
            assert (projection[0].kernel_size, projection[0].stride) == ((1, 1), convs[0].stride)
            assert projection[0].bias is None
        assert all(block.downsample is None for block in group[1:])
        before = width
    assert model.fc.in_features == before


def pre_resnet(p, x, training, blocks):
    """fb.resnet.torch: the very first block has no BN-ReLU of its own; projections start behind it, and have no BN."""
    x = F.max_pool2d(bn(p, "bn1", F.conv2d(x, p["conv1.weight"], stride=2, padding=3), training).relu(), 3, 2, 1)
    for group, number in enumerate(blocks, 1):
        for i in range(number):
            name, stride = f"layer{group}.{i}", 2 if group > 1 and i == 0 else 1
            active = x if (group, i) == (1, 0) else bn(p, f"{name}.bn1", x, training).relu()
            out = bn(p, f"{name}.bn2", conv(p, f"{name}.conv1", active), training).relu()
            out = bn(p, f"{name}.bn3", conv(p, f"{name}.conv2", out, stride), training).relu()
            x = conv(p, f"{name}.conv3", out) + (conv(p, f"{name}.shortcut", active, stride) if i == 0 else x)
    return F.linear(bn(p, "bn", x, training).relu().mean((2, 3)), p["fc.weight"], p["fc.bias"])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_pre_activation_equals_functional_twin(training):
    model = wrn.create_model("pre-resnet-50", num_classes=5, seed=1).train(training)
    x = torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(3))
    agree(model, lambda p, x: pre_resnet(p, x, training, (3, 4, 6, 3)), x)


def test_pre_resnet_200_has_its_blocks():
    with torch.device("meta"):
        model = wrn.create_model("pre-resnet-200", num_classes=5)
    assert [len(g) for g in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 24, 36, 3]
