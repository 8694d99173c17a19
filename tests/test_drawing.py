"""Images of noise and of grids."""

import numpy as np
import torch
from PIL import Image

from golden.drawing import side_by_side, to_png
from golden.ui.drawing import OUTCOMES, draw_change, draw_grid, draw_noise, singular_values


def test_noise_is_drawn_value_by_value():
    noise = torch.zeros(4, 2, 5)
    noise[0, 0, 0], noise[1, 1, 4] = 99.0, -99.0
    pixels = np.asarray(draw_noise(noise))
    assert pixels.shape == (2, 5, 3)
    assert pixels[0, 0].tolist() == [255, 128, 128]
    assert pixels[1, 4].tolist() == [128, 0, 128]


def test_a_change_is_gold_where_the_noise_rose_and_blue_where_it_fell():
    source, noise = torch.zeros(4, 1, 3), torch.zeros(4, 1, 3)
    noise[:, 0, 0], noise[:, 0, 2] = 1, -1
    (rose, same, fell) = np.asarray(draw_change(source, noise)).astype(int)[0]
    assert rose[0] > rose[2] + 100
    assert fell[2] > fell[0] + 50
    assert min(same) > 220
    assert np.asarray(draw_change(source, source)).min() > 220


def test_singular_values_fall():
    values = singular_values(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert len(values) == 8
    assert values == sorted(values, reverse=True)


def test_texts_stay_in_the_png(tmp_path):
    image = Image.new("RGB", (3, 3))
    image.info = {"golden": "a – b", "dpi": (1, 1)}
    (tmp_path / "a.png").write_bytes(to_png(image))
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info["golden"] == "a – b"


def test_a_grid_shows_each_outcomes_colour():
    red = Image.new("RGB", (10, 10), (255, 0, 0))
    cells = {(0, i): ([red, red], outcome) for i, outcome in enumerate(OUTCOMES)}
    pixels = np.asarray(draw_grid(["a prompt " * 40], list("abcde"), cells, "title")).reshape(-1, 3)
    for _, colour in OUTCOMES.values():
        assert (pixels == colour).all(1).any()
    assert (pixels == (255, 0, 0)).all(1).sum() >= 8 * 90 * 90


def test_side_by_side():
    assert side_by_side([Image.new("RGB", (7, 7)), Image.new("L", (9, 9))], 20).size == (42, 20)
