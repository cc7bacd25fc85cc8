"""What only a CUDA device shows: `pytest -m gpu`. Skipped, visibly, where there is none."""

import pytest
import torch
from safetensors.torch import load_file

import wrn
from wrn.data.loader import Resident
from wrn.training.optim import set_rates
from wrn.training.precision import choose
from wrn.training.readings import Readings
from wrn.training.steps import Steps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_trains_on_the_gpu_and_is_used_on_the_cpu(tmp_path, precision):
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=6, batch_size=32, augment="flip-crop", dropout=0.1)
    run = wrn.train(recipe, tmp_path / "run", device="cuda", precision=precision, quiet=True)
    assert run.result["test_error"] < 15
    assert run.metrics[-1]["peak_memory"] > 0
    kept = load_file(run.path / "predictions.safetensors")["logits"]
    pixels, _ = wrn.dataset("digits").test.pixels(slice(None))
    with torch.inference_mode():
        torch.testing.assert_close(wrn.load(run.path)(pixels), kept, rtol=1e-2, atol=1e-2)


def test_batches_are_the_same_on_both_devices():
    recipe = wrn.recipe("wrn-10-1", data="digits", augment="flip-crop")
    here, there = wrn.dataset("digits"), wrn.dataset("digits", device="cuda")
    pairs = zip(here.train.batches(recipe, seed=1, epoch=2), there.train.batches(recipe, seed=1, epoch=2), strict=True)
    for (images, labels), (images_gpu, labels_gpu) in pairs:
        torch.testing.assert_close(images, images_gpu.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(labels, labels_gpu.cpu())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory", ["low", "lowest"])
def test_low_memory_takes_less_and_changes_nothing_beyond_rounding(memory, precision):
    recipe = wrn.recipe("wrn-16-2", data="digits", augment="flip-crop")
    data, found, taken = wrn.dataset(recipe, device="cuda"), {}, {}
    images, labels = next(data.train.batches(recipe, seed=0, epoch=1))
    # One way has cuDNN's BN, the other torch's: where they round fp32 otherwise ReLUs turn, in float64 hardly any
    kind, near = (torch.float64, 1e-6) if precision == "fp32" else (torch.float32, 3e-2)
    for way in ("normal", memory):
        execution = choose("cuda", precision, memory=way)
        execution.apply()
        torch.backends.cudnn.benchmark = False  # which would choose other convolutions each time
        network = execution.place(wrn.network_of(recipe, 10, seed=0).to(kind)).train()
        learnt, before = wrn.objective(network, recipe, autocast=execution.autocast), torch.cuda.memory_allocated()
        loss, _ = learnt(execution.arrange(images.to(kind)), labels)
        taken[way] = torch.cuda.memory_allocated() - before
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        found[way] = {**gradients, **dict(network.named_buffers())}
    assert taken[memory] < (0.7 if memory == "low" else 0.35) * taken["normal"]
    for name, value in found["normal"].items():
        distance = torch.linalg.vector_norm((found[memory][name] - value).double())
        scale = torch.linalg.vector_norm(value.double())
        assert distance <= near * scale, name


def test_tf32_rounds_and_fp32_does_not():
    """A convolution of both, against float64."""
    conv, x = torch.nn.Conv2d(64, 64, 3, padding=1).cuda(), torch.randn(8, 64, 32, 32, device="cuda")
    with torch.no_grad():
        exact, far = torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1), {}
        for precision in ("fp32", "tf32"):
            with choose("cuda", precision).autocast():
                far[precision] = ((conv(x) - exact).norm() / exact.norm()).item()
    assert far["fp32"] < 1e-5  # Winograd's too, which cuDNN may choose
    assert 5e-5 < far["tf32"] < 2e-3


