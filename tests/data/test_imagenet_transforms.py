"""ImageNet's transforms against slow references, and against what torchvision would have done."""

from io import BytesIO
from math import ceil, sqrt

import numpy as np
import pytest
import torch
from PIL import Image

from wrn.data import imagenet_transforms as transforms
from wrn.native.library import available


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision.transforms.v2.functional")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(height, width, low=0, high=256):
    return torch.randint(low, high, (3, height, width), generator=seeded(), dtype=torch.uint8)


def picture(height, width):
    return Image.fromarray(noise(height, width).permute(1, 2, 0).numpy())


def slow_line(src, dst_len):
    """scaleCubic_rowcol of torch/image's generic/image.c, statement by statement; src[i] may be a whole row."""
    src_len = len(src)
    if dst_len == src_len:
        return list(src)
    if src_len == 1:
        return [src[0]] * dst_len
    dst = []
    scale = np.float32(src_len - 1) if dst_len == 1 else np.float32(src_len - 1) / np.float32(dst_len - 1)
    for di in range(dst_len - 1):
        si_f = np.float32(di) * scale
        si_i = int(si_f)
        x = float(si_f - np.float32(si_i))
        p1, p2 = src[si_i], src[si_i + 1]
        p0 = src[si_i - 1] if si_i > 0 else 2 * p1 - p2
        p3 = src[si_i + 2] if si_i + 2 < src_len else 2 * p2 - p1
        a0, a1 = p1, p2 - p0
        a2 = 2 * p0 - 5 * p1 + 4 * p2 - p3
        a3 = 3 * (p1 - p2) + p3 - p0
        dst.append(a0 + 0.5 * x * (a1 + x * (a2 + x * a3)))
    return [*dst, src[src_len - 1]]


def slow_bicubic(pixels, height, width):
    """Rows first, then columns: (3, H, W) to (3, height, width), in float64."""
    columns = np.asarray(pixels, dtype=np.float64).transpose(2, 0, 1)
    rows = np.stack(slow_line(columns, width)).transpose(2, 1, 0)  # H first
    return np.stack(slow_line(rows, height)).transpose(1, 0, 2)


def slow_centre(pixels, shorter, size):
    """fb.resnet.torch's Scale, then CenterCrop."""
    height, width = pixels.shape[1:]
    if min(width, height) != shorter:
        size_now = (
            (int(height / width * shorter), shorter) if width < height else (shorter, int(width / height * shorter))
        )
        pixels = slow_bicubic(pixels, *size_now)
    top, left = ceil((pixels.shape[1] - size) / 2), ceil((pixels.shape[2] - size) / 2)
    return np.asarray(pixels)[:, top : top + size, left : left + size]


def distance(sample, distribution):
    """Kolmogorov and Smirnov's, times the root of the sample's size: 0.1% of fair samples exceed 1.95."""
    sample = np.sort(np.asarray(sample))
    fair, count = distribution(sample), len(sample)
    steps = np.arange(count + 1) / count
    return sqrt(count) * max((steps[1:] - fair).max(), (fair - steps[:-1]).max())


def uniform(low, high):
    return lambda x: ((x - low) / (high - low)).clip(0, 1)


ASPECT = uniform(3 / 4, 4 / 3)


# resizing


@pytest.mark.parametrize(
    "source, target",
    [
        ((9, 13), (20, 31)),
        ((40, 33), (11, 7)),
        ((30, 8), (7, 29)),
        ((12, 12), (12, 5)),
        ((2, 3), (9, 9)),
        ((1, 1), (4, 3)),
        ((5, 1), (1, 5)),
        ((6, 7), (1, 1)),
        ((375, 500), (224, 224)),
    ],
)
def test_bicubic_equals_the_original_line_by_line(source, target):
    pixels = noise(*source).double()
    np.testing.assert_allclose(transforms.bicubic(pixels, *target), slow_bicubic(pixels, *target), rtol=0, atol=1e-9)
    single = transforms.bicubic(pixels.to(torch.uint8), *target)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, slow_bicubic(pixels, *target), rtol=0, atol=1e-3)


def test_bicubic_leaves_a_picture_of_that_size_and_straight_lines_as_they_are():
    pixels = noise(7, 5).double()
    assert torch.equal(transforms.bicubic(pixels, 7, 5), pixels)
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64).expand(3, 4, 9)
    np.testing.assert_allclose(transforms.bicubic(ramp, 4, 30)[0, 0], np.linspace(0, 1, 30), atol=1e-6)


