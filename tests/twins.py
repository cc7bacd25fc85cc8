"""What functional twins of the other networks are made of, and the comparison with them."""

import torch
import torch.nn.functional as F


def agree(model, twin, x, call=None):
    """Logits and all gradients of `model` and of `twin(parameters, x)`, in float64 and as the model's mode has it."""
    generator = torch.Generator().manual_seed(2)
    model.double()
    for name, tensor in model.state_dict().items():  # randomised: statistics, scales and biases that hide nothing
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.2)
        if name.endswith(("running_mean", "bias")):
            tensor.sub_(0.7)
    p = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in model.state_dict().items()}
    x = x.double()
    ours, theirs = (call or model)(x), twin(p, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-7, atol=1e-8, msg=name)


def bn(p, name, x, training, eps=1e-5):
    mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + eps)
    return x * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def conv(p, name, x, stride=1):
    """With a bias where there is one; keeps the size at stride 1."""
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
