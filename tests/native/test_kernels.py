"""The kernels against float64, and networks on them against fp32."""

import copy
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wrn
from wrn.hardware import multiplies_bf16
from wrn.native.library import capable, compiler, lacking, library, sealed
from wrn.native.operations import add, bn_relu, bn_relu_and_x, conv2d, enabled, weight_gradient
from wrn.native.recomputation import using
from wrn.training.precision import choose

AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))
needs_bf16 = pytest.mark.skipif(not capable("bf16"), reason="needs a processor with AVX512-BF16")
needs_fp32 = pytest.mark.skipif(not capable("fp32"), reason="needs a processor with AVX2")
KINDS = [pytest.param("bf16", marks=needs_bf16), pytest.param("fp32", marks=needs_fp32)]
EPSILON = {"bf16": 3e-3, "fp32": 5e-7}  # how far rounding alone takes what has 8 bits, or 24


def random(*shape, seed=0, kind="bf16"):
    values = torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1, shape).astype("float32"))
    values = values.bfloat16() if kind == "bf16" else values
    return values.contiguous(memory_format=torch.channels_last)


def distance(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels compiled with AMX's instructions emulated."""
    with pytest.MonkeyPatch.context() as patch:
        header = Path(__file__).with_name("emulated_amx.h")
        patch.setenv("CXX", f"{compiler()} -include {shlex.quote(str(header))}")
        patch.setenv("WRN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))  # whose names do not tell what is included
        library.cache_clear()
        found = library("bf16")
        library.cache_clear()
    return found


@pytest.fixture(
    params=[
        pytest.param("processor", marks=pytest.mark.skipif(not AMX, reason="needs a processor with AMX")),
        pytest.param("emulated", marks=needs_bf16),
    ]
)
def amx(request, monkeypatch):
    """What trains in bf16 takes the way of processors with AMX."""
    if request.param == "emulated":
        kernels = request.getfixturevalue("emulated")
        for module in ("library", "operations"):
            monkeypatch.setattr(f"wrn.native.{module}.library", lambda _: kernels)
        for module in ("operations", "winograd"):
            monkeypatch.setattr(f"wrn.native.{module}.has_amx", lambda: True)


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("images", "size", "channels", "out", "kernel", "stride"),
    [
        (32, 8, 16, 16, 3, 1),
        (100, 8, 32, 48, 3, 1),
        (5, 7, 48, 80, 3, 2),
        (33, 32, 16, 64, 3, 1),
        (2, 32, 64, 32, 1, 1),
        (40, 9, 48, 16, 1, 2),
        (1, 1, 16, 16, 3, 1),
        (3, 2, 32, 32, 3, 2),
        (64, 4, 320, 320, 3, 1),
    ],
)
def test_the_weight_gradient_is_float64s(images, size, channels, out, kernel, stride, threads):
    x = random(images, channels, size, size)
    y = F.conv2d(x.double(), torch.zeros(out, channels, kernel, kernel).double(), None, stride, kernel // 2)
    dy = random(*y.shape, seed=1)
    exact = torch.nn.grad.conv2d_weight(x.double(), (out, channels, kernel, kernel), dy.double(), stride, kernel // 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = weight_gradient(x, dy, kernel, stride)
        assert torch.equal(ours, weight_gradient(x, dy, kernel, stride))
    finally:
        torch.set_num_threads(before)
    assert ours.dtype == torch.float32
    assert distance(ours, exact) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("shape", [(7, 16, 5, 5), (3, 48, 1, 1), (64, 160, 8, 8)])
def test_bn_relu_and_its_gradients_are_float64s(shape, mean, kind):
    x, dy = random(*shape, kind=kind), random(*shape, seed=1, kind=kind)
    x = x + torch.tensor(mean, dtype=x.dtype)
    bn, exact = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    torch.manual_seed(0)
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    exact.load_state_dict(bn.state_dict())
    exact = exact.double()
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    with enabled(kind):
        y = bn_relu(bn, ours)
    assert type(y.grad_fn).__name__ == "_BnReluBackward"
    y.backward(dy)
    F.relu(exact(theirs)).backward(dy.double())
    wanted = F.relu(F.batch_norm(x.double(), None, None, exact.weight, exact.bias, training=True))
    far = 100 if kind == "fp32" and mean else 1  # x has fewer bits left of what BN leaves of it
    assert distance(y, wanted.detach()) < EPSILON[kind] * far
    # Where the input is 0 to rounding ReLU may fall on either side, so that few numbers differ by much
    assert distance(ours.grad, theirs.grad) < (0.01 if mean == 0 else 0.02) * (1 if kind == "bf16" else 0.01)
    assert distance(bn.weight.grad, exact.weight.grad) < EPSILON[kind] * far
    assert distance(bn.bias.grad, exact.bias.grad) < EPSILON[kind] * far
    assert distance(bn.running_mean, exact.running_mean) < 1e-5
    assert distance(bn.running_var, exact.running_var) < 1e-4
    assert bn.num_batches_tracked == 1
    with enabled(kind), torch.inference_mode():
        found = bn_relu(bn.eval(), x)
        assert distance(found, F.relu(exact.eval()(x.double())).detach()) < EPSILON[kind] * far


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 16, 5, 5), (64, 160, 8, 8)])
def test_a_sum_its_bn_and_their_gradients_are_float64s(shape, kind):
    """The sum's statistics are taken as it is made, and the gradients of both its uses meet in one pass."""
    a, b, dy, dx = (random(*shape, seed=seed, kind=kind) for seed in range(4))
    bn = nn.BatchNorm2d(shape[1])
    ours, theirs = (a.clone().requires_grad_(), b.clone().requires_grad_()), a.double().requires_grad_()
    with enabled(kind):
        total = add(*ours)
        y, again = bn_relu_and_x(bn, total)
    assert again.untyped_storage().data_ptr() == total.untyped_storage().data_ptr()
    torch.autograd.backward([y, again], [dy, dx])
    exact = theirs + b.double()
    rounded = exact + (total.double() - exact).detach()
    torch.autograd.backward(
        [F.relu(F.batch_norm(rounded, None, None, bn.weight.double(), bn.bias.double(), training=True)), rounded],
        [dy.double(), dx.double()],
    )
    assert torch.equal(total, (a.float() + b.float()).to(a.dtype))
    assert distance(ours[0].grad, theirs.grad) < (0.01 if kind == "bf16" else 1e-4)
    assert torch.equal(ours[0].grad, ours[1].grad)
    assert distance(bn.running_mean, 0.1 * total.double().mean((0, 2, 3))) < 1e-5
    with enabled(kind):
        _, alone = bn_relu_and_x(bn, add(a.requires_grad_(), b))
        alone.backward(dx)  # y is not used
    assert torch.equal(a.grad, dx)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [16, 80])