@pytest.mark.parametrize("source, target", [((60, 80), (24, 24)), ((20, 15), (32, 32))])
def test_bicubic_is_neither_torchs_nor_pillows(source, target):
    ours = transforms.bicubic(noise(*source), *target)
    for corners in (True, False):
        torchs = torch.nn.functional.interpolate(
            noise(*source)[None].float(), target, mode="bicubic", align_corners=corners
        )[0]
        assert (ours - torchs).abs().mean() > 1  # of 255
    pillows = np.asarray(picture(*source).resize(target[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(ours.numpy() - pillows).mean() > 1


def test_bicubic_is_not_antialiased_and_not_clipped():
    ours = transforms.bicubic(noise(200, 200), 50, 50)
    smooth = np.asarray(picture(200, 200).resize((50, 50), Image.Resampling.BICUBIC))
    assert ours.std() > 2 * smooth.std()
    assert ours.min() < 0
    assert ours.max() > 255


# the crop


def boxes(count=4000, side=4000):
    """Left, top, width, height of crops of a square, (count, 4)."""
    generator = seeded()
    drawn = np.array([transforms.draw_crop(side, side, generator) for _ in range(count)])
    assert drawn.min() >= 0
    assert drawn.max() <= side
    return np.concatenate([drawn[:, :2], drawn[:, 2:] - drawn[:, :2]], axis=1)


def box_size(numbers):
    left, top, right, bottom = transforms.crop_box(4000, 4000, numbers)
    return right - left, bottom - top


def test_crops_have_the_original_areas_aspects_and_swaps():
    left, top, width, height = boxes().T
    area, aspect = width * height / 4000**2, np.sqrt(width / height)
    assert 0.0799 < area.min() < 0.085
    assert 0.9 < area.max() <= 1
    always_fits = area < 9 / 16  # bigger ones may not, and are drawn again
    assert always_fits.sum() > 1500
    assert distance(area[always_fits], uniform(0.08, 9 / 16)) < 1.95
    assert distance(aspect[always_fits], lambda x: (ASPECT(x) + 1 - ASPECT(1 / x)) / 2) < 1.95  # half are swapped
    assert abs((width < height).mean() - 0.5) < 0.03  # 0.43 if nothing were swapped
    assert distance(left / (4000 - width + 0.99), uniform(0, 1)) < 1.95
    assert distance(top / (4000 - height + 0.99), uniform(0, 1)) < 1.95


def test_aspect_is_uniform_before_swapping_and_torchvisions_is_not():
    theirs = pytest.importorskip("torchvision.transforms").RandomResizedCrop
    numbers = torch.rand(4000, 5, generator=seeded(), dtype=torch.float64)
    numbers[:, 0] *= 0.5  # areas that always fit
    numbers[:, 2] = 0.9  # not swapped
    ours = []
    for row in numbers.tolist():
        width, height = box_size(row)
        ours.append(sqrt(width / height))
        row[2] = 0.1  # swapped
        assert box_size(row) == (height, width)
    assert distance(ours, ASPECT) < 1.95

    whole = torch.empty(1, 1, 1).expand(3, 4000, 4000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [theirs.get_params(whole, [0.08, 9 / 16], [3 / 4, 4 / 3]) for _ in range(4000)]
    ratio = np.array([width / height for _, _, height, width in drawn])
    assert distance(ratio, ASPECT) > 3  # log-uniform
    assert distance(np.log(ratio), uniform(np.log(3 / 4), np.log(4 / 3))) < 1.95
    assert distance(np.sqrt(ratio), ASPECT) > 3  # and less far from a square than ours


def test_crop_box_by_hand():
    assert transforms.crop_box(100, 80, [0.5, 3 / 7, 0.9, 0, 0]) == (0, 0, 66, 66)  # aspect 1, area .54
    assert transforms.crop_box(100, 80, [0.2, 0, 0.501, 0, 0]) == (0, 0, 34, 61)
    assert transforms.crop_box(100, 80, [0.2, 0, 0.499, 0, 0]) == (0, 0, 61, 34)
    assert transforms.crop_box(100, 80, [0.2, 0, 0.1, 0.9999, 0.9999]) == (39, 46, 100, 80)
    assert transforms.crop_box(100, 80, [0.99, 0.5, 0.9, 0, 0]) is None
    assert transforms.crop_box(2, 1, [0, 0, 0.9, 0, 0]) is None  # no pixels left


def as_drawn(pixels, generator):
    """Colours changed, lit and mirrored by the numbers that follow."""
    for name, factor in transforms.draw_changes(generator):
        pixels = slow_change(name, pixels, factor)
    pixels = pixels + np.array(transforms.draw_light(generator))[:, None, None]
    return pixels[:, :, ::-1] if torch.rand(1, generator=generator) < 0.5 else pixels


@pytest.mark.parametrize("height, width", [(10, 2000), (2000, 10)])
def test_a_picture_no_crop_fits_is_cut_at_its_centre(height, width):
    assert all(transforms.draw_crop(width, height, seeded(seed)) is None for seed in range(20))
    image, ours, again = picture(height, width), seeded(5), seeded(5)
    result = transforms.training(image, 32, ours)
    transforms.draw_crop(width, height, again)
    expected = as_drawn(slow_centre(noise(height, width).numpy(), 32, 32), again)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-2)


# colours


def slow_change(name, x, factor):
    """fb.resnet.torch's Brightness, Contrast and Saturation, in NumPy."""
    grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    other = {"brightness": np.zeros_like(x), "contrast": np.full_like(x, grey.mean()), "saturation": grey[None]}[name]
    return x * factor + (1 - factor) * other


CHANGES = ["brightness", "contrast", "saturation"]


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("factor", [0.6, 0.93, 1.4])
def test_changes_equal_the_reference_and_torchvisions_where_nothing_clips(torchvision, name, factor):
    pixels = noise(20, 30, low=80, high=150).float()
    ours = getattr(transforms, name)(pixels, factor)
    np.testing.assert_allclose(ours, slow_change(name, pixels.double().numpy(), factor), rtol=0, atol=1e-4)
    theirs = 255 * getattr(torchvision, f"adjust_{name}")(pixels / 255, factor)
    grey = 0 if name == "brightness" else 0.0001 * 150 * abs(1 - factor)  # their red counts .2989
    assert (ours - theirs).abs().max() <= grey + 1e-3


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_not_clipped_as_torchvisions_are(torchvision, name):
    pixels = noise(20, 30).float()
    ours = getattr(transforms, name)(pixels, 1.4)
    theirs = 255 * getattr(torchvision, f"adjust_{name}")(pixels / 255, 1.4)
    assert ours.max() > 270
    assert theirs.max() <= 255.001
    inside = (ours > 0) & (ours < 255)
    assert 0 < inside.float().mean() < 1
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=0.02)


def test_changes_come_in_all_orders_with_uniform_factors():
    generator, orders, factors = seeded(), {}, []
    for _ in range(1800):
        drawn = transforms.draw_changes(generator)
        order = tuple(name for name, _ in drawn)
        orders[order] = orders.get(order, 0) + 1
        factors.append([dict(drawn)[name] for name in CHANGES])
    assert all(sorted(order) == CHANGES for order in orders)
    assert len(orders) == 6
    assert sum((count - 300) ** 2 / 300 for count in orders.values()) < 20.5  # 5 degrees of freedom: 0.1% exceed it
    for column in np.transpose(factors):
        assert distance(column, uniform(0.6, 1.4)) < 1.95
        assert 0.6 <= min(column) < 0.61
        assert 1.39 < max(column) <= 1.4
    assert np.abs(np.corrcoef(np.transpose(factors)) - np.eye(3)).max() < 0.1


VALUES = np.array([0.2175, 0.0188, 0.0045])
VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def test_light_equals_the_reference_for_given_draws():
    draws = 0.1 * torch.randn(3, generator=seeded(3), dtype=torch.float64).numpy()
    expected = sum(VECTORS[:, j] * VALUES[j] * draws[j] for j in range(3))
    np.testing.assert_allclose(transforms.draw_light(seeded(3)), 255 * expected, rtol=1e-6)


def test_light_varies_along_the_principal_components():
    generator = seeded()
    colours = np.array([transforms.draw_light(generator) for _ in range(10_000)])
    along = colours / 255 @ VECTORS  # the vectors are orthonormal to four digits
    np.testing.assert_allclose(along.std(axis=0), 0.1 * VALUES, rtol=0.04)
    assert np.abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.05
    expected = VECTORS @ np.diag((0.1 * VALUES) ** 2) @ VECTORS.T
    np.testing.assert_allclose(np.cov((colours / 255).T), expected, rtol=0.06)


# whole pictures


def test_half_of_the_training_pictures_are_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 6, dtype=np.uint8), (30, 1)))  # brighter to the right
    generator = seeded()
    mirrored = [bool((x := transforms.training(ramp, 8, generator))[0, 0, 0] > x[0, 0, -1]) for _ in range(600)]
    assert abs(np.mean(mirrored) - 0.5) < 0.08