def test_compiled_run(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=2)
    run = wrn.train(recipe, tmp_path / "run", device="cuda", compile=True, quiet=True)
    assert run.metrics[-1]["images_per_second"] > 0


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("name", "graphs"), [("paper", False), ("paper", True), ("fast", False), ("fast", True)])
def test_no_step_waits_for_the_gpu(name, graphs):
    """Batches, losses and updates are only queued; numbers are read when they are there."""
    recipe = wrn.recipe("wrn-10-1", data="digits", recipe=name, augment="flip-crop", dropout=0.1)
    execution = choose("cuda", "bf16")
    data, network = (
        wrn.dataset(recipe, device="cuda"),
        execution.place(wrn.network_of(recipe, 10, 0, steps=100)).train(),
    )
    learnt = wrn.objective(network, recipe, samples=len(data.train), autocast=execution.autocast)
    optimizer = wrn.optimizer(network, recipe, execution.products)
    learnt.start_epoch(1)
    set_rates(optimizer, recipe, 10)  # one cycle begins at rate 0
    take = Steps(learnt, optimizer, graphs)
    readings, losses = Readings("cuda"), []
    batches = data.train.batches(recipe, seed=0, epoch=1, order=learnt.order)
    try:
        for step, (images, labels) in enumerate(batches, 1):
            losses += [each.loss for each in readings.add(step, *take(execution.arrange(images), labels))]
            if step == 4:  # a graph has been recorded, if one is to be
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    losses += [each.loss for each in readings.rest()]
    assert len(losses) == data.train.steps(recipe)
    assert losses[-1] < losses[0]


def test_deterministic_runs_have_the_same_bits(tmp_path):
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=2, augment="flip-crop", dropout=0.1)
    runs = [
        wrn.train(recipe, tmp_path / name, device="cuda", deterministic=True, quiet=True) for name in ("one", "other")
    ]
    assert (runs[0].path / "model.safetensors").read_bytes() == (runs[1].path / "model.safetensors").read_bytes()
    assert runs[0].result["bit_exact"] is True
    other = wrn.train(recipe, tmp_path / "usual", device="cuda", quiet=True)
    assert other.result["determinism"] == "not bit-exact: cuda without --deterministic"


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # that fp32 leaves unused, as it is to
@pytest.mark.parametrize("memory", ["normal", "low"])
@pytest.mark.parametrize("compile", [False, True])
def test_graphs_train_to_what_single_kernels_do(tmp_path, compile, memory):
    """Dropout's draws among it; of 12 batches an epoch 8 are replayed, the last is a smaller one."""
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=3, augment="flip-crop", dropout=0.3)
    ways = {"device": "cuda", "precision": "fp32", "compile": compile, "memory": memory, "deterministic": True}
    usual, graphs = (
        wrn.train(recipe, tmp_path / f"graphs-{graphs}", graphs=graphs, quiet=True, **ways) for graphs in (False, True)
    )
    assert graphs.env["execution"]["graphs"] is True
    for one, other in zip(usual.metrics, graphs.metrics, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
        assert other["test_loss"] == pytest.approx(one["test_loss"], rel=1e-2)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("optimizer", [{"recipe": "fast"}, {"optimizer": "rmsprop", "momentum": 0.9, "lr": 1e-3}])
def test_graphs_train_by_every_optimiser(tmp_path, optimizer):
    """Rates that change from step to step are not those that were recorded."""
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=2, **optimizer)
    ways = {"device": "cuda", "precision": "fp32", "deterministic": True, "quiet": True}
    usual = wrn.train(recipe, tmp_path / "usual", **ways)
    graphs = wrn.train(recipe, tmp_path / "graphs", graphs=True, **ways)
    for one, other in zip(usual.metrics, graphs.metrics, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=2e-2)


def test_no_graph_is_recorded_of_what_changes_from_step_to_step(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", drop_path=0.2)
    with pytest.raises(ValueError, match="stochastic depth leaves out other blocks in each step"):
        wrn.train(recipe, tmp_path / "run", device="cuda", graphs=True, quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="cannot compute blocks twice"):
        choose("cuda", memory="lowest", graphs=True)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_poisoned_batch_moves_no_weight_although_it_is_read_late(tmp_path, monkeypatch, graphs):
    """The steps after it are queued before its loss is known; nothing of them is saved."""
    real = Resident.batches

    def poisoned(self, recipe, *, epoch, start=0, **how):
        for step, (images, labels) in enumerate(real(self, recipe, epoch=epoch, start=start, **how), start + 1):
            yield (images * float("nan") if (epoch, step) == (2, 6) else images), labels

    monkeypatch.setattr(Resident, "batches", poisoned)
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=3)
    with pytest.raises(wrn.Error, match=r"epoch 2, learning rate .*: the loss of step 6 is nan"):
        wrn.train(recipe, tmp_path / "run", device="cuda", graphs=graphs, quiet=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0001-step-000000"]