def test_sums_do_not_depend_on_the_number_of_threads(kind, channels):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            bn, x = nn.BatchNorm2d(channels), random(37, channels, 9, 9, kind=kind).requires_grad_()
            with enabled(kind):
                y, again = bn_relu_and_x(bn, add(x, x))
                torch.autograd.backward([y, again], [random(*x.shape, seed=seed, kind=kind) for seed in (1, 2)])
        finally:
            torch.set_num_threads(before)
        found.append([y, x.grad, bn.weight.grad, bn.bias.grad, bn.running_mean, bn.running_var])
    assert all(torch.equal(one, other) for each in found[1:] for one, other in zip(found[0], each, strict=True))


NETWORKS = ["wrn-10-2", "wrn-13-1-b313", "pre-resnet-11-cifar", "pre-resnet-8-cifar", "resnet-8-cifar"]


def gradients(network, recipe, images, labels, precision, kernels):
    """Of a copy of the network, and its running statistics."""
    execution = choose("cpu", precision, native=kernels)
    network = execution.place(copy.deepcopy(network)).train()
    with execution.autocast():
        logits = network(execution.arrange(images))
    F.cross_entropy(logits.float(), labels).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}, dict(network.named_buffers())


def cosines(found, exact):
    return {name: F.cosine_similarity(found[name].flatten(), exact[name].flatten(), dim=0).item() for name in exact}