def test_training_is_the_drawn_crop_jittered_lit_and_mirrored():
    for seed in range(6):
        again = seeded(seed)
        result = transforms.training(picture(60, 75), 32, seeded(seed))
        left, top, right, bottom = transforms.draw_crop(75, 60, again)
        expected = as_drawn(slow_bicubic(noise(60, 75)[:, top:bottom, left:right], 32, 32), again)
        assert (result.dtype, result.shape) == (torch.float32, (3, 32, 32))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-2)


def test_the_generator_decides_everything_and_each_picture_takes_as_many_draws():
    ours, again, other = seeded(1), seeded(1), seeded(1)
    first = transforms.training(picture(60, 75), 32, ours)
    torch.rand(7)  # the global generator has no part in it
    assert torch.equal(first, transforms.training(picture(60, 75), 32, again))
    transforms.training(picture(10, 500), 32, other)
    assert torch.equal(ours.get_state(), again.get_state())
    assert torch.equal(ours.get_state(), other.get_state())
    assert not torch.equal(first, transforms.training(picture(60, 75), 32, ours))


@pytest.mark.parametrize("size, shorter", [(224, 256), (32, 37)])
@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (333, 332), (60, 60), (256, 401), (37, 86)])
def test_validation_equals_resizing_and_cropping(size, shorter, height, width):
    result = transforms.validation(picture(height, width), size)
    assert (result.dtype, result.shape) == (torch.float32, (3, size, size))
    expected = slow_centre(noise(height, width).numpy(), shorter, size)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-3)


