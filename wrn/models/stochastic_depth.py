"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382), an option of every residual network here.

In training a block's branch is left out by chance, the more often the deeper it lies: block l of L survives with
p_l = 1 - l / L (1 - p_L).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from wrn.errors import UsageError, unknown
from wrn.native import recomputation

Per = Literal["batch", "sample"]


@dataclass(frozen=True)
class Path:
    """What a residual block does with its branch. `drop` is 1 - p_l.

    per "batch": one draw for the whole minibatch, whose block is then not computed; the branch counts in full in
    training and is scaled by p_l in evaluation, as in the paper and its code. per "sample": a draw for each image, what
    survives is divided by p_l in training, evaluation is plain: torchvision's op, also known as DropPath.
    """

    drop: float = 0.0
    per: Per = "batch"

    def closed(self, training: bool) -> bool:
        """Whether the branch is left out for this whole minibatch; draws from torch's CPU generator."""
        if not training or self.per != "batch" or self.drop == 0:
            return False
        return torch.rand((), dtype=torch.float32, device="cpu").item() < self.drop

    def scaled(self, branch: Tensor, training: bool) -> Tensor:
        """The branch (N, C, H, W) as it is added to the shortcut."""
        if self.drop == 0:
            return branch
        if self.per == "batch":
            return branch if training else branch * (1 - self.drop)
        if not training:
            return branch
        kept = torch.empty(len(branch), 1, 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(1 - self.drop)
        return branch * kept.div_(1 - self.drop)


class Residual(nn.Module):
    """A block whose branch can be dropped, and that is recomputed in the backward pass where memory is lowest."""

    path = Path()

    def __call__(self, x: Tensor) -> Tensor:
        return recomputation.block(super().__call__, self, x)


def set_stochastic_depth(model: nn.Module, drop: float, per: Per = "batch") -> None:
    """Let the last block of `model` be left out with probability `drop` = 1 - p_L, the others in proportion.

    Raises ValueError for a network without residual blocks, and for a `drop` outside [0, 1).
    """
    if not 0.0 <= drop < 1.0:
        raise UsageError(f"drop path {drop}: not a probability in [0, 1); the paper of stochastic depth uses 0.5")
    if per not in get_args(Per):
        raise unknown("drop path per", per, get_args(Per))
    if per != "batch" and not drop:
        raise UsageError(f"drop path per {per}: nothing is dropped; give a drop path too")
    blocks = [part for part in model.modules() if isinstance(part, Residual)]
    if drop and not blocks:
        raise UsageError(f"drop path {drop}: this network has no residual blocks; leave it out")
    for number, block in enumerate(blocks, start=1):
        block.path = Path(number / len(blocks) * drop, per)


def skips_blocks(model: nn.Module) -> bool:
    """Whether different training steps may skip different blocks of `model`."""
    paths = [part.path for part in model.modules() if isinstance(part, Residual)]
    return any(path.drop > 0 and path.per == "batch" for path in paths)