@needs_bf16
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_as_near_to_fp32_as_torchs(name):
    """Of first weights, whose gradients cancel most, so that rounding alone turns them."""
    check_gradients(name)


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("name", NETWORKS)
def test_so_are_they_with_amx(name):
    check_gradients(name)


def check_gradients(name):
    recipe = wrn.recipe(name, data="digits")
    images, labels = next(wrn.dataset(recipe).train.batches(recipe, seed=0, epoch=1))
    network = wrn.network_of(recipe, 10, seed=0)
    exact, statistics = gradients(network, recipe, images, labels, "fp32", None)
    ours, kept = gradients(network, recipe, images, labels, "bf16", True)
    torchs = cosines(gradients(network, recipe, images, labels, "bf16", False)[0], exact)
    for tensor, cosine in cosines(ours, exact).items():
        assert 1 - cosine < 2 * (1 - torchs[tensor]) + 0.01, tensor
    for buffer, value in statistics.items():
        torch.testing.assert_close(kept[buffer], value, rtol=0.02, atol=0.01)


@needs_bf16
def test_gradients_point_where_fp32s_do():
    """Once training has begun, all of them at a cosine of 0.99; the way there has the losses of fp32."""
    recipe = wrn.recipe("wrn-10-2", data="digits")
    data, losses, networks = wrn.dataset(recipe), {}, {}
    for precision, kernels in (("fp32", None), ("bf16", True)):
        execution = choose("cpu", precision, native=kernels)
        network = networks[precision] = execution.place(wrn.network_of(recipe, 10, seed=0)).train()
        optimizer = wrn.optimizer(network, recipe)
        losses[precision] = []
        for epoch in (1, 2, 3):
            for images, labels in data.train.batches(recipe, seed=0, epoch=epoch):
                with execution.autocast():
                    loss = F.cross_entropy(network(execution.arrange(images)).float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[precision].append(loss.item())
    # In the first steps, before rounding has had time to lead elsewhere
    assert losses["bf16"][:8] == pytest.approx(losses["fp32"][:8], rel=0.05)
    images, labels = next(data.train.batches(recipe, seed=0, epoch=4))
    exact, _ = gradients(networks["fp32"], recipe, images, labels, "fp32", None)
    ours, _ = gradients(networks["fp32"], recipe, images, labels, "bf16", True)
    assert min(cosines(ours, exact).values()) > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_stays_so(kind):
    x = random(2, 16, 4, 4, kind=kind)
    x[1, 5, 2, 2] = float("nan")
    with enabled(kind):
        y = bn_relu(nn.BatchNorm2d(16), x)
        assert y[:, 5].isnan().all()
        assert not y[:, 6].isnan().any()
        with torch.inference_mode():
            assert bn_relu(nn.BatchNorm2d(16).eval(), x).isnan().sum() == 1


@needs_bf16
def test_hooks_see_what_they_wait_for():
    bn, conv, x = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False), random(2, 16, 4, 4)
    seen = []
    bn.register_forward_hook(lambda *parts: seen.append(parts[2]))
    conv.register_full_backward_hook(lambda *_: seen.append("backward"))
    with enabled("bf16"), torch.autocast("cpu", torch.bfloat16):
        conv2d(conv, bn_relu(bn, x)).sum().backward()
    assert seen[0].min() < 0, "the output of BN, before ReLU"
    assert seen[1] == "backward"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", ["the other kind", "3 channels", "contiguous layout", "double weights", "off"])
def test_what_the_kernels_are_not_for_goes_to_torch(changed, kind):
    channels = 3 if changed == "3 channels" else 16
    other = "fp32" if kind == "bf16" else "bf16"
    bn = nn.BatchNorm2d(channels)
    x = random(2, channels, 4, 4, kind=other if changed == "the other kind" else kind)
    if changed == "contiguous layout":
        x = x.contiguous()
    if changed == "double weights":
        bn, x = bn.double(), x.double()
    if changed == "off":
        y = bn_relu(bn, x)
    else:
        with enabled(kind):
            y = bn_relu(bn, x)
    assert type(y.grad_fn).__name__ == "ReluBackward0"


