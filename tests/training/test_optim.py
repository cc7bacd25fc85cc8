"""SGD against its formulas, in float64, and against torch's."""

import pytest
import torch

import wrn
from wrn.native.library import available
from wrn.training import sgd
from wrn.training.optim import SGD, Muon, skip_unless_finite
from wrn.training.steps import gradient_norm


def test_three_steps_equal_the_formula():
    """g = grad + wd w; v = mu v + g (the first v is g); w -= lr (g + mu v): Nesterov, decay on every parameter."""
    recipe = wrn.recipe("wrn-10-1", data="digits")
    model = wrn.create_model("wrn-10-1", num_classes=10, seed=0).double()
    optimizer = wrn.optimizer(model, recipe)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {}
    for step in range(3):
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, w in weights.items():
            g = gradients[name] + 5e-4 * w
            velocity[name] = 0.9 * velocity[name] + g if name in velocity else g
            w -= 0.1 * (g + 0.9 * velocity[name])
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_step_of_muon_is_its_polynomial_of_singular_values():
    """Convolutions: U f(S) V' of the gradient U S V', f three times a quintic; all else as torch's SGD."""
    recipe = wrn.recipe("wrn-10-1", data="digits", recipe="fast", matrix_decay=0.5, weight_decay=0.01, epochs=4)
    model = wrn.create_model("wrn-10-1", num_classes=10, seed=0).double()
    optimizer = wrn.optimizer(model, recipe)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model(images).square().sum().backward()
    wrn.set_rates(optimizer, recipe, 2, 0.25)
    rate = recipe.lr_at(2, 0.25)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        if p.ndim == 4:
            u, s, v = torch.linalg.svd(gradients[name].flatten(1), full_matrices=False)
            s = s / s.square().sum().sqrt()
            for _ in range(3):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            step = (u * s @ v).view(p.shape) * max(1, p.shape[0] / p[0].numel()) ** 0.5
            torch.testing.assert_close(p.detach(), (1 - 0.5 * rate) * before[name] - rate * step, rtol=1e-6, atol=1e-8)
        else:
            g = gradients[name] + 0.01 * before[name]
            torch.testing.assert_close(p.detach(), before[name] - rate * (g + 0.9 * g), rtol=1e-9, atol=1e-12)


def test_groups_of_the_callers_have_the_recipes_rate():
    recipe = wrn.recipe("wrn-10-1", data="cifar10")
    model, head = wrn.create_model("wrn-10-1", num_classes=10, seed=0), torch.nn.Linear(64, 3)
    own = torch.optim.AdamW(model.parameters())
    more = wrn.optimizer(model, recipe)
    more.add_param_group({"params": head.parameters()})
    for optimizer in (own, more):
        wrn.start_epoch(optimizer, recipe, 60)
        assert {group["lr"] for group in optimizer.param_groups} == {0.02}


def test_products_in_bf16_turn_a_step_of_muon_a_little():
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 16, 3, 3), (128, 128, 3, 3), (96, 64, 1, 1), (128, 8, 3, 3)):
        gradient = torch.randn(shape, generator=generator) * torch.logspace(0, -3, shape[0])[:, None, None, None]
        steps = []
        for layout in (torch.contiguous_format, torch.channels_last):
            for kind, products in ((torch.float64, None), (torch.float32, None), (torch.float32, torch.bfloat16)):
                weight = torch.nn.Parameter(torch.zeros(shape, dtype=kind).contiguous(memory_format=layout))
                weight.grad = gradient.to(kind)
                Muon([weight], lr=1.0, products=products).step()
                steps.append(weight.detach().double())
        length = steps[0].norm()
        apart = [((step - steps[0]).norm() / length).item() for step in steps]
        assert max(apart[0], apart[1], apart[3], apart[4]) < 1e-4
        assert all(1e-3 < apart[way] < 0.06 for way in (2, 5)), apart
    for scale in (0.0, 1e-12, 1e6):  # nothing to divide by; and lengths far from usual ones
        weight = torch.nn.Parameter(torch.zeros(64, 64, 3, 3))
        weight.grad = scale * torch.randn(64, 64, 3, 3, generator=generator)
        Muon([weight], lr=1.0, products=torch.bfloat16).step()
        assert weight.isfinite().all()
        assert weight.any() == (scale > 0)
    with pytest.raises(ValueError, match=r"must be torch\.float32 or torch\.bfloat16"):
        Muon([weight], lr=1.0, products=torch.float16)


def test_momentum_is_forgotten_only_at_drops_and_only_where_the_recipe_says_so():
    for name, forgets in (("paper", False), ("authors", True)):
        recipe = wrn.recipe("wrn-10-1", data="digits", recipe=name, epochs=10)
        model = wrn.network_of(recipe, 10, seed=0)
        optimizer = wrn.optimizer(model, recipe)
        for epoch in range(1, 11):
            model(torch.randn(2, 3, 8, 8)).sum().backward()
            optimizer.step()
            wrn.start_epoch(optimizer, recipe, epoch)
            assert optimizer.param_groups[0]["lr"] == recipe.lr_at(epoch)
            gone = not any(s["momentum_buffer"].any() for s in optimizer.state.values())
            assert gone == (forgets and recipe.drops_at(epoch))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0])
