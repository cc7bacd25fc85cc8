"""Networks prepared for use alone answer as the ones they were made from."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

import wrn
from wrn.folding import foldable
from wrn.hardware import multiplies_bf16
from wrn.inference import Folded, OneDNN, _Rounded, fastest
from wrn.models.thin import ThinResNet
from wrn.native.library import available
from wrn.native.network import INPUT, Convolution, Program

needs_bf16 = pytest.mark.skipif(
    not multiplies_bf16(torch.device("cpu")), reason="needs a processor that multiplies bf16"
)

needs_avx2 = pytest.mark.skipif(not available("fp32"), reason="needs a processor with AVX2 and a C++ compiler")
needs_avx512 = pytest.mark.skipif(not available("bf16"), reason="needs a processor with AVX512-BF16 and a C++ compiler")
each_type = pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=needs_avx2), pytest.param(torch.bfloat16, marks=needs_avx512)]
)


def native(network, dtype=torch.float32):
    return Folded(network, partial(Program, dtype=dtype))


def trained(name, **fields):
    """With running statistics, scales and shifts as training leaves them: all different."""
    network = wrn.create_model(name, num_classes=10, seed=0, **fields)
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(generator=generator)
    return network.eval()


def distance(ours, exact):
    return (torch.linalg.vector_norm(ours.double() - exact) / torch.linalg.vector_norm(exact)).item()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("wrn-10-2", {}),
        ("wrn-13-1-b313", {}),
        ("wrn-16-0.5", {}),
        ("wrn-10-2", {"dropout": 0.3}),
        ("wrn-16-1", {"drop_path": 0.5}),
        ("wrn-16-1", {"drop_path": 0.5, "drop_path_per": "sample"}),
        ("pre-resnet-14-basic-cifar", {}),
        ("pre-resnet-11-cifar", {}),
        ("resnet-14-cifar", {"drop_path": 0.5}),
        ("wrn-18-0.5-imagenet", {}),
    ],
)
def test_folded_is_unfolded(name, fields):
    network, images = trained(name, **fields), torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, features = network.double()(images.double()), network.features(images.double())
    network.float()
    folded = Folded(network, OneDNN)
    assert distance(folded(images), exact) < 1e-5
    assert distance(folded.features(images), features) < 1e-5
    assert folded(images).dtype == torch.float32
    assert torch.equal(pickle.loads(pickle.dumps(folded))(images), folded(images))
    for size in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 5):  # more batch sizes than weights are laid out for
        assert distance(folded(images.repeat(3, 1, 1, 1)[:size]), exact.repeat(3, 1)[:size]) < 1e-5


@each_type
@pytest.mark.parametrize(
    ("name", "fields", "sides"),
    [
        ("wrn-10-2", {}, (32, 32)),
        ("wrn-10-1", {}, (30, 27)),  # no whole tiles, and maps that do not halve
        ("wrn-13-1-b313", {"in_channels": 1}, (20, 44)),
        ("wrn-10-1-b3", {"depth_rule": "true"}, (5, 5)),
        ("wrn-16-4", {"drop_path": 0.5}, (32, 32)),
        ("pre-resnet-14-basic-cifar", {}, (28, 31)),  # shortcuts without weights
        ("pre-resnet-11-cifar", {}, (32, 32)),
        ("resnet-14-cifar", {"drop_path": 0.5}, (32, 20)),
        ("wrn-18-1-imagenet", {}, (71, 100)),
        ("wrn-50-2-bottleneck", {}, (64, 64)),
        ("pre-resnet-200", {}, (33, 32)),
        ("wrn-10-3", {}, (32, 32)),  # half panels
    ],
)
def test_native_is_the_network(name, fields, sides, dtype):
    network, near = trained(name, **fields), 2e-5 if dtype == torch.float32 else 0.04
    assert Program.takes(network)
    images = torch.randn(5, fields.get("in_channels", 3), *sides, generator=torch.Generator().manual_seed(0))
    ours = native(copy.deepcopy(network), dtype)  # whose classifier becomes float64 below
    alone, together = ours(images[:1]), ours(images)
    with torch.no_grad():
        exact = network.double()(images.double())
    assert distance(alone, exact[:1]) < near
    assert distance(together, exact) < near
    with ThreadPoolExecutor(2) as pool:  # callers at once, each with maps of its own
        parts = [slice(3), slice(None), slice(1, None)]
        found = list(pool.map(lambda part: ours(images[part]), parts * 20))
    assert all(distance(logits, exact[part]) < near for logits, part in zip(found, parts * 20, strict=True))
    images[2, 0, 3, 3] = float("nan")
    assert ours(images).isnan().any(1).tolist() == [False, False, True, False, False]


@each_type
def test_native_takes_any_layout_and_nothing_else(dtype):
    network = trained("wrn-10-1")
    ours, images = native(network, dtype), torch.randn(6, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    strided = images.contiguous(memory_format=torch.channels_last)
    for part in (strided[:, :, 2:34, 1:33], strided[::2], strided.double(), images[:0], images[4:]):
        with torch.no_grad():
            exact = network(part.float())
        assert torch.equal(ours(part), ours(part.float().contiguous()))
        assert torch.allclose(ours(part), exact, atol=1e-3 if dtype == torch.float32 else 0.1)
    for wrong in (images[:, :1], images[0], images[:, :, :0], images.to("meta")):
        with pytest.raises(ValueError, match="must be"):
            ours(wrong)
    expected = ours(images)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert not again.layers._spare
        assert torch.equal(again(images), expected)
    torch.set_default_dtype(torch.float16)  # what is not said to be fp32 would be half as large
    try:
        assert torch.equal(native(network, dtype)(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@each_type
def test_natives_bits_do_not_depend_on_threads(dtype):
    ours = native(trained("wrn-10-2"), dtype)
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    threads, together = torch.get_num_threads(), ours(images)
    torch.set_num_threads(threads + 1)
    try:
        assert torch.equal(ours(images), together)
    finally:
        torch.set_num_threads(threads)


@each_type
@pytest.mark.parametrize(("name", "side"), [("wrn-10-2", 32), ("resnet-14-cifar", 25), ("wrn-18-0.25-imagenet", 97)])
def test_natives_answers_do_not_depend_on_how_many_images_fit(name, side, dtype, monkeypatch):
    """In the caches, and in memory between stages; of 16 channels and odd sides, which fill no whole lines."""
    ours = native(trained(name), dtype)
    images = torch.randn(9, 3, side, side, generator=torch.Generator().manual_seed(0))
    together, near = ours(images).double(), 2e-6 if dtype == torch.float32 else 0.01
    ours.layers._spare.clear()
    for room in (1, 2, 3, 4, 5, 7):  # of the first stage's images, as many of other sizes as there is room for
        monkeypatch.setattr("wrn.native.network._ROOM", room * 4 * dtype.itemsize * 32 * 32 * 32)
        assert distance(ours(images), together) < near
    monkeypatch.setattr("wrn.native.network._BETWEEN", 1)
    assert distance(ours(images), together) < near
    assert ours(images[:0]).shape == (0, together.shape[1])


@needs_bf16
@pytest.mark.parametrize("name", ["wrn-10-2", "wrn-13-1-b313", "wrn-16-0.5", "resnet-14-cifar", "wrn-18-1-imagenet"])
def test_folded_in_bf16_is_near(name):
    network, images = trained(name), torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rounded = Folded(network, partial(OneDNN, dtype=torch.bfloat16))(images)
    assert rounded.dtype == torch.float32
    with torch.no_grad():
        assert distance(rounded, network.double()(images.double())) < 0.02


@pytest.mark.parametrize("name", ["wrn-10-1", "pre-resnet-11-cifar", "nin"])
def test_the_fastest_is_chosen_once_and_near_enough(name, empty_cache):
    network = trained(name)
    found, how = fastest(network, name, 32)
    assert how in ("as it is", "bf16", "folded", "folded bf16", "native", "native bf16") or " for more" in how
    assert len(list(empty_cache.rglob("inference/*.json"))) == 1
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert distance(found(images), network(images).double()) < 0.03
        assert found.features(images).shape == network.features(images).shape
    assert fastest(network, name, 32)[1] == how, "the second time from the cache"


def test_what_is_fastest_is_kept_for_a_name_and_passed_over_where_it_spoils_a_network(empty_cache, monkeypatch):
    made = []

    def ways(network):
        broken = Folded(network, OneDNN)
        if network.fc.bias[0] == 1:
            broken.fc = torch.nn.Linear(64, 10)
        return {
            "as it is": lambda: made.append("as it is") or network,
            "folded": lambda: made.append("folded") or broken,
        }

    monkeypatch.setattr("wrn.inference._ways", ways)
    monkeypatch.setattr("wrn.inference._seconds", lambda candidate, _: 2 - isinstance(candidate, Folded))
    network, spoilt = trained("wrn-10-1"), trained("wrn-10-1")
    spoilt.fc.bias.data[0] = 1
    assert fastest(network, "wrn-10-1", 32)[1] == "folded"
    made.clear()
    assert fastest(network, "wrn-10-1", 32)[1] == "folded"
    assert made == ["folded"], "the others are not even made"
    assert fastest(spoilt, "wrn-10-1", 32) == (spoilt, "as it is")
    assert fastest(network, "wrn-10-1", 32)[1] == "folded", "whatever came between"


def test_where_few_and_many_images_want_different_forms_each_gets_its_own(empty_cache, monkeypatch):
    asked = []

    class Form(torch.nn.Module):
        def __init__(self, slowness):
            super().__init__()
            self.slowness = slowness
            self.eval()

        def forward(self, x):
            asked.append(self)
            return torch.ones(len(x), 10)

        features = forward

    def choose(**slowness):
        network = Form((10, 10))
        network.weight = torch.nn.Parameter(torch.zeros(1))
        ways = {"as it is": lambda: network} | {how: partial(Form, seconds) for how, seconds in slowness.items()}
        monkeypatch.setattr("wrn.inference._ways", lambda _: ways)
        return fastest(network, "-".join(map(str, slowness.values())), 8)

    monkeypatch.setattr("wrn.inference._seconds", lambda form, images: form.slowness[len(images) > 1] / 1000)
    assert choose(a=(1, 9), b=(1.1, 2), c=(9, 1.9))[1] == "b", "hardly slower than the best of each"
    for _ in range(2):  # then from the cache
        found, how = choose(a=(1, 9), b=(1.2, 3), c=(2, 1.9))
        # b takes 1.2 + 1.8/63 (n - 1), c 2 - 0.1/63 (n - 1): as long as each other for 27.5 images. a is ahead of b
        # for one image, but c of neither where a is behind
        assert how == "b for up to 27 images, c for more"
        assert [found.how(count) for count in (1, 27, 28, 64)] == ["b", "b", "c", "c"]
        assert not any(part.training for part in found.modules())
        asked.clear()
        for count in (1, 27, 28):
            found(torch.zeros(count, 3, 8, 8)), found.features(torch.zeros(count, 3, 8, 8))
        assert [form.slowness for form in asked] == [(1.2, 3)] * 4 + [(2, 1.9)] * 2
    kept = next(path for path in empty_cache.rglob("inference/*.json") if "1.2" in path.read_text())
    for damage in ({"size": float("inf")}, {"size": 1}, {"size": [8]}, {"seconds": {"as it is": [1]}}):
        kept.write_text(json.dumps(json.loads(kept.read_text()) | damage))
        assert choose(a=(1, 9), b=(1.2, 3), c=(2, 1.9))[1] == how, "timed anew"


def test_what_cannot_be_folded_is_refused():
    network = wrn.create_model("stochastic-depth-20", num_classes=10)  # whose shortcuts average
    assert not foldable(network)
    for refused in (network, wrn.create_model("wrn-10-1", num_classes=10).to("meta")):
        with pytest.raises(ValueError, match="cannot be folded"):
            Folded(refused, OneDNN)


def test_convolutions_with_biases():
    network = ThinResNet(1, 10, bias=True).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
    layers = [OneDNN, *([Program] if available("fp32") else [])]
    found = [Folded(copy.deepcopy(network), each)(images) for each in layers]
    with torch.no_grad():
        exact = network.double()(images.double())
    assert all(distance(logits, exact) < 1e-5 for logits in found)


def test_scoring_leaves_an_optimised_network_in_evaluation():
    rounded = _Rounded(trained("wrn-10-1"))
    wrn.evaluate(rounded, wrn.dataset("digits").test)
    assert not any(part.training for part in rounded.modules())


@needs_bf16
def test_what_rounding_would_spoil_is_left_as_it_is(empty_cache):
    network = trained("wrn-10-1")
    with torch.no_grad():
        network.fc.weight.mul_(1e-4)
        network.fc.bias.copy_(torch.linspace(-1e-7, 1e-7, 10))
        network.fc.weight.sub_(network.fc.weight.mean(1, keepdim=True) * 1.0)
        network.bn.bias.fill_(1e6)  # what is common to all channels, which the classifier ignores, takes all bits
    assert "bf16" not in fastest(network, "wrn-10-1", 32)[1]


def test_a_run_answers_the_same_when_optimised(run_wrn, tmp_path):
    words = ("train", "wrn-10-1", "--data", "digits", "--epochs", 4, "--out", "run")
    assert run_wrn(*words)[0] == 0
    plain, quick = wrn.load(tmp_path / "run"), wrn.load(tmp_path / "run", optimize=True)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype="uint8")
    assert (plain.predict(pictures) - quick.predict(pictures)).abs().max() < 0.05
    code, out, err = run_wrn("eval", "run", "--optimize", "--json")
    assert code == 0, err
    assert '"test_error"' in out
    assert (
        abs(
            wrn.prediction.evaluate_run(tmp_path / "run", optimize=True)["test_error"]
            - wrn.Run(tmp_path / "run").result["test_error"]
        )
        < 1.5
    )


@needs_avx2
def test_the_mean_over_a_large_flat_map_is_exact():
    """Summed in fp32 alone, all errors are to one side: 4% of 2,048 x 2,048 places."""
    weight = torch.zeros(16, 2, 1, 1)
    weight[:, 0] = 1
    with torch.inference_mode():
        mean = Program([Convolution(INPUT, 0, weight)], torch.float32)(torch.full((1, 2, 1024, 1024), 0.1))
    assert abs(mean / 0.1 - 1).max() < 1e-6


@pytest.mark.parametrize("name", ["resnet-8-cifar", "resnet-18"])
def test_what_is_not_a_number_stays_so_when_folded(name):
    """oneDNN's ReLU would make it zero."""
    images = torch.randn(3, 3, 32, 32)
    images[1, 0, 3, 3] = torch.nan
    assert Folded(trained(name), OneDNN)(images).isnan().any(1).tolist() == [False, True, False]
