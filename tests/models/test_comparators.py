"""NIN, DSN, FitNet, Highway, ELU and VGG against functional twins from their papers; what is particular to each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twins import agree, bn, conv

import wrn
from wrn.models.comparators.elu import STACKS
from wrn.models.comparators.fitnet import MaxoutConv, MaxoutLinear
from wrn.models.rules import LayerRule, limit_norms


def whole_pool(x, size, stride):
    """A max pool that leaves no pixel out: a border of minus infinity where the last window hangs over."""
    right, below = (max(0, -(-(n - size) // stride) * stride + size - n) for n in (x.shape[3], x.shape[2]))
    return F.max_pool2d(F.pad(x, (0, right, 0, below), value=-torch.inf), size, stride)


def dense(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def nin_stages(p, x):
    """What each stage's first convolution gives, before its ReLU, then the third's, before the last ReLU."""
    for stage in ("stage1", "stage2", "stage3"):
        yield (x := conv(p, f"{stage}.conv1", x))
        x = conv(p, f"{stage}.conv3", conv(p, f"{stage}.conv2", x.relu()).relu())
        if stage != "stage3":
            x = whole_pool(x.relu(), 3, 2)
    yield x


def nin(p, x):
    *_, last = nin_stages(p, x)
    return last.relu().mean((2, 3))


def dsn(p, x):
    *first, last = nin_stages(p, x)
    heads = [dense(p, f"companion{number}", maps.flatten(1)) for number, maps in enumerate(first, 1)]
    return torch.stack([last.mean((2, 3)), *heads])


def fitnet(p, x):
    def maxout(part, layers, x):
        for number in layers:
            x = torch.maximum(*conv(p, f"{part}.{number}.conv", x).chunk(2, dim=1))
        return x

    x = F.max_pool2d(maxout("lower", range(5), x), 2)
    x = F.max_pool2d(maxout("lower", range(5, 11), x), 2)
    x = maxout("upper", range(6), x).amax((2, 3))
    return dense(p, "fc2", dense(p, "fc1.fc", x).view(len(x), 500, 5).max(2).values)


def highway(p, x):
    for stage, layers in (("stage1", 4), ("stage2", 5), ("stage3", 5)):
        x = conv(p, f"{stage}.conv", x).relu()
        for number in range(layers):
            h = conv(p, f"{stage}.layers.{number}.conv", x).relu()
            t = 1 / (1 + torch.exp(-conv(p, f"{stage}.layers.{number}.gate", x)))
            x = t * h + (1 - t) * x
        if stage != "stage3":
            x = F.max_pool2d(x, 2)
    return dense(p, "fc", conv(p, "conv", x).relu().mean((2, 3)))


def elu(p, x):
    """`[384x3] [384x1,384x2,640x2,640x2] …`: units x receptive field; a 2x2 convolution keeps the size here."""
    for number, fields in enumerate(["3", "1222", "1222", "122", "322", "12", "1"], 1):
        for layer, field in enumerate(fields):
            name = f"stack{number}.convs.{layer}"
            assert p[f"{name}.weight"].shape[2:] == (int(field), int(field))
            x = F.pad(x, (0, 1, 0, 1)) if field == "2" else x
            x = F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1 if field == "3" else 0)
            x = torch.where(x > 0, x, torch.exp(x) - 1)
        x = whole_pool(x, 2, 2)
    return conv(p, "conv", x).mean((2, 3))


def vgg(p, x, training):
    for group, layers in enumerate([2, 2, 4, 4, 4], 1):
        for layer in range(layers):
            x = conv(p, f"group{group}.{3 * layer}", x)
            x = bn(p, f"group{group}.{3 * layer + 1}", x, training, eps=1e-3).relu()
        x = whole_pool(x, 2, 2) if group < 5 else x.mean((2, 3))
    return dense(p, "fc", x)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "twin", "size"),
    [("nin", nin, (9, 12)), ("fitnet", fitnet, (9, 12)), ("highway", highway, (9, 12)), ("elu", elu, (5, 6))],
)
def test_equals_functional_twin(name, twin, size, training):
    dropout = 0.0 if training or name == "fitnet" else 0.5  # which evaluation leaves out
    model = wrn.create_model(name, num_classes=7, dropout=dropout, seed=1)
    agree(model.train(training), twin, random(2, 3, *size))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_vgg_equals_functional_twin(training):
    model = wrn.create_model("vgg", num_classes=7, seed=1).train(training)
    agree(model, lambda p, x: vgg(p, x, training), random(2, 3, 19, 36))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("nin", [(96, 16, 16), (192, 8, 8)]),
        ("dsn", [(96, 16, 16), (192, 8, 8)]),
        ("highway", [(3, 32, 32), (32, 16, 16), (80, 8, 8), (100,)]),
    ],
)
def test_what_is_dropped(name, shapes):
    """The pools' outputs; of Highway the input too."""
    model = wrn.create_model(name, num_classes=7, dropout=0.2).train()
    dropped = []
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.register_forward_hook(lambda part, _, output: dropped.append((part.p, tuple(output.shape[1:]))))
    model.with_companions(random(1, 3, 32, 32)) if name == "dsn" else model(random(1, 3, 32, 32))
    assert dropped == [(0.2, shape) for shape in shapes]