def test_a_fused_step_is_left_out_if_its_gradient_is_not_finite(value):
    """torch's fused kernel for CPUs heeds the same word as that for GPUs, where nobody waits to ask."""
    weight = torch.nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    for gradient in (torch.ones(3), torch.tensor([1.0, value, 1.0])):
        weight.grad = gradient
        before = weight.detach().clone(), [state["momentum_buffer"].clone() for state in sgd.state.values()]
        skip_unless_finite(sgd, gradient_norm(sgd))
        sgd.step()
    moved = not torch.equal(weight, before[0])
    assert moved == (value == 1.0)
    assert torch.equal(sgd.state[weight]["momentum_buffer"], before[1][0]) != moved


@pytest.mark.skipif(not available("sgd"), reason="needs a processor with AVX2 and a C++ compiler")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 5e-4])
def test_sgd_in_one_pass_has_torchs_bits(nesterov, decay, monkeypatch):
    """Whatever the layouts of weights, gradients and momenta that came from elsewhere, and their number."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1,), (7,), (33,), (10, 129), (16, 3, 3, 3), (64, 64, 3, 3), (32, 16, 1, 1), (5, 48, 3, 3)]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]

    def layout(tensor, step):
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 and step % 2 else tensor

    made = []
    for kind in (torch.optim.SGD, SGD):
        weights = [torch.nn.Parameter(layout(tensor.clone(), place)) for place, tensor in enumerate(drawn)]
        unused = torch.nn.Parameter(torch.ones(3))
        optimizer = kind(
            [{"params": weights[:3], "lr": 0.3}, {"params": [*weights[3:], unused]}], 0.1, 0.9, 0.0, decay, nesterov
        )
        called = []
        optimizer.register_step_pre_hook(lambda *_, called=called: called.append("before"))
        optimizer.register_step_post_hook(lambda *_, called=called: called.append("after"))
        draw = torch.Generator().manual_seed(1)
        for step in range(5):
            for weight in weights:
                weight.grad = layout(torch.randn(weight.shape, generator=draw), step)
            if step == 3:  # as from a checkpoint
                for state in optimizer.state.values():
                    state["momentum_buffer"] = state["momentum_buffer"].contiguous()
            if kind is SGD:
                monkeypatch.setattr(sgd, "_torchs_step", lambda *_: pytest.fail("not by the kernel"))
            optimizer.step()
        assert called == ["before", "after"] * 5
        assert "momentum_buffer" not in optimizer.state.get(unused, {})
        made.append([*weights, *(optimizer.state[weight]["momentum_buffer"] for weight in weights)])
    for ours, torchs in zip(*made, strict=True):
        assert torch.equal(ours, torchs)


def test_autograd_knows_that_sgd_changed_a_weight():
    weight = torch.nn.Parameter(torch.ones(64))
    optimizer = SGD([weight], lr=0.5, momentum=0.9)
    loss = weight.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "kind",
    ["double", "with gaps", "without momentum", "of a tensor rate", "negated", "that were double", "of another class"],
)
def test_what_the_pass_is_not_for_goes_to_torch(kind, monkeypatch):
    data = torch.ones(4, 4, dtype=torch.float64 if kind == "double" else torch.float32)
    weight = torch.nn.Parameter(data[:, ::2] if kind == "with gaps" else data)
    rate = torch.tensor(0.5) if kind == "of a tensor rate" else 0.5
    optimizer = SGD([weight], lr=rate, momentum=0.0 if kind == "without momentum" else 0.9)
    weight.grad = torch._neg_view(-torch.ones_like(weight)) if kind == "negated" else torch.ones_like(weight)
    if kind == "of another class":  # as sharded ones are, whose numbers lie elsewhere
        weight.grad = weight.grad.as_subclass(type("Other", (torch.Tensor,), {}))
    if kind == "that were double":
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight, dtype=torch.float64)
    monkeypatch.setattr(sgd, "library", lambda _: pytest.fail("not for the kernel"))
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full_like(weight, 0.5))


def test_a_momentum_of_another_shape_is_an_error_and_an_infinite_weight_stays_one():
    weight = torch.nn.Parameter(torch.ones(1000, 8))
    optimizer = SGD([weight], lr=0.5, momentum=0.9)
    optimizer.state[weight]["momentum_buffer"] = torch.zeros(4, 8)
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()
    optimizer.state.clear()
    weight.data[0, 0] = float("inf")
    optimizer.step()
    assert weight[0, 0] == float("inf")
    assert optimizer.state[weight]["momentum_buffer"].eq(1).all()
