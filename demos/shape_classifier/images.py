"""Draws the images: one coloured shape each, of varying place, size and brightness, with noise."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfunc import Example

__all__ = ["COLOURS", "NAMES", "SHAPES", "SIZE", "draw_examples"]

SIZE = 12  # pixels in width and height
COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.1, 1.0)}
SHAPES = ("circle", "square", "triangle")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)  # the classes, in order
NOISE = 0.05


def distance_inside(shape: str, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """How far inside the shape each pixel is, in pixels, ``[SIZE, SIZE]``; negative outside. Areas are about equal."""
    if shape == "circle":
        return radius - torch.hypot(x, y)
    if shape == "square":
        return 0.89 * radius - torch.maximum(x.abs(), y.abs())
    # A triangle with its tip up: below two slanted edges and above the base.
    slanted = (y + 1.35 * radius - 2 * x.abs()) / 5**0.5
    return torch.minimum(slanted, radius - y)


def draw_image(colour: str, shape: str, generator: torch.Generator) -> Tensor:
    """One image, ``[3, SIZE, SIZE]``, values about 0 to 1."""
    right, down, size, light = torch.rand(4, generator=generator).tolist()
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(axis - (3 * down - 1.5), axis - (3 * right - 1.5), indexing="ij")
    coverage = (distance_inside(shape, x, y, radius=3.0 + 1.2 * size) + 0.5).clamp(0, 1)
    noise = NOISE * torch.randn(3, SIZE, SIZE, generator=generator)
    return (0.6 + 0.4 * light) * torch.tensor(COLOURS[colour]).view(3, 1, 1) * coverage + noise


def draw_examples(count: int, seed: int) -> list[Example]:
    """``count`` images, every class equally often (as far as that goes), with the number of the class."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for position in range(count):
        label = position % len(NAMES)
        colour, shape = NAMES[label].split()
        examples.append(Example({"image": draw_image(colour, shape, generator)}, label))
    return examples