# DSN


@pytest.mark.parametrize("size", [9, 12])
def test_dsn_equals_functional_twin_with_companions(size):
    model = wrn.create_model("dsn", num_classes=7, image_size=size, seed=1)
    agree(model, dsn, random(2, 3, size, size), call=lambda x: torch.stack(model.with_companions(x)))


def test_dsn_is_used_without_companions():
    model, x = wrn.create_model("dsn", num_classes=7, image_size=16, seed=1), random(2, 3, 16, 16)
    assert torch.equal(model(x), model.with_companions(x)[0])
    assert model(random(2, 3, 20, 11)).shape == (2, 7)  # without them any size will do


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_companion_leads_what_lies_before_it_alone():
    model, x, labels = wrn.create_model("dsn", num_classes=7, image_size=8, seed=1), random(4, 3, 8, 8), torch.arange(4)

    def losses():
        return [F.cross_entropy(logits, labels) for logits in model.with_companions(x)]

    together = gradients(model, sum(losses()))
    first, second = [f"stage1.conv{n}" for n in (1, 2, 3)], [f"stage2.conv{n}" for n in (1, 2, 3)]
    reached = {1: first[:1], 2: [*first, *second[:1]], 3: [*first, *second, "stage3.conv1"]}
    for number, convs in reached.items():
        alone = gradients(model, losses()[number])
        names = {f"{part}.{kind}" for part in (*convs, f"companion{number}") for kind in ("weight", "bias")}
        assert set(alone) == names
        assert all(gradient.any() for gradient in alone.values())
        for kind in ("weight", "bias"):
            torch.testing.assert_close(together[f"companion{number}.{kind}"], alone[f"companion{number}.{kind}"])


def test_companions_refuse_other_sizes_of_image():
    model = wrn.create_model("dsn", num_classes=7, image_size=16)
    with pytest.raises(ValueError, match=r"16 x 16, not 32 x 32.*image_size"):
        model.with_companions(torch.zeros(1, 3, 32, 32))


# Highway


@torch.no_grad()
def test_closed_gates_carry_the_input_on():
    model, x = wrn.create_model("highway", num_classes=7, seed=1), random(2, 3, 16, 16)
    for name, parameter in model.named_parameters():
        if name.endswith("gate.bias"):
            parameter.fill_(-1e9)
    for stage in (model.stage1, model.stage2, model.stage3):
        expected = F.conv2d(x, stage.conv.weight, stage.conv.bias, padding=1).relu()
        x = stage(x)
        assert torch.equal(x, expected)
        assert x.any()


@pytest.mark.parametrize("conv_init", ["fan-in", "fan-out", "published"])
def test_gates_begin_at_minus_2(conv_init):
    model = wrn.create_model("highway", num_classes=7, conv_init=conv_init)
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias")}
    assert sum("gate" in name for name in biases) == 14
    for name, bias in biases.items():
        assert (bias == (-2 if "gate" in name else 0)).all(), name


# ELU


