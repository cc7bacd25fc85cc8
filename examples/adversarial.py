"""Adversarial training (PGD, Madry et al., 2018) of a finished run, through `wrn.load`'s differentiable preprocessing.

    uv run wrn train wrn-16-1 --data digits --out runs/example
    uv run python examples/adversarial.py runs/example

The attack moves pixels in [0, 1], where its radius has its usual meaning; the preprocessing belongs to the model.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

import wrn


def pgd(model: torch.nn.Module, images: Tensor, labels: Tensor, radius: float, steps: int = 5) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], moved by at most `radius` a pixel to where the loss is high."""
    moved = (images + torch.empty_like(images).uniform_(-radius, radius)).clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        moved = moved.detach() + 2.5 * radius / steps * gradient.sign()
        moved = torch.min(torch.max(moved, images - radius), images + radius).clamp(0, 1)
    return moved.detach()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run")
    arguments.add_argument("--radius", type=float, default=8 / 255)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--lr", type=float, default=0.05)
    chosen = arguments.parse_args()

    recipe = wrn.Run(chosen.run).recipe
    model = wrn.load(chosen.run)
    data = wrn.dataset(recipe)
    optimizer = torch.optim.SGD(model.parameters(), lr=chosen.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def robust_error() -> float:
        model.eval()
        wrong = 0
        for start in range(0, len(data.test), 256):
            images, labels = data.test.pixels(slice(start, start + 256))
            wrong += int((model(pgd(model, images, labels, chosen.radius)).argmax(1) != labels).sum())
        return 100 * wrong / len(data.test)

    torch.manual_seed(0)
    print(f"before: error under attack {robust_error():.1f}%")
    for epoch in range(1, chosen.epochs + 1):
        for part in torch.randperm(len(data.train)).split(recipe.batch_size):
            images, labels = data.train.pixels(part)
            model.eval()
            attacked = pgd(model, images, labels, chosen.radius)
            model.train()
            loss = F.cross_entropy(model(attacked), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: error under attack {robust_error():.1f}%")


if __name__ == "__main__":
    main()