def test_the_centre_of_an_odd_margin_is_not_torchvisions(torchvision):
    pixels = noise(32, 37)  # 5 columns too wide: 3 go left, torchvision's 2
    ours = transforms.by_torch(pixels, transforms.centre(37, 32, 32, 32))
    assert torch.equal(ours, pixels[:, :, 3:35].float())
    assert not torch.equal(ours, torchvision.center_crop(pixels, [32, 32]).float())


def test_any_mode_becomes_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    three = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(transforms.rgb(Image.fromarray(grey)), three)
    np.testing.assert_array_equal(transforms.rgb(Image.fromarray(grey.astype(np.uint16) * 257)), three)
    np.testing.assert_array_equal(transforms.rgb(Image.fromarray(grey.astype(np.int32) * 257)), three)
    np.testing.assert_array_equal(transforms.rgb(Image.fromarray(three)), three)
    colours = picture(16, 16)
    for mode in ("CMYK", "RGBA", "P", "1", "LA"):
        changed = colours.convert(mode)
        assert transforms.rgb(changed).mode == "RGB"
        np.testing.assert_array_equal(transforms.rgb(changed), changed.convert("RGB"))
        assert transforms.validation(changed, 32).shape == (3, 32, 32)
        assert transforms.training(changed, 32, seeded()).shape == (3, 32, 32)


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = BytesIO()
    picture(20, 40).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        assert transforms.rgb(image).size == (40, 20)


# compiled


compiled = pytest.mark.skipif(not available("pictures"), reason="wants Linux and a C++ compiler")


@compiled
@pytest.mark.parametrize("size", [1, 2, 17, 32, 224])
@pytest.mark.parametrize(
    "height, width", [(375, 500), (500, 333), (1, 1), (1, 9), (3, 2), (32, 32), (31, 64), (256, 300), (2000, 10)]
)
def test_compiled_code_gives_the_bits_of_torchs_operations(height, width, size):
    image = picture(height, width)
    views = [transforms.training_view(width, height, size, seeded(seed)) for seed in range(12)]
    views.append(transforms.validation_view(width, height, size))
    assert {view.mirrored for view in views} == {True, False}
    assert len({tuple(name for name, _ in view.changes) for view in views}) > 4
    for view in views:
        left, top, right, bottom = view.box
        square = torch.full((size, size, 3), torch.nan)
        transforms.see(image, view, square)
        expected = transforms.by_torch(noise(height, width)[:, top:bottom, left:right], view)
        assert torch.equal(square.permute(2, 0, 1), expected), view


@compiled
def test_without_a_compiler_pictures_are_the_same(monkeypatch, tmp_path):
    image = picture(60, 75)
    before = transforms.training(image, 32, seeded()), transforms.validation(image, 32)
    monkeypatch.setattr("wrn.native.pictures.available", lambda: False)
    monkeypatch.setattr("wrn.native.pictures.resample", None)
    after = transforms.training(image, 32, seeded()), transforms.validation(image, 32)
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_what_numbers_torch_makes_by_itself_does_not_matter(kind):
    image = picture(60, 75)

    def made():
        return [*(transforms.training(image, 32, seeded(seed)) for seed in range(10)), transforms.validation(image, 32)]

    before = made()
    torch.set_default_dtype(kind)
    try:
        after = made()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, before, after))
