"""The usual PyTorch WRN and its loop, written out: what `wrn bench` compares with.

As in the copies most often met: fp32, the default layout, BN and ReLU one by one (ReLU in place), pictures cropped and
mirrored one at a time with PIL in a DataLoader's worker processes, the loss read at every step. Beside it the same with
parts of torchvision (transforms) and timm (loader and optimiser). Neither has a WRN for 32 x 32.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

if TYPE_CHECKING:
    from wrn.benchmark.timing import Contestant


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(self.dropout(self.relu(self.bn2(self.conv1(out)))))
        return out + shortcut


class UsualWRN(nn.Module):
    """WRN-depth-k with blocks B(3,3): (N, 3, 32, 32) -> (N, classes)."""

    def __init__(self, depth: int, widen_factor: float, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [16, *(int(base * widen_factor) for base in (16, 32, 64))]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        blocks: list[nn.Module] = []
        for number in range(3):
            for block in range((depth - 4) // 6):
                first = block == 0
                width_in = widths[number] if first else widths[number + 1]
                blocks.append(Block(width_in, widths[number + 1], 2 if first and number else 1, dropout))
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.blocks(self.conv1(x))), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Crops and mirrors one picture at a time, as torchvision's transforms do."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean: Tensor, std: Tensor) -> None:
        self.images, self.labels, self.mean, self.std = images, labels, mean, std
        self.draws = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(np.pad(self.images[index], ((4, 4), (4, 4), (0, 0)), mode="reflect"))
        x, y = self.draws.integers(0, 9, 2)
        image = image.crop((x, y, x + 32, y + 32))
        if self.draws.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std, int(self.labels[index])


class Transformed(Dataset[tuple[Any, int]]):
    """Pictures as PIL has them, through a `transform` of a library's own; `length`: again and again, up to so many."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        transform: Callable[[Image.Image], Any] | None,
        length: int | None = None,
    ) -> None:
        self.images, self.labels, self.transform, self.length = images, labels, transform, length or len(labels)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        index %= len(self.labels)
        image = Image.fromarray(self.images[index])
        return (self.transform(image) if self.transform else image), int(self.labels[index])


class Opened(Dataset[tuple[Any, int]]):
    """Pictures in files, as torchvision's ImageFolder reads them."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), 0


LONG = 1_000_000  # images in an epoch: its workers begin anew with each
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Batches = Iterator[tuple[Tensor, Tensor]]


def batches(images: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> Batches:
    """Endless, from a DataLoader."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return _loaded(Pictures(images, labels, mean[:, None, None], std[:, None, None]), batch_size, workers)


def torchvision_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> Batches:
    """The same crops and flips by torchvision's transforms, endless."""
    from torchvision.transforms import v2

    steps = [
        v2.RandomCrop(images.shape[1], padding=4, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return _loaded(Transformed(images, labels, v2.Compose(steps)), batch_size, workers)


def torchvision_streamed(
    root: str, names: Sequence[str], batch_size: int, size: int, workers: int, training: bool
) -> Batches:
    """Pictures from files, endless, through the transforms of torchvision's references/classification/presets.py.

    With the jitter of the paper's transforms, which these leave out; bilinear as they are.
    """
    from torchvision import transforms

    steps: list[Any] = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    if training:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
        steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), jitter]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    paths = [f"{root}/{name}" for name in names]
    places = torch.arange(len(paths)).repeat(-(-LONG // len(paths)))
    places = places[torch.randperm(len(places))] if training else places
    return _endless(DataLoader(Opened(paths, made), batch_size, sampler=places.tolist(), num_workers=workers))


def timm_batches(images: np.ndarray, labels: np.ndarray, batch_size: int, workers: int, device: str) -> Batches:
    """From timm's loader with its own training transforms and prefetching, endless."""
    from timm.data import create_loader

    loader = create_loader(
        Transformed(images, labels, None, length=LONG),
        (3, *images.shape[1:3]),
        batch_size,
        is_training=True,
        color_jitter=None,
        mean=MEAN,
        std=STD,
        num_workers=workers,
        persistent_workers=workers > 0,
        use_prefetcher=torch.device(device).type == "cuda",  # made for it
        device=torch.device(device),
    )
    return _endless(loader)


def _loaded(pictures: Any, batch_size: int, workers: int) -> Batches:
    return _endless(
        DataLoader(
            pictures,
            batch_size,
            sampler=RandomSampler(pictures, num_samples=LONG),
            num_workers=workers,
            drop_last=True,
            persistent_workers=workers > 0,
        )
    )


def _endless(loader: Any) -> Batches:
    while True:
        yield from loader


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    """As most loops have it."""
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def timm_sgd(network: nn.Module) -> torch.optim.Optimizer:
    """timm's, whose "sgd" is Nesterov's and decays weights alone."""
    from timm.optim import create_optimizer_v2

    made: torch.optim.Optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1, weight_decay=5e-4, momentum=0.9)
    return made


def training(
    network: nn.Module,
    loaded: Batches,
    device: str,
    channels_last: bool = False,
    bf16: bool = False,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
) -> "Contestant":
    """The usual step: batch, forward, backward, SGD with Nesterov momentum, the loss read."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = optimizer_of(network)

    def step() -> None:
        images, labels = next(loaded)
        images, labels = images.to(device, memory_format=layout), labels.to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step