def test_elus_rates():
    """0, .1 … .5, 0 on the last layer of each stack; then on every layer; then 1.5 times as much."""
    model = wrn.create_model("elu", num_classes=7, dropout=0.5)
    rates = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0]

    def found():
        return [[dropout.p for dropout in getattr(model, f"stack{number}").dropouts] for number in range(1, 8)]

    last = [pytest.approx([0] * (len(layers) - 1) + [rate]) for layers, rate in zip(STACKS, rates, strict=True)]
    everywhere = [[rate] * len(layers) for layers, rate in zip(STACKS, rates, strict=True)]
    assert found() == last
    model.set_stage(1)
    assert found() == [pytest.approx(stack) for stack in everywhere]
    model.set_stage(2)
    assert found() == [pytest.approx([1.5 * rate for rate in stack]) for stack in everywhere]
    model.set_stage(0)
    assert found() == last


# FitNet


@torch.no_grad()
def test_maxout_is_the_largest_of_its_pieces():
    layer, x = MaxoutConv(3, 5), random(2, 3, 6, 6)
    halves = slice(0, 5), slice(5, 10)
    pieces = [F.conv2d(x, layer.conv.weight[half], layer.conv.bias[half], padding=1) for half in halves]
    torch.testing.assert_close(layer(x), torch.stack(pieces).max(0).values)
    layer, x = MaxoutLinear(8, 5, pieces=3), random(2, 8)
    units = [[max(layer.fc(image)[3 * unit + j] for j in range(3)) for unit in range(5)] for image in x]
    torch.testing.assert_close(layer(x), torch.tensor(units))


def test_no_relu_halves_what_maxout_gives():
    """Its convolutions begin with variance 1 / fan-in, those in front of a ReLU with 2 / fan-in."""
    fitnet, highway = (wrn.create_model(name, num_classes=7, seed=0) for name in ("fitnet", "highway"))
    assert fitnet.upper[3].conv.weight.std().item() == pytest.approx((1 / (9 * 128)) ** 0.5, rel=0.02)
    assert highway.stage3.conv.weight.std().item() == pytest.approx((2 / (9 * 80)) ** 0.5, rel=0.02)


@torch.no_grad()
def test_the_guided_layer_is_half_way():
    model, x = wrn.create_model("fitnet", num_classes=7, seed=1), random(2, 3, 32, 32)
    guided = model.guided(x)
    assert guided.shape == (2, 80, 8, 8)
    assert torch.equal(model.finished(guided), model(x))
    assert torch.equal(model.fc2(model.features(x)), model(x))


# What their papers ask of single layers


@pytest.mark.parametrize("name", ["nin", "dsn", "fitnet", "highway"])
def test_rules_are_of_parameters_there_are(name):
    with torch.device("meta"):
        model = wrn.create_model(name, num_classes=7)
    assert set(model.layer_rules()) <= {key for key, _ in model.named_parameters()}


def rules(name):
    with torch.device("meta"):
        return wrn.create_model(name, num_classes=7).layer_rules()


def test_rules_are_those_of_the_sources():
    companions = {key: rule for key, rule in rules("dsn").items() if "companion" in key}
    assert len(companions) == 6
    for key, rule in companions.items():
        assert [rule.fade(t / 200_000) for t in (0, 10_000, 70_000)] == pytest.approx([1, 2**-0.75, 8**-0.75])
        assert (rule.lr, rule.decay) == ((0.001, 1.0) if key.endswith("weight") else (0.002, 0.0))
    assert not any(rule.fade for key, rule in rules("dsn").items() if key not in companions)

    decays = {key: rule.decay for key, rule in rules("highway").items()}
    assert decays.pop("fc.weight") == 10
    assert set(decays.values()) == {0}
    assert len(decays) == 33  # every bias: 3 + 2 * 14 convolutions, the 1x1 one, the classifier

    limits = {key: rule.max_norm for key, rule in rules("fitnet").items() if rule.max_norm}
    assert limits.pop("fc1.fc.weight") == 1.9
    assert limits.pop("fc2.weight") == 1.9365
    assert set(limits.values()) == {0.9}
    assert len(limits) == 17
    slow = {key for key, rule in rules("fitnet").items() if rule.lr == 0.05}
    assert slow == {key.replace("weight", kind) for key in limits for kind in ("weight", "bias")}