@needs_bf16
def test_autocast_rounds_maps_in_fp32_before_a_convolution():
    with enabled("bf16"), torch.autocast("cpu", torch.bfloat16):
        y = conv2d(nn.Conv2d(32, 32, 3, padding=1, bias=False), random(8, 32, 8, 8, kind="fp32"))
    assert y.dtype == torch.bfloat16


@needs_fp32
def test_maps_in_bf16_are_not_for_the_kernels_of_fp32():
    with enabled("fp32"), pytest.raises(RuntimeError, match="should be the same"):
        conv2d(nn.Conv2d(32, 32, 3, padding=1, bias=False), random(8, 32, 8, 8, kind="bf16"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses_is_refused(kind):
    x = random(8, 48, 8, 8, kind=kind)
    with enabled(kind), pytest.raises(RuntimeError, match="to have 32 channels"):
        conv2d(nn.Conv2d(32, 32, 3, padding=1, bias=False, dtype=x.dtype), x)
    with enabled(kind):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            bn_relu(nn.BatchNorm2d(16), random(1, 16, 1, 1, kind=kind))
        for bn in (nn.BatchNorm2d(16), nn.BatchNorm2d(16).eval()):
            with torch.no_grad(), pytest.raises(RuntimeError, match="should contain 32 elements not 16"):
                bn_relu(bn, random(2, 32, 4, 4, kind=kind))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{} -DNOTHING", None),
        ("/nowhere/g++", "No such file or directory: '/nowhere/g++'"),
        ("{} --no-such-option", "unrecognized"),
        ("{} '", "No closing quotation"),
    ],
)
@needs_fp32
def test_the_compiler_may_have_options_and_is_named_if_it_fails(words, says, empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", words.format(compiler()))
    lacking.cache_clear()
    library.cache_clear()
    try:
        found = lacking("fp32")
        assert found is None if says is None else says in found
        assert "WRN_CACHE_DIR" not in (found or "")
    finally:
        lacking.cache_clear()
        library.cache_clear()


@pytest.fixture
def kept(empty_cache):
    """A compiled library, made by another process: this one would go on with what it has loaded."""
    kind = "bf16" if multiplies_bf16(torch.device("cpu")) else "fp32"
    compiling = f"from wrn.native.library import lacking; assert lacking('{kind}') is None"
    subprocess.run([sys.executable, "-c", compiling], check=True)
    (path,) = empty_cache.glob(f"native/{kind}-*.so")
    lacking.cache_clear()
    library.cache_clear()
    yield path
    lacking.cache_clear()
    library.cache_clear()


TRAIN = ("train", "wrn-10-1", "--data", "digits", "--labels", 64, "--epochs", 1, "--out", "run")


@needs_fp32
def test_half_a_library_is_compiled_again(kept, run_wrn, tmp_path):
    """To load it would kill the process."""
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    code, _, err = run_wrn(*TRAIN)
    assert code == 0, err
    assert wrn.Run(tmp_path / "run").env["execution"]["native"]
    assert len(kept.read_bytes()) == len(whole)


@needs_fp32
def test_a_kept_library_that_cannot_be_loaded_is_named_and_training_goes_on(kept, run_wrn, tmp_path):
    kept.write_bytes(sealed(b"as if from a folder that nothing may be run from"))
    code, out, err = run_wrn(*TRAIN)
    assert code == 0, err
    assert f"delete {kept}" in out + err
    assert not wrn.Run(tmp_path / "run").env["execution"]["native"]


@needs_bf16
def test_without_a_compiler_training_goes_on_and_says_what_it_lacks(run_wrn, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")  # a program that fails
    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))
    lacking.cache_clear()
    library.cache_clear()
    try:
        words = ("train", "wrn-10-1", "--data", "digits", "--epochs", 1, "--precision", "bf16", "--out")
        code, out, err = run_wrn(*words, "run")
        assert code == 0, err
        assert "native kernels: false failed" in out + err
        assert not wrn.Run(tmp_path / "run").env["execution"]["native"]
        code, _, err = run_wrn(*words, "other", "--native", "true")
        assert (code, "native kernels: false failed" in err) == (1, True), err
    finally:
        lacking.cache_clear()
        library.cache_clear()


