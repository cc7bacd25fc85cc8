"""The synthetic characters: the same bits, each class equally often, and in the middle what the label says."""

import hashlib

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from wrn.data import glyphs
from wrn.data.glyphs import CHARACTERS, DIGITS, FONTS, Atlas, Glyphs, draw
from wrn.randomness import Draws

# With these versions the pictures are exactly these; other versions may draw characters otherwise, under another key
KNOWN = {
    ("13.0.0", "2.14.3"): "d8154038b7d038eb77a188d1bfacd056fce77caec29a7a846b736baaf8742c42",
}


@pytest.fixture(scope="module")
def atlas():
    return Atlas.drawn(CHARACTERS)


def test_characters_are_a_hundred_that_every_font_has():
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 100
    for path in glyphs._font_paths():
        has = FT2Font(str(path)).get_charmap()
        assert all(ord(character) in has for character in CHARACTERS), path.name


def test_no_two_characters_of_a_font_look_alike(atlas):
    masks = atlas.masks.reshape(len(FONTS), len(CHARACTERS), -1)
    assert atlas.masks.reshape(len(FONTS), len(CHARACTERS), 48, 48)[:, :, [0, -1]].max() == 0  # the rim is empty
    for font, of_font in zip(FONTS, masks, strict=True):
        overlap = of_font @ of_font.T
        similarity = overlap / np.sqrt(np.outer(overlap.diagonal(), overlap.diagonal()))
        np.fill_diagonal(similarity, 0)
        assert similarity.max() < 0.985, (
            font,
            [CHARACTERS[i] for i in np.unravel_index(similarity.argmax(), (100, 100))],
        )


def test_the_same_bits_however_many_threads(monkeypatch):
    monkeypatch.setattr(glyphs, "TRAIN", 2000)
    monkeypatch.setattr(glyphs, "TEST", 1000)
    told = []
    one, three = (Glyphs(10).decode(workers, lambda *what: told.append(what)) for workers in (1, 3))
    for split in ("train", "test"):
        a, b = getattr(one, split), getattr(three, split)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert np.bincount(a.labels).tolist() == [len(a.labels) // 10] * 10
    assert told[-1] == ("drawing glyphs-10", 3000, 3000)
    assert not np.array_equal(one.train.images[:500], one.train.images[500:1000])


def test_the_bits_are_the_known_ones():
    key = Glyphs(10).key
    versions = key["pillow"], key["freetype"]
    if versions not in KNOWN:
        pytest.skip(f"not known for Pillow {versions[0]} with FreeType {versions[1]}")
    pictures = draw(Atlas.drawn(DIGITS), np.arange(500) % 10, Draws("test"))
    assert hashlib.sha256(pictures.tobytes()).hexdigest() == KNOWN[versions]


def test_versions_and_fonts_are_in_the_key():
    key = Glyphs(100).key
    assert {"pillow", "freetype", "fonts", "characters"} <= key.keys()
    assert key != Glyphs(10).key


def test_the_label_is_the_character_in_the_middle():
    """Matched against the upright characters of all fonts, far more often than chance would have it."""
    labels = np.arange(600) % 10
    atlas = Atlas.drawn(DIGITS)
    pictures = draw(atlas, labels, Draws("test")).astype(np.float32).mean(3)
    # Each character at half and at three quarters of its drawn size, as a pattern of mean 0 in the middle of 32 x 32
    axis = np.arange(32, dtype=np.float32) - 15.5
    patterns = []
    for size in (0.5, 0.75):
        y, x = (
            np.broadcast_to(part / size + 24, (len(atlas.masks), 32, 32))
            for part in (axis[None, :, None], axis[None, None])
        )
        patterns.append(atlas.sample(np.arange(len(atlas.masks)), y, x))
    patterns = np.concatenate(patterns).reshape(-1, 1024)
    patterns -= patterns.mean(1, keepdims=True)
    patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)
    found = np.abs(pictures.reshape(600, -1) @ patterns.T).argmax(1) % 10
    assert (found == labels).mean() > 0.17  # chance: 0.10 +- 0.012


def test_draws_are_uniform_and_of_unit_variance():
    draws = Draws("test", 1)
    below = np.bincount(draws.below(7, 70_000), minlength=7)
    assert ((below - 10_000) ** 2 / 10_000).sum() < 22.5  # chi-square, 6 degrees of freedom, 0.1%
    uniform = draws.uniform(-2, 4, 100_000)
    assert -2 <= uniform.min() < -1.99
    assert 3.99 < uniform.max() <= 4
    assert abs(uniform.mean() - 1) < 0.02
    noise = draws.noise(100_001)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
