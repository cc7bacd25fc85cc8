"""What a step minimises beyond the labels: companions, hints, a teacher's answers; and the optimisers these need."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import wrn
from wrn.data.loader import Resident
from wrn.training.objective import squared_hinge

SMALL = {"image_size": 16, "labels": 160, "batch_size": 32, "epochs": 3}


def batches(recipe, epochs):
    data = wrn.dataset(recipe)
    for epoch in range(1, epochs + 1):
        for images, labels in data.train.batches(recipe, seed=0, epoch=epoch):
            yield epoch, images, labels


def copied(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = wrn.recipe("wrn-10-1", data="digits", **SMALL)
    return wrn.train(recipe, tmp_path_factory.mktemp("teacher") / "run", device="cpu", precision="fp32", quiet=True)


def student(teacher, **fields):
    fields = {"preprocess": "meanstd", "teacher": str(teacher.path), **SMALL, **fields}
    return wrn.recipe("fitnet", data="digits", recipe="fitnet", **fields)


def test_hints_lower_the_distance_and_leave_the_upper_half_untouched(teacher):
    recipe = student(teacher, epochs=12, stages=(11,), conv_init="fan-in")
    network, master = wrn.network_of(recipe, 10, seed=0), wrn.load(teacher.path).network
    images = next(batches(recipe, 1))[1]
    objective = wrn.objective(network, recipe, master, images=images)
    optimizer = wrn.optimizer(objective.trained, recipe)
    before, losses, last = copied(network), [], 0
    for epoch, images, labels in batches(recipe, 11):
        if epoch != last:
            if epoch == 11:
                for name, tensor in network.state_dict().items():
                    moved = not torch.equal(tensor, before[name])
                    assert moved == name.startswith("lower."), f"{name}: hints end at the guided layer"
            objective.start_epoch(epoch)
            wrn.start_epoch(optimizer, recipe, epoch)
            last = epoch
        loss, logits = objective(images, labels)
        assert logits.shape == (len(labels), 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    hints = losses[:50]  # 5 steps an epoch
    assert np.mean(hints[-10:]) < 0.6 * hints[0]
    assert not torch.equal(network.fc2.weight, before["fc2.weight"]), "the second stage trains the whole network"
    assert all(parameter.requires_grad and parameter.grad is None for parameter in master.parameters())


def test_the_hint_is_half_the_squared_distance_between_regressor_and_the_teachers_part(teacher):
    recipe = student(teacher, hint="group3", stages=(2,), conv_init="fan-in")
    network, master = wrn.network_of(recipe, 10, seed=0).double(), wrn.load(teacher.path).network.double()
    images = next(batches(recipe, 1))[1].double()
    objective = wrn.objective(network, recipe, master, images=images)
    regressor = objective.trained["regressor"].double()
    objective.start_epoch(1)
    x = F.relu(master.group3[0].bn1(master.group2(master.group1(master.conv1(images)))))
    hint = master.group3[0].shortcut(x) + master.group3[0].conv2(
        F.relu(master.group3[0].bn2(master.group3[0].conv1(x)))
    )
    guided = images
    for number, layer in enumerate(network.lower):
        pieces = layer.conv(guided)
        guided = torch.maximum(*pieces.chunk(2, dim=1))
        if number in (4, 10):
            guided = F.max_pool2d(guided, 2)
    pieces = F.conv2d(guided, regressor.conv.weight, regressor.conv.bias)  # 4 x 4, 2 x 64 channels, kernel 1 x 1
    distance = torch.maximum(*pieces.chunk(2, dim=1)) - hint
    loss = objective(images, torch.zeros(len(images), dtype=torch.int64))[0]
    assert loss.item() == pytest.approx((distance**2).sum().item() / 2 / (len(images) * 4 * 4), rel=1e-5)


def test_the_first_part_that_is_small_enough_gives_the_hint_and_others_are_refused(teacher):
    recipe = student(teacher)
    network, master = wrn.network_of(recipe, 10, seed=0), wrn.load(teacher.path).network
    images = next(batches(recipe, 1))[1]
    regressor = wrn.objective(network, recipe, master, images=images).trained["regressor"]
    assert regressor.conv.weight.shape == (2 * 64, 80, 1, 1)
    for hint, says in (("group2", "32x8x8; it must be a map of at most 4x4"), ("group9", "it has conv1, group1")):
        with pytest.raises(ValueError, match=says):
            wrn.objective(network, dataclasses.replace(recipe, hint=hint), master, images=images)


def test_answers_are_the_published_cost(teacher):
    """Hard cross-entropy plus lambda times that of the softened distributions, both softmaxes divided by 3."""
    recipe = student(teacher, epochs=576, conv_init="fan-in")
    network, master = wrn.network_of(recipe, 10, seed=0).double(), wrn.load(teacher.path).network.double()
    _, images, labels = next(batches(recipe, 1))
    objective = wrn.objective(network, recipe, master, images=images.double())
    for epoch, weight in (
        (289, 4.0),
        (292, 4.0),
        (293, 4 - 3 / 396),
        (400, 4 - 3 * 108 / 396),
        (576, 4 - 3 * 284 / 396),
    ):
        objective.start_epoch(epoch)
        assert objective.weight.item() == pytest.approx(weight)
    objective.start_epoch(400)
    loss, logits = objective(images.double(), labels)
    ours, theirs = logits.detach().numpy(), master(images.double()).detach().numpy()

    def softmax(scores):
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    hard = -np.log(softmax(ours)[np.arange(len(labels)), labels.numpy()]).mean()
    soft = -(softmax(theirs / 3) * np.log(softmax(ours / 3))).sum(1).mean()
    assert loss.item() == pytest.approx(hard + (4 - 3 * 108 / 396) * soft, rel=1e-5)


def test_lambda_ends_at_one():
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=600, teacher_fade=(4 / 600, 400 / 600))
    network = wrn.create_model("wrn-10-1", num_classes=10)
    objective = wrn.objective(network, recipe, network, images=torch.zeros(1, 3, 32, 32))
    for epoch, weight in ((4, 4.0), (5, 4 - 3 / 396), (399, 4 - 3 * 395 / 396), (400, 1.0), (600, 1.0)):
        objective.start_epoch(epoch)
        assert objective.weight.item() == pytest.approx(weight)


def test_squared_hinge_is_caffes():
    draws = np.random.default_rng(0)
    scores, labels = draws.normal(size=(6, 4)), draws.integers(0, 4, 6)
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        for place, score in enumerate(row):
            total += max(0.0, 1 - score if place == label else 1 + score) ** 2
    found = squared_hinge(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.item() == pytest.approx(total / 6)


def test_companions_count_until_their_stage_is_over():
    recipe = wrn.recipe("dsn", data="digits", recipe="dsn", **{**SMALL, "dropout": 0.0, "epochs": 4, "stages": (3,)})
    network = wrn.network_of(recipe, 10, seed=0)
    objective = wrn.objective(network, recipe)
    _, images, labels = next(batches(recipe, 1))
    objective.start_epoch(2)
    loss, logits = objective(images, labels)
    parts = [squared_hinge(each, labels) for each in network.with_companions(images)]
    assert loss.item() == pytest.approx(sum(parts).item(), rel=1e-6)
    torch.testing.assert_close(logits, network(images))
    objective.start_epoch(3)
    assert objective(images, labels)[0].item() == pytest.approx(parts[0].item(), rel=1e-6)
    with pytest.raises(ValueError, match="takes no teacher"):
        wrn.objective(network, recipe, network, images=images)


def test_layers_learn_and_decay_as_their_papers_say():
    recipe = wrn.recipe("dsn", data="cifar10", recipe="own")
    network = wrn.network_of(recipe, 10, seed=0)
    optimizer = wrn.optimizer(network, recipe)
    places = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def of(name):
        group = places[id(network.get_parameter(name))]
        return group["lr"], group["weight_decay"]

    assert of("stage1.conv2.weight") == (0.025, 5e-4)
    assert of("stage1.conv2.bias") == (0.05, 0.0)
    assert of("stage3.conv3.weight") == (pytest.approx(0.0025), 5e-4)
    assert of("companion2.weight") == (pytest.approx(0.025 * 0.001), 5e-4)
    wrn.start_epoch(optimizer, recipe, 41)  # after 20,000 iterations of 100 images
    assert of("companion2.weight")[0] == pytest.approx(0.025 * 0.001 * 3**-0.75)
    assert of("companion2.bias")[0] == pytest.approx(0.025 * 0.002 * 3**-0.75)
    assert of("stage1.conv2.weight")[0] == 0.025
    plain = wrn.optimizer(network, wrn.recipe("dsn", data="cifar10"))
    assert [(group["lr"], group["weight_decay"]) for group in plain.param_groups] == [(0.1, 5e-4)]


def test_norms_stay_limited_and_rmsprop_is_the_formula():
    recipe = wrn.recipe("fitnet", data="digits", recipe="own", teacher="none", layer_rules=True)
    network = wrn.network_of(recipe, 10, seed=0)
    optimizer = wrn.optimizer(network, recipe)
    weight = network.fc2.weight
    before, mean_square = weight.detach().double().clone(), 0.0
    gradients = torch.randn(2, *weight.shape, generator=torch.Generator().manual_seed(0)).double()
    for gradient in gradients:
        weight.grad = gradient.float()
        optimizer.step()
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        before -= 0.005 * gradient / (mean_square.sqrt() + 1e-5)
    torch.testing.assert_close(weight.detach().double(), before, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        network.lower[3].conv.weight.mul_(1000)
    network.lower[3].conv.weight.grad = torch.zeros_like(network.lower[3].conv.weight)
    optimizer.step()
    lengths = network.lower[3].conv.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.9))


def test_a_new_stage_forgets_what_the_optimiser_remembered():
    recipe = wrn.recipe("dsn", data="digits", recipe="dsn", epochs=4, stages=(3,))
    network = wrn.create_model("dsn", num_classes=10, image_size=8)
    optimizer = wrn.optimizer(network, recipe)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    wrn.start_epoch(optimizer, recipe, 2)
    assert optimizer.state
    wrn.start_epoch(optimizer, recipe, 3)
    assert not optimizer.state


def test_what_is_frozen_stays_where_a_block_is_left_out():
    recipe = wrn.recipe("stochastic-depth-8", data="digits")
    network = wrn.network_of(recipe, 10, seed=0)
    network.conv1.requires_grad_(False)
    before = network.conv1.weight.clone()
    optimizer = wrn.optimizer(network, recipe)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(network.conv1.weight, before)


def test_a_block_left_out_is_decayed_and_moved_on_like_the_others():
    """As with a gradient vector of zeros (the released code), and not passed over (PyTorch's way with none)."""
    recipe = wrn.recipe("stochastic-depth-8", data="digits", drop_path=0.9)
    network = wrn.create_model("stochastic-depth-8", num_classes=10, drop_path=0.9)
    optimizer = wrn.optimizer(network, recipe)
    weight = network.group3[0].conv1.weight
    with torch.no_grad():
        before = weight.double().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    assert weight.grad is None
    optimizer.step()
    velocity = 1.0 + 5e-4 * before
    before -= 0.1 * (1.0 + 5e-4 * before + 0.9 * velocity)
    gradient = 5e-4 * before
    velocity = 0.9 * velocity + gradient
    before -= 0.1 * (gradient + 0.9 * velocity)
    torch.testing.assert_close(weight.detach().double(), before, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("network", "fields"),
    [
        ("fitnet", {"preprocess": "gcn-mean", "stages": (3,), "pad": 3, "augment": "flip-crop"}),
        ("dsn", {"stages": (3,), "lr": 0.001}),
        ("stochastic-depth-8", {"padding": "zero", "augment": "flip-crop", "val": 40}),
        ("wrn-10-1", {"drop_path": 0.5, "drop_path_per": "sample"}),
        ("wrn-10-1", {"sampling": "importance"}),
    ],
)
def test_interrupted_runs_end_with_the_same_bits(network, fields, tmp_path, monkeypatch):
    if network == "fitnet":
        master = wrn.recipe("wrn-10-1", data="digits", **{**SMALL, "epochs": 1, "preprocess": "gcn-mean"})
        fields["teacher"] = str(wrn.train(master, tmp_path / "master", device="cpu", precision="fp32", quiet=True).path)
    recipe = wrn.recipe(network, data="digits", recipe="own", **{**SMALL, **fields})

    def train(name):
        return wrn.train(recipe, tmp_path / name, device="cpu", precision="fp32", quiet=True)

    whole = train("whole")
    real, made = Resident.batches, 0

    def interrupting(*arguments, **options):
        nonlocal made
        for batch in real(*arguments, **options):
            made += 1
            if made in (3, 8, 12):  # in the first stage, the second epoch, the last
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Resident, "batches", interrupting)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train("broken")
    train("broken")
    there, here = (load_file(path / "model.safetensors") for path in (whole.path, tmp_path / "broken"))
    assert all(torch.equal(there[name], here[name]) for name in there)
    model, kept = wrn.load(whole.path), load_file(whole.path / "predictions.safetensors")
    pixels, labels = wrn.dataset(recipe).test.pixels(slice(0, 50))
    assert torch.equal(kept["labels"][:50], labels)
    torch.testing.assert_close(model(pixels).detach(), kept["logits"][:50], rtol=1e-3, atol=1e-4)