@needs_bf16
def test_no_convolution_of_a_step_falls_back_to_a_slow_implementation(tmp_path):
    """oneDNN tells which it takes, for layers that are wide enough for its tiles."""
    words = ["train", "wrn-10-2", "--data", "digits", "--labels", "320", "--epochs", "1", "--precision", "bf16"]
    told = subprocess.run(
        [sys.executable, "-m", "wrn", *words, "--out", str(tmp_path / "run")],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    steps = told.split("epoch 1/1")[0]  # evaluation in fp32 follows
    taken = [line.split(",")[5:8] for line in steps.splitlines() if ",exec,cpu,convolution," in line]
    assert {what for _, _, what in taken} >= {"forward_training", "backward_data"}
    wanted = "amx" if AMX else "avx512"
    assert all(wanted in implementation for _, implementation, _ in taken), taken


@needs_bf16
def test_the_loss_falls_as_it_does_in_fp32():
    """200 steps on real digits: the fast path's curve lies within the spread of five seeds in fp32.

    In means over 20 steps, which differ between seeds by their draws of weights and batches.
    """
    curves = {}
    for precision, seeds in (("fp32", range(5)), ("bf16", range(5, 6))):
        execution = choose("cpu", precision)
        for seed in seeds:
            recipe = wrn.recipe("wrn-10-1", data="digits", batch_size=32)
            data, network = wrn.dataset(recipe), execution.place(wrn.network_of(recipe, 10, seed)).train()
            optimizer, losses = wrn.optimizer(network, recipe), []
            for epoch in range(1, 6):
                for images, labels in data.train.batches(recipe, seed=seed, epoch=epoch):
                    with execution.autocast():
                        loss = F.cross_entropy(network(execution.arrange(images)).float(), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.item())
            curves[precision, seed] = np.log(np.array(losses[:200]).reshape(10, 20).mean(1))
    exact = np.stack([curve for (precision, _), curve in curves.items() if precision == "fp32"])
    middle, spread = exact.mean(0), exact.std(0, ddof=1)
    for (precision, seed), curve in curves.items():
        if precision == "bf16":
            # Of a sixth draw from the same: 99% lie within 4.6 standard deviations estimated from five (Student's t)
            assert (abs(curve - middle) < 4.6 * spread * (1 + 1 / 5) ** 0.5).all(), (seed, curve, middle, spread)


def test_narrow_shortcuts_have_a_gradient_that_ends(start):
    """oneDNN's own of a strided 1x1 convolution of 2 channels never ends where the layout is channels_last."""
    code = """
import torch
from wrn.native.operations import conv2d
x = torch.randn(128, 2, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
conv = torch.nn.Conv2d(2, 3, 1, 2, bias=False).to(memory_format=torch.channels_last)
for _ in range(40):
    conv.zero_grad()
    conv2d(conv, x).square().sum().backward()
y = torch.nn.functional.conv2d(x[:, :, ::2, ::2].double(), conv.weight.double().detach().requires_grad_())
assert torch.allclose(conv2d(conv, x).double(), y, atol=1e-5)
"""
    process = start(sys.executable, "-c", code)
    assert process.wait(timeout=600) == 0, process.stderr.read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_maps_gradient_is_read_as_such(kind):
    """The backward pass of `cat` hands out parts, whose strides look like those of channels_last."""
    x, dy = random(8, 32, 32, 32, kind=kind), random(8, 64, 16, 16, kind=kind, seed=1)
    pair = [nn.Conv2d(32, 32, 3, 2, 1, bias=False) for _ in range(2)]
    with enabled(kind), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        torch.cat([conv2d(conv, x) for conv in pair], 1).backward(dy)
    exact = [copy.deepcopy(conv).double() for conv in pair]
    for conv in exact:
        conv.zero_grad()
    torch.cat([conv(x.double()) for conv in exact], 1).backward(dy.double())
    for ours, known in zip(pair, exact, strict=True):
        assert distance(ours.weight.grad, known.weight.grad) < (0.02 if kind == "bf16" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_a_sum_that_was_changed_since_are_taken_again(kind):
    p, q = (random(4, 32, 8, 8, kind=kind, seed=seed).requires_grad_() for seed in range(2))
    bn, exact = nn.BatchNorm2d(32), nn.BatchNorm2d(32).double()
    with enabled(kind):
        total = add(p, q)
        total.mul_(3).add_(1)
        y = bn_relu(bn, total)
    assert distance(y.detach(), F.relu(exact(total.double())).detach()) < EPSILON[kind] * 10
    assert distance(bn.running_mean, exact.running_mean) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_what_is_kept_for_the_backward_pass_may_come_back_in_another_layout(kind, memory):
    """As from hooks that keep it elsewhere: to save memory, or on a disk."""
    x, dy = random(8, 32, 32, 32, kind=kind), random(8, 64, 16, 16, kind=kind, seed=1)
    network = nn.ModuleList(
        [nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.Conv2d(32, 64, 3, 2, 1, bias=False)]
    )

    def gradients_with(pack):
        network.zero_grad()
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        around = torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept)
        with enabled(kind), using(memory), around, torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            bn, first, second = network
            conv2d(second, conv2d(first, bn_relu(bn, given))).backward(dy)
        return [given.grad, *(parameter.grad.clone() for parameter in network.parameters())]

    usual, elsewhere = gradients_with(lambda kept: kept), gradients_with(lambda kept: kept.contiguous())
    assert all(torch.equal(one, other) for one, other in zip(usual, elsewhere, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_compute_something_else_are_asked_themselves(kind):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)

    class Shifted(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    x, conv, bn = random(8, 32, 16, 16, kind=kind), Standardised(32, 32, 3, 1, 1, bias=False), Shifted(32)
    with enabled(kind), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        assert torch.equal(conv2d(conv, x), conv(x))
        assert torch.equal(bn_relu(bn, x), F.relu(bn(x)))


@pytest.mark.parametrize("options", [{"padding": 1}, {"groups": 2}, {"padding": "valid"}])
def test_narrow_shortcuts_of_another_kind_are_torchs(options):
    conv, x = nn.Conv2d(4, 16, 1, 2, bias=False, **options), random(2, 4, 8, 8, kind="fp32")
    assert torch.equal(conv2d(conv, x), conv(x))


@pytest.mark.parametrize("kind", KINDS)
def test_lack_of_memory_in_a_kernel_is_an_error(kind, start):
    """And not the end of the process, as an exception out of C++ is."""
    code = f"""
import resource, sys, torch
from wrn.hardware import out_of_memory
from wrn.native.operations import bn_relu, enabled
dtype = torch.bfloat16 if "{kind}" == "bf16" else torch.float32
x = torch.zeros(1024, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
bn = torch.nn.BatchNorm2d(64)
with enabled("{kind}"):
    bn_relu(bn, x[:1])
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        bn_relu(bn, x)
    except MemoryError as error:
        print(out_of_memory(error), flush=True)
"""
    process = start(sys.executable, "-c", code)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, "out of memory: no more could be had for a map's sums" in out) == (0, True), out + err


@needs_fp32
def test_a_kept_library_that_cannot_be_read_is_named(kept):
    kept.unlink()
    kept.mkdir()  # nothing that anybody, even the superuser, can read
    found = lacking("bf16" if multiplies_bf16(torch.device("cpu")) else "fp32")
    assert f"Is a directory: '{kept}'" in found
    assert "set WRN_CACHE_DIR to a folder" in found