def test_biases_of_the_caffe_networks():
    for name in ("nin", "highway"):
        for key, rule in rules(name).items():
            if key.endswith("bias") and "stage3.conv3" not in key:
                assert rule == LayerRule(lr=2.0, decay=0.0), key


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3, 3)])
def test_norms_are_limited_unit_by_unit(shape):
    weight = random(*shape)
    for row, length in zip(weight, (0.0, 0.5, 0.9, 7.0), strict=True):
        row.mul_(length / row.norm())
    limited = nn.Parameter(weight.clone())
    limit_norms(limited, 0.9)
    assert torch.equal(limited[:2], weight[:2])
    assert limited.flatten(1).norm(dim=1).tolist() == pytest.approx([0, 0.5, 0.9, 0.9])
    torch.testing.assert_close(limited[3] / 0.9, weight[3] / 7)  # the direction stays


# First weights


def weights(name, **options):
    model = wrn.create_model(name, num_classes=10, conv_init="published", **options)
    return {key: p.detach() for key, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["nin", "dsn"])
def test_first_weights_of_nin(name):
    found = weights(name, seed=0)
    for key in ("stage1.conv1", "stage2.conv1", "stage3.conv2", "stage3.conv3"):
        assert found[f"{key}.weight"].std() == pytest.approx(0.05, rel=0.03)
        assert found[f"{key}.weight"].abs().max() > 0.13  # normal, not uniform
    if name == "dsn":
        bound = (3 / (192 * 32**2)) ** 0.5
        assert found["companion1.weight"].abs().max() == pytest.approx(bound, rel=0.001)
        assert found["companion1.weight"].std() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_first_weights_of_highway():
    found = weights("highway", seed=0)
    for key, fan_in in (("stage2.layers.0.conv", 9 * 80), ("stage3.layers.4.gate", 9 * 128), ("conv", 128)):
        assert found[f"{key}.weight"].abs().max() == pytest.approx((3 / fan_in) ** 0.5, rel=0.01)
        assert found[f"{key}.weight"].std() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert found["fc.weight"].std() == pytest.approx(0.05, rel=0.05)
    assert found["fc.weight"].abs().max() > 0.12


def test_first_weights_of_fitnet():
    for key, weight in weights("fitnet", seed=0).items():
        if key.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.abs().max() <= 0.005
            assert weight.std() == pytest.approx(0.005 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("name", ["nin", "dsn", "highway", "fitnet"])
def test_first_weights_are_the_seeds(name):
    one, same, other = weights(name, seed=5), weights(name, seed=5), weights(name, seed=6)
    for key, weight in one.items():
        assert torch.equal(weight, same[key]), key
        assert torch.equal(weight, other[key]) == key.endswith("bias"), key


def test_a_network_without_first_weights_of_its_own():
    with pytest.raises(ValueError, match="fan-in"):
        weights("wrn-10-1")


# What makes no sense


@pytest.mark.parametrize("name", ["vgg", "fitnet", "resnet-110", "resnet-18", "pre-resnet-110", "stochastic-depth-110"])
def test_dropout_of_a_network_that_has_none(name):
    with pytest.raises(ValueError, match=f"{name} has none"):
        wrn.create_model(name, num_classes=7, dropout=0.5)


@pytest.mark.parametrize("name", ["nin", "dsn", "fitnet", "highway", "wrn-10-1", "resnet-8-cifar"])
def test_the_smallest_image(name):
    model = wrn.create_model(name, num_classes=7, image_size=4).eval()
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 7)
    with pytest.raises(ValueError, match="at least 4"):
        wrn.create_model(name, num_classes=7, image_size=3)


# They learn


@pytest.mark.parametrize(
    ("name", "lr", "steps"),
    [("nin", 3e-4, 24), ("dsn", 3e-4, 24), ("fitnet", 3e-4, 24), ("highway", 3e-4, 24), ("elu", 1e-4, 10)],
)
def test_learns_one_batch_of_real_images(name, lr, steps):
    """They have no BN, so that first weights of a wrong size would show: half the loss is soon gone."""
    images, labels = next(wrn.dataset("digits").train.batches(wrn.recipe("wrn-16-1", data="digits"), seed=0, epoch=1))
    images, labels = F.avg_pool2d(images[:16], 2), labels[:16]  # the scans have 8 x 8 pixels
    model = wrn.create_model(name, num_classes=10, image_size=16, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    outputs = model.with_companions if name == "dsn" else lambda x: [model(x)]
    losses = []
    for _ in range(steps):
        loss = sum(F.cross_entropy(logits, labels) for logits in outputs(images))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0], losses
