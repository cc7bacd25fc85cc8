"""What every network of `wrn list models` can do."""

import pytest
import torch
from torch import nn

import wrn
from wrn.models.names import MODELS, parse, rule_of

LARGE = ["wrn-18-3-imagenet", "wrn-34-2-imagenet"]  # seconds each; smaller ones are of the same class
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODELS]


def size(name):
    return max(8, parse(name, rule_of(MODELS[name])).smallest)


def create(name, **options):
    """DSN is built for its size; the others take any."""
    rule = rule_of(MODELS[name])
    return wrn.create_model(name, num_classes=7, image_size=size(name), depth_rule=rule, **options)


def test_every_kind_is_tried_at_once():
    def kinds(names):
        specs = [parse(name, rule_of(MODELS[name])) for name in names]
        return {(spec.builder, *(key for key, value in spec.arguments.items() if value is True)) for spec in specs}

    assert kinds(set(MODELS) - set(LARGE)) == kinds(MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward(name):
    torch.manual_seed(0)
    model, images = create(name, drop_path=0.0, seed=0).train(), torch.randn(3, 3, size(name), size(name))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.weight, 0.1)  # with 1 and the first statistics, 1,202 layers overflow
    outputs = model.with_companions(images) if name == "dsn" else [model(images)]
    sum(logits.square().sum() for logits in outputs).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    with torch.no_grad():
        for batch in (images, images[:1]):
            logits = model.eval()(batch)
            assert logits.shape == (len(batch), 7)
            assert logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_a_function_of_the_state(name):
    """Of gray images, here: in_channels is 1."""
    torch.manual_seed(0)
    dropout = 0.5 if parse(name, rule_of(MODELS[name])).dropout else 0.0
    model, images = create(name, in_channels=1, dropout=dropout, seed=0), torch.randn(3, 1, size(name), size(name))
    model.train()(images)  # so that BN's statistics are no longer the first ones
    logits = model.eval()(images)
    assert logits.isfinite().all()
    assert torch.equal(model(images), logits)
    other = create(name, in_channels=1, seed=1).eval()
    assert not torch.equal(other(images), logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), logits)


@pytest.mark.parametrize(
    "name",
    ["wrn-10-1", "resnet-8-cifar", "pre-resnet-11-cifar", "stochastic-depth-110", "resnet-18", "pre-resnet-50", "vgg"],
)
def test_torch_fx_traces_it(name):
    """With which torchvision takes features out of networks."""
    network, images = wrn.create_model(name, num_classes=10, seed=0).eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(network)(images), network(images))
