"""The network against its functional twin, the paper's counts, and the properties that the paper states."""

import pytest
import torch
from functional_wrn import shapes
from functional_wrn import wrn as twin
from torch import nn

import wrn
from wrn.models.complexity import describe
from wrn.paper import rows

NETWORKS = [
    (table, row) for table in ("table2", "table3", "table4", "table6", "table9") for row in rows(table) if row.get("N")
]

assert len(NETWORKS) == 29  # nothing was filtered away

BLOCKS = ["131", "31", "13", "311", "33", "313", "3", "333", "3333"]  # Table 2, and l = 1 … 4 of Table 3


@pytest.mark.parametrize(
    ("table", "row"), NETWORKS, ids=lambda value: value if isinstance(value, str) else value["network"]
)
def test_counts_are_the_papers(table, row):
    rule = "nominal" if table == "table2" else "true"
    for classes, key in ((10, "c10"), (100, "c100")):
        found = describe(row["network"], num_classes=classes, depth_rule=rule)
        assert found.params == row["params_computed"][key]
    found = describe(row["network"], num_classes=10, depth_rule=rule)
    assert found.conv_layers == row["conv_layers"]
    assert found.macs == pytest.approx(row["macs_M_32x32"] * 1e6, rel=0.01)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kernels", BLOCKS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_equals_functional_twin(kernels, k, training):
    depth, n_blocks = 3 * len(kernels) * 2 + 4, 2
    model = wrn.create_model(f"wrn-{depth}-{k}-b{kernels}", num_classes=7, depth_rule="true", seed=1).double()
    generator = torch.Generator().manual_seed(2)
    m = [int(digit) for digit in kernels]
    expected = shapes(n_blocks, k, m, 7)
    state = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {name: tuple(t.shape) for name, t in state.items()} == expected
    for name, tensor in state.items():  # randomised: statistics and scales that hide nothing
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.2)
        if name.endswith("running_mean"):
            tensor.sub_(0.7)
    parameters = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in state.items()}
    x = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 7, generator=generator, dtype=torch.float64)

    model.train(training)
    x_ours, x_twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = model(x_ours), twin(parameters, x_twin, n_blocks, m, training)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(x_ours.grad, x_twin.grad, rtol=1e-8, atol=1e-9)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad, rtol=1e-8, atol=1e-9, msg=name)


def test_ordinary_modules_and_keys():
    model = wrn.create_model("wrn-16-2", num_classes=10)
    leaves = {type(part) for part in model.modules() if not list(part.children())}
    assert leaves == {nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout}
    buffers = {name.rsplit(".", 1)[1] for name, _ in model.named_buffers()}
    assert buffers == {"running_mean", "running_var", "num_batches_tracked"}
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert (part.eps, part.momentum, part.affine) == (1e-5, 0.1, True)
        if isinstance(part, nn.Conv2d):
            assert part.bias is None
    keys = set(model.state_dict())
    assert "group1.0.shortcut.weight" in keys
    assert "group1.1.shortcut.weight" not in keys
    assert "group1.0.shortcut.weight" not in wrn.create_model("wrn-16-1", num_classes=10).state_dict()
    assert model.features(torch.zeros(2, 3, 32, 32)).shape == (2, 128)


@pytest.mark.parametrize(("size", "channels"), [((4, 4), 3), ((32, 32), 1), ((48, 20), 5), ((7, 9), 3)])
def test_other_sizes_and_channels(size, channels):
    model = wrn.create_model("wrn-10-0.5", num_classes=4, in_channels=channels)
    assert model(torch.zeros(2, channels, *size)).shape == (2, 4)


def test_dropout_stands_between_the_convolutions_after_relu():
    """Seen from outside, by hooks: what each convolution of a block receives in training mode."""
    model = wrn.create_model("wrn-22-2-b333", num_classes=10, dropout=0.5, depth_rule="true", seed=0).train()
    inputs = {}
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda _, x, name=name: inputs.__setitem__(name, x[0]))
    torch.manual_seed(0)
    model(torch.randn(8, 3, 16, 16))
    for name, x in inputs.items():
        if name == "conv1":
            continue
        zeros = (x == 0).float().mean().item()
        assert (x >= 0).all(), f"{name} is fed something that passed no ReLU"
        if name.endswith(("conv2", "conv3")):
            assert 0.65 < zeros < 0.85, f"{name}: half of what ReLU lets through should be dropped"
        else:  # the block's first convolution and the shortcut
            assert zeros < 0.62, f"{name}: dropped, but should not be"


def test_dropout_is_inverted_and_off_in_evaluation():
    model = wrn.create_model("wrn-10-1", num_classes=10, dropout=0.4, seed=0)
    plain = wrn.create_model("wrn-10-1", num_classes=10, seed=0)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    kept = model.train().group1[0].dropout(torch.ones(100_000))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert (kept == 0).float().mean() == pytest.approx(0.4, abs=0.01)


@torch.no_grad()
def test_initialisation():
    """Moments and bounds of each way."""
    model = wrn.create_model("wrn-16-8", num_classes=10, seed=0)
    conv = model.group2[0].conv1.weight  # 128 -> 256, 3x3
    assert conv.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert model.fc.weight.abs().max() == pytest.approx(512**-0.5, rel=0.01)
    assert (model.bn.weight == 1).all()
    assert not model.fc.bias.any()
    other = wrn.create_model(
        "wrn-16-8", num_classes=10, seed=0, conv_init="fan-out", bn_init="uniform", linear_init="normal"
    )
    assert other.group2[0].conv1.weight.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert 0 <= other.bn.weight.min() < 0.05 < 0.95 < other.bn.weight.max() < 1
    assert other.fc.weight.std() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    again = wrn.create_model("wrn-16-8", num_classes=10, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_description_by_group():
    found = describe("wrn-28-10")
    assert [part.name for part in found.parts] == ["conv1", "group1", "group2", "group3", "bn", "fc"]
    assert [part.output for part in found.parts[1:4]] == [(160, 32, 32), (320, 16, 16), (640, 8, 8)]  # Table 1
    assert found.params == sum(p.numel() for p in wrn.create_model("wrn-28-10", num_classes=10).parameters())


def test_activation_bytes_are_what_autograd_holds():
    """Against the real thing on the CPU: every distinct tensor saved for the backward pass of a batch."""
    model = wrn.create_model("wrn-16-2", num_classes=10)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor  # holding it keeps the address its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.randn(32, 3, 32, 32))
    real = sum(t.untyped_storage().nbytes() for pointer, t in held.items() if pointer not in weights)
    assert describe("wrn-16-2").activation_bytes == pytest.approx(real / 32, rel=0.01)
    del loss


def test_one_training_step_is_pinned():
    """If this fails on purpose (a new default, a new torch), run with -s, pin the new pair, say why in the commit."""
    recipe = wrn.recipe("wrn-10-1", data="digits", dropout=0.3)
    model = wrn.network_of(recipe, 10, seed=0)
    optimizer = wrn.optimizer(model, recipe)
    images, labels = next(wrn.dataset("digits").train.batches(recipe, seed=0, epoch=1))
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    print(f"PINNED = ({loss.item():.6f}, {norm.item():.6f})")
    assert loss.item() == pytest.approx(PINNED[0], rel=1e-4), test_one_training_step_is_pinned.__doc__
    assert norm.item() == pytest.approx(PINNED[1], rel=1e-3), test_one_training_step_is_pinned.__doc__


PINNED = (2.331404, 0.328598)