def test_a_recipe_with_a_teacher_wants_the_teacher():
    recipe = wrn.recipe("wrn-10-1", data="digits", teacher="somewhere")
    with pytest.raises(ValueError, match=r"teacher=wrn.load\(RUN\)"):
        wrn.objective(wrn.create_model("wrn-10-1", num_classes=10), recipe)


def test_a_teacher_in_memory_teaches_the_same(teacher, tmp_path):
    recipe = student(teacher, epochs=2, stages=(2,))
    named = wrn.train(recipe, tmp_path / "named", device="cpu", precision="fp32", quiet=True)
    model = wrn.load(teacher.path)
    unnamed = dataclasses.replace(recipe, teacher=None)
    options = {"device": "cpu", "precision": "fp32", "quiet": True}
    given = wrn.train(unnamed, tmp_path / "given", teacher=model, **options)
    there, here = (load_file(run.path / "model.safetensors") for run in (named, given))
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert given.recipe.teacher.startswith("in-memory:")
    with pytest.raises(wrn.Error, match="give the same one again"):
        wrn.train(given.recipe, tmp_path / "again", **options)


def test_the_fast_recipe_shuffles_with_a_teacher_in_memory(teacher, tmp_path):
    model, options = wrn.load(teacher.path), {"device": "cpu", "precision": "fp32", "quiet": True}
    fields = {"data": "digits", **SMALL}
    run = wrn.train(wrn.recipe("wrn-10-1", recipe="fast", **fields), tmp_path / "run", teacher=model, **options)
    assert run.recipe.sampling == "shuffled"
    asked = wrn.recipe("wrn-10-1", sampling="importance", **fields)
    with pytest.raises(ValueError, match="shuffled where there is a teacher"):
        wrn.train(asked, tmp_path / "refused", teacher=model, **options)


