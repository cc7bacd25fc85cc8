"""Convolutions with fewer multiplications, against float64; and networks on them against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

import wrn
from wrn.native import winograd
from wrn.native.library import available, capable
from wrn.native.operations import conv2d, enabled
from wrn.training.precision import choose

pytestmark = pytest.mark.skipif(not capable("fp32"), reason="needs a processor with AVX2")
KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32}
needs_bf16 = pytest.mark.skipif(not capable("bf16"), reason="needs a processor with AVX512-BF16")
by_kind = pytest.mark.parametrize("kind", [pytest.param("bf16", marks=needs_bf16), "fp32"])


@pytest.fixture(autouse=True)
def _no_amx(monkeypatch):
    """With it, direct convolutions in bf16 are faster, and nobody asks for these."""
    monkeypatch.setattr("wrn.native.winograd.has_amx", lambda: False)


def random(*shape, seed=0, kind="fp32"):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(KINDS[kind])
    return values.contiguous(memory_format=torch.channels_last)


def distance(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


SHAPES = [  # images, channels, outputs, height, width
    (1, 32, 32, 16, 16),
    (3, 64, 32, 16, 20),
    (33, 48, 80, 4, 12),
    (9, 160, 320, 8, 8),
    (130, 64, 64, 32, 32),
    (5, 32, 48, 7, 14),  # tiles that end beyond the map
    (19, 32, 32, 3, 6),
    (5, 512, 48, 8, 12),
    (261, 160, 160, 4, 4),  # more tiles than are taken at a time, and an odd number of them
    (5, 16, 64, 8, 8),
    (1, 128, 48, 8, 8),  # few tiles
    (1, 160, 128, 12, 8),
]
EIGHTS = [(8, 16, 24, 8, 8), (33, 40, 72, 4, 12), (5, 512, 24, 8, 12), (20, 16, 16, 3, 6)]


@pytest.mark.parametrize(
    ("kind", "images", "channels", "out", "height", "width"),
    [pytest.param("bf16", *shape, marks=needs_bf16) for shape in SHAPES]
    + [("fp32", *shape) for shape in SHAPES + EIGHTS],
)
def test_convolution_and_gradients_are_float64s(kind, images, channels, out, height, width):
    """As nearly as factors rounded to 8 bits, or 24, allow."""
    conv = torch.nn.Conv2d(channels, out, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x, dy = random(images, channels, height, width, kind=kind), random(images, out, height, width, seed=1, kind=kind)
    assert winograd.fits(conv, x)
    ours, theirs, weight = x.clone().requires_grad_(), x.double().requires_grad_(), conv.weight.detach().double()
    y = winograd.conv2d(conv, ours)
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(dy)
    exact = F.conv2d(theirs, weight.requires_grad_(), None, 1, 1)
    exact.backward(dy.double())
    bound = 0.015 if kind == "bf16" else 2.5e-6
    assert distance(y.detach(), exact.detach()) < bound
    assert distance(ours.grad, theirs.grad) < bound
    assert distance(conv.weight.grad, weight.grad) < bound


@by_kind
@pytest.mark.parametrize("images", [1, 40])  # threads share the outputs, or the tiles
def test_bits_do_not_depend_on_threads(images, kind):
    conv, x = torch.nn.Conv2d(48, 80, 3, padding=1), random(images, 48, 16, 16, kind=kind)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            prepared = [winograd.prepared(conv.weight, x.dtype, turned) for turned in (False, True)]
            y = winograd.convolve(x, prepared[0], 80)
            found.append((y, winograd.convolve(y, prepared[1], 48)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(ours, first) for each in found[1:] for ours, first in zip(each, found[0], strict=True))


@pytest.mark.parametrize(
    ("kind", "images", "channels", "out", "height", "width"),
    [pytest.param("bf16", *shape, marks=needs_bf16) for shape in SHAPES]
    + [("fp32", *shape) for shape in SHAPES + EIGHTS],
)
def test_gradients_of_weights_of_stride_2_are_float64s(kind, images, channels, out, height, width):
    """Of maps with an even and an odd number of rows and columns; with less error than of stride 1."""
    for rows, columns in [(2 * height, 2 * width), (2 * height - 1, 2 * width), (2 * height, 2 * width - 1)]:
        x = random(images, channels, rows, columns, kind=kind)
        dy = random(images, out, height, width, seed=1, kind=kind)
        exact = torch.nn.grad.conv2d_weight(x.double(), (out, channels, 3, 3), dy.double(), stride=2, padding=1)
        bound = 0.009 if kind == "bf16" else 1.5e-6
        assert distance(winograd.weight_gradient(x, dy, stride=2), exact) < bound


@by_kind
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("images", [1, 7, 94])
@pytest.mark.parametrize("threads", [1, 2, 3, 7, 32])
def test_weight_gradients_of_any_number_of_threads(threads, images, stride, kind, monkeypatch):
    """Which share each lot of tiles, or take whole lots and have sums of their own; in memory that is not zeros."""
    ours, rows = winograd._room, []

    def dirty(count, *sizes):
        rows.append(count)
        return ours(count, *sizes).fill_(float("nan"))

    monkeypatch.setattr(winograd, "_room", dirty)
    x = random(images, 32, 12 * stride, 20 * stride, kind=kind)
    dy = random(images, 16, 12, 20, seed=1, kind=kind)
    exact = torch.nn.grad.conv2d_weight(x.double(), (16, 32, 3, 3), dy.double(), stride=stride, padding=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = [winograd.weight_gradient(x, dy, stride) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    teams = rows[-1] // 36
    assert images == 7 or (teams > 1) == (threads > 1 and images == 94)
    assert torch.equal(*found)
    assert distance(found[0], exact) < (0.015 if kind == "bf16" else 2.5e-6)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (torch.nn.Conv2d(32, 32, 3, 2, 1), (8, 32, 8, 8)),
        (torch.nn.Conv2d(32, 32, 1), (8, 32, 8, 8)),
        (torch.nn.Conv2d(8, 64, 3, padding=1), (8, 8, 8, 8)),
        (torch.nn.Conv2d(32, 36, 3, padding=1), (8, 32, 8, 8)),
        (torch.nn.Conv2d(32, 32, 3, padding=1), (20, 32, 5, 5)),
        (torch.nn.Conv2d(32, 32, 3, padding=1), (1, 32, 8, 8)),
        (torch.nn.Conv2d(32, 32, 3, padding=1), (8, 48, 8, 8)),
        (torch.nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), (8, 32, 8, 8)),
    ],
)
def test_what_does_not_fit_is_left_to_torch(conv, shape):
    assert not winograd.fits(conv, random(*shape))


@by_kind
@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({}, (4, 32, 8, 8)),  # 4 tiles of the output, where its input has 16
        ({"stride": 1}, (8, 32, 16, 16)),
        ({"stride": (2, 1)}, (8, 32, 16, 16)),
        ({"dilation": 2, "padding": 2}, (8, 32, 16, 16)),
        ({"dilation": 2}, (8, 32, 16, 16)),
        ({"padding": 0}, (8, 32, 16, 16)),
        ({"groups": 2}, (8, 32, 16, 16)),
        ({"padding_mode": "reflect"}, (8, 32, 16, 16)),
        ({"out_channels": 20}, (8, 32, 16, 16)),
    ],
)
def test_what_does_not_fit_with_stride_2_is_left_to_torch(given, shape, kind):
    usual = {"in_channels": 32, "out_channels": 64, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}
    conv, x = torch.nn.Conv2d(**usual | given), random(*shape, kind=kind)
    assert not winograd.fits(conv, x, stride=2)
    with enabled(kind), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        y = conv2d(conv, x)
    exact = conv.double()(x.double())
    assert distance(y.detach(), exact.detach()) < (0.015 if kind == "bf16" else 2.5e-6)


@pytest.mark.parametrize(
    ("kind", "amx"), [pytest.param("bf16", False, marks=needs_bf16), ("fp32", False), ("fp32", True)]
)
@pytest.mark.parametrize("frozen", [None, "x", "weight"])
def test_a_step_takes_gradients_of_weights_of_stride_2_from_here(kind, amx, frozen, monkeypatch):
    """And other gradients, and the convolution itself, from torch; with AMX, which is for bf16, in fp32 too."""
    monkeypatch.setattr("wrn.native.winograd.has_amx", lambda: amx)
    monkeypatch.setattr("wrn.native.operations.has_amx", lambda: amx)
    asked, ours, theirs = [], winograd.weight_gradient, torch.ops.aten.convolution_backward
    monkeypatch.setattr(winograd, "weight_gradient", lambda *given, **how: asked.append(how) or ours(*given, **how))
    monkeypatch.setattr(
        torch.ops.aten, "convolution_backward", lambda *given: asked.append(given[-1]) or theirs(*given)
    )
    conv = torch.nn.Conv2d(32, 64, 3, 2, 1, bias=False).to(memory_format=torch.channels_last)
    x, dy = random(4, 32, 16, 16, kind=kind), random(4, 64, 8, 8, seed=1, kind=kind)
    x.requires_grad_(frozen != "x")
    conv.weight.requires_grad_(frozen != "weight")
    with enabled(kind), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        y = conv2d(conv, x)
    y.backward(dy)
    wanted = {None: [[True, False, False], {"stride": 2}], "x": [{"stride": 2}], "weight": []}
    assert asked == wanted[frozen]
    weight = conv.weight.detach().to(x.dtype)
    assert torch.equal(y, F.conv2d(x.detach(), weight, None, 2, 1))
    exact_x, exact = x.detach().double().requires_grad_(), weight.double().requires_grad_()
    F.conv2d(exact_x, exact, None, 2, 1).backward(dy.double())
    bound = 0.009 if kind == "bf16" else 1.5e-6
    assert x.grad is None if frozen == "x" else distance(x.grad, exact_x.grad) < bound
    assert conv.weight.grad is None if frozen == "weight" else distance(conv.weight.grad, exact.grad) < bound


@needs_bf16
def test_a_gradient_of_another_type_than_the_map_is_not_read_as_of_its():
    """Autocast around kernels for fp32 makes the output, and so its gradient, bf16."""
    conv = torch.nn.Conv2d(32, 64, 3, 2, 1, bias=False).to(memory_format=torch.channels_last)
    x, dy = random(4, 32, 16, 16), random(4, 64, 8, 8, seed=1, kind="bf16")
    with enabled("fp32"), torch.autocast("cpu", torch.bfloat16):
        y = conv2d(conv, x)
    assert y.dtype == torch.bfloat16
    y.backward(dy)
    exact = torch.nn.grad.conv2d_weight(x.double(), conv.weight.shape, dy.double(), stride=2, padding=1)
    assert distance(conv.weight.grad, exact) < 1.5e-6


def gradients(model, precision="fp32", **ways):
    execution = choose("cpu", precision, **ways)
    recipe = wrn.recipe(model, data="digits", batch_size=32)
    images, labels = next(wrn.dataset(recipe).train.batches(recipe, seed=0, epoch=1))
    network = execution.place(wrn.network_of(recipe, 10, seed=0)).train()
    with execution.autocast():
        loss = F.cross_entropy(network(execution.arrange(images)), labels)
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()} | dict(network.named_buffers())


def test_a_networks_gradients_are_the_plain_ones_to_rounding():
    plain, fewer = gradients("wrn-16-2"), gradients("wrn-16-2", native=True)
    differ = 0
    for name, value in plain.items():
        assert distance(fewer[name], value.double()) < 0.02, name  # BN and ReLU magnify rounding; see docs/log.md
        differ += not torch.equal(fewer[name], value)
    assert differ > 30, "the kernels ran"


@by_kind
def test_what_is_computed_again_has_the_same_bits(kind):
    normal, low, lowest = (gradients("wrn-16-2", kind, native=True, memory=way) for way in ("normal", "low", "lowest"))
    assert all(torch.equal(value, low[name]) and torch.equal(value, lowest[name]) for name, value in normal.items())


@needs_bf16
def test_with_amx_convolutions_in_bf16_stay_direct(monkeypatch):
    conv, maps = torch.nn.Conv2d(64, 64, 3, padding=1), {kind: random(8, 64, 8, 8, kind=kind) for kind in KINDS}
    assert all(winograd.fits(conv, x) for x in maps.values())
    monkeypatch.setattr("wrn.native.winograd.has_amx", lambda: True)
    assert not winograd.fits(conv, maps["bf16"])
    assert winograd.fits(conv, maps["fp32"])


@needs_bf16
@pytest.mark.parametrize("channels", [16, 40])
def test_in_bf16_fewer_channels_and_odd_eights_do_not_fit(channels):
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
    assert winograd.fits(conv, random(8, channels, 8, 8))
    assert not winograd.fits(conv, random(8, channels, 8, 8, kind="bf16"))


def test_hooks_see_what_they_wait_for():
    network = wrn.create_model("wrn-10-2", num_classes=10, seed=0).to(memory_format=torch.channels_last)
    seen = []
    network.group1[0].conv2.register_forward_hook(lambda *_: seen.append(1))
    with enabled("fp32"):
        network(random(8, 3, 32, 32))
    assert seen == [1]


def test_it_is_chosen_unless_fp32_is_asked_for(tmp_path):
    if not available("fp32"):
        pytest.skip("needs a C++ compiler")
    assert not choose("cpu", "fp32").native
    assert choose("cpu", "fp32", native=True).native
    assert choose("cpu").native
    assert not choose("cpu", native=False).native
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=2, labels=200)
    runs = [
        wrn.train(recipe, tmp_path / name, device="cpu", precision="fp32", native=True, quiet=True) for name in "ab"
    ]
    assert (runs[0].path / "model.safetensors").read_bytes() == (runs[1].path / "model.safetensors").read_bytes()
    assert runs[0].env["execution"]["native"] is runs[0].result["native"] is True


def test_what_our_kernels_trained_is_not_taken_for_torchs(tmp_path, run_wrn):
    """Not as the same run where fp32 is asked for, and not in a table."""
    words = ("wrn-10-1", "--data", "digits", "--labels", 200, "--epochs", 1, "--device", "cpu")
    execution = ("--recipe", "authors", "--native", "true", "--precision", "fp32")
    code, _, err = run_wrn("train", *words, *execution)
    assert code == 0, err
    code, _, err = run_wrn("train", *words, "--recipe", "authors", "--precision", "fp32")
    assert (code, "native is True there and False now" in err) == (1, True), err
    assert run_wrn("train", *words, *execution)[0] == 0, "asked for again it is left alone"
    asked = ("--data", "digits", "--labels", 200, "--epochs", 1, "--seeds", 1, "--rows", "wrn-10-1")
    code, out, err = run_wrn("reproduce", "table4-small", *asked, "--dry-run")
    assert code == 0, err
    assert "1 of 1 runs to do" in out
