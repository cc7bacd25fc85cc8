"""WRN-n-k a second time, as plain functions of a dictionary of tensors, from the paper and its released code alone.

The keys are those of the networks' `state_dict`. No module, no shared code: what it agrees with is right twice.
"""

import torch
import torch.nn.functional as F


def bn_relu(p, name, x, training):
    mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    return (x * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]).clamp(min=0)


def block(p, name, x, m, stride, training):
    """BN -> ReLU -> conv for each m_j; where widths differ, the first BN-ReLU feeds branch and 1x1 shortcut."""
    activated = bn_relu(p, f"{name}.bn1", x, training)
    out = activated
    for j, kernel in enumerate(m, 1):
        if j > 1:
            out = bn_relu(p, f"{name}.bn{j}", out, training)
        out = F.conv2d(out, p[f"{name}.conv{j}.weight"], stride=stride if j == 1 else 1, padding=(kernel - 1) // 2)
    widths_differ = p[f"{name}.conv1.weight"].shape[0] != p[f"{name}.conv1.weight"].shape[1]
    return out + (F.conv2d(activated, p[f"{name}.shortcut.weight"], stride=stride) if widths_differ else x)


def wrn(p, x, n_blocks, m, training):
    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for g in (1, 2, 3):
        for i in range(n_blocks):
            x = block(p, f"group{g}.{i}", x, m, 2 if g > 1 and i == 0 else 1, training)
    x = bn_relu(p, "bn", x, training)
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def shapes(n_blocks, k, m, num_classes):
    """Name -> shape of everything that is learnt or kept, as the paper and its released code have them."""
    widths = [16, int(16 * k), int(32 * k), int(64 * k)]
    out = {"conv1.weight": (16, 3, 3, 3)}
    for g in (1, 2, 3):
        for i in range(n_blocks):
            w_in, w = (widths[g - 1] if i == 0 else widths[g]), widths[g]
            for j, kernel in enumerate(m, 1):
                name, width = f"group{g}.{i}", w_in if j == 1 else w
                out |= {f"{name}.bn{j}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
                out[f"{name}.conv{j}.weight"] = (w, width, kernel, kernel)
            if w_in != w:
                out[f"group{g}.{i}.shortcut.weight"] = (w, w_in, 1, 1)
    out |= {f"bn.{part}": (widths[3],) for part in ("weight", "bias", "running_mean", "running_var")}
    return out | {"fc.weight": (num_classes, widths[3]), "fc.bias": (num_classes,)}