def test_what_a_teacher_must_share(teacher, tmp_path, run_wrn, pictures):
    own = ("train", "fitnet", "--recipe", "own", "--epochs", "2", "--image-size", "16")
    for words, code, says in (
        (("--data", "digits"), 2, "name one with --teacher RUN"),
        (("--data", "digits", "--teacher", teacher.path), 2, "with other numbers than zca has here"),
        (("--data", "digits", "--teacher", tmp_path / "none"), 1, "no such run"),
        (("--data", f"folder:{pictures}", "--teacher", teacher.path), 2, "knows other classes"),
        (
            ("--data", "digits", "--teacher", teacher.path, "--preprocess", "meanstd", "--image-size", "20"),
            2,
            "16 pixels",
        ),
    ):
        found, _, err = run_wrn(*own, *words)
        assert (found, err.splitlines()[-1].startswith("wrn: error: "), says in err) == (code, True, True), err


def test_a_changed_teacher_is_noticed(teacher, tmp_path):
    recipe = student(teacher, epochs=2, stages=(2,))
    run = wrn.train(recipe, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
    (run.path / "result.json").unlink()
    model = wrn.load(teacher.path)
    kept = dataclasses.replace(recipe, teacher=None)
    with torch.no_grad():
        model.network.fc.bias.add_(1)
    with pytest.raises(wrn.Error, match="teacher"):
        wrn.train(kept, tmp_path / "run", device="cpu", precision="fp32", quiet=True, teacher=model)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("wrn-10-1", "--stages", 3), "stages (3,): the paper of wrn-10-1 has none"),
        (("wrn-10-1", "--layer-rules", "true"), "layer_rules True: the paper of wrn-10-1 has none"),
        (("wrn-10-1", "--conv-init", "published"), "conv_init published: the paper of wrn-10-1 has none"),
        (("wrn-10-1", "--recipe", "dsn"), "conv_init published of recipe dsn: the paper of wrn-10-1 has none"),
        (("wrn-10-1", "--pad", 3), "augment none does not pad"),
        (("wrn-10-1", "--depth-rule", "true", "--hint", "group3"), "there is no stage of hints"),
        (("resnet-110", "--recipe", "own", "--lr-decay", 0.5), "the rates are given one by one"),
        (("nin", "--bn-init", "uniform"), "nin has no BN"),
        (("elu", "--linear-init", "normal"), "elu has no linear layer"),
        (("highway", "--recipe", "own", "--linear-init", "normal"), "conv_init published draws all weights"),
        (("nin", "--depth-rule", "true"), "no blocks B(M)"),
        (("nin", "--drop-path-per", "sample"), "give a drop path too"),
        (("dsn", "--recipe", "own", "--stages", 5), "epochs after the first, up to the last, which is 4"),
        (("fitnet", "--recipe", "own"), "name one with --teacher"),
        (("wrn-10-1", "--temperature", 2), "there is no teacher"),
        (("fitnet", "--stages", 2, "--hint", "group3"), "name one with --teacher"),
        (("wrn-10-1", "--drop-path-per", "sample"), "give a drop path too"),
        (("wrn-10-1", "--rates", 0.1), "as many positive numbers as there are milestones"),
        (("nin", "--drop-path", 0.5), "no residual blocks"),
        (("vgg", "--dropout", 0.5), "vgg has none"),
        (("wrn-7-1-b3", "--dropout", 0.5), "wrn-7-1-b3 has none"),
        (("nin", "--memory", "low"), "nin has no BN to compute again"),
        (("vgg", "--memory", "lowest"), "vgg has no residual blocks to compute again"),
        (("wrn-10-1", "--recipe", "fast", "--reset-momentum", "true"), "one-cycle has no drops"),
        (("wrn-10-1", "--augment", "flip-crop", "--pad", 0, "--padding", "zero"), "pad is 0"),
        (("resnet-18", "--image-size", 16), "takes at least 17"),
        (("wrn-10-1", "--optimizer", "rmsprop", "--nesterov", "true"), "nesterov"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(words, says, run_wrn, tmp_path):
    code, _, err = run_wrn("train", *words, "--data", "digits", "--epochs", 4, "--out", "run")
    assert (code, says in err, err.splitlines()[-1][:11]) == (2, True, "wrn: error:"), err
    assert not (tmp_path / "run").exists(), "the corrected command would find another run there"
