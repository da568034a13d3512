"""Random changes of a batch of images, each drawn per image, on whatever device the batch is."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from benchmark.errors import BenchError
from benchmark.spec import Augment, Size

#: Weights of red, green and blue in the grey that contrast and saturation refer to (ITU-R 601).
GREY = (0.2989, 0.587, 0.114)


def augment(
    images: torch.Tensor,
    how: Augment,
    generator: torch.Generator,
    *,
    out_size: Size | None = None,
    random_crop: bool = True,
) -> torch.Tensor:
    """Images (N, 3, H, W), uint8 or float in [0, 1], as changed float (N, 3, h, w) in [0, 1].

    In this order: flips; then rotation, scale and shift about the centre in one bilinear step;
    then the crop to `out_size`, random or central; then brightness, contrast, saturation and one
    clamp. All numbers are drawn on the CPU, always the same count of them: a GPU shows the same
    images, and switching one change on leaves the others as they were.
    """
    height, width = images.shape[-2:]
    draws = torch.rand(len(images), 11, generator=generator)
    out = _out(out_size, height, width)
    corner = _corner(draws[:, :2], out, height, width, random_crop=random_crop)
    if _moves(how):
        pixels = _warp(_float(images), how, draws[:, 2:8], corner, out)
    else:
        pixels = _float(_cut(_flip(images, how, draws[:, 2:4]), corner, out))
    if how.brightness or how.contrast or how.saturation:
        pixels = _colour(pixels, how, draws[:, 8:])
    return pixels


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Subtract the mean of each channel and divide by its standard deviation."""
    shift = torch.tensor(mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return (images - shift).div_(scale)


def _out(size: Size | None, height: int, width: int) -> tuple[int, int]:
    """Height and width of what comes out."""
    if size is None:
        return height, width
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows > height or columns > width:
        raise BenchError(
            f"A crop of {rows} x {columns} does not fit into images of {height} x {width}.",
            "Give a smaller crop or a larger size.",
        )
    return rows, columns


def _corner(
    draws: torch.Tensor, out: tuple[int, int], height: int, width: int, *, random_crop: bool
) -> torch.Tensor:
    """Top and left of each image's crop: int64 (N, 2)."""
    room = torch.tensor([height - out[0], width - out[1]])
    if not random_crop:
        return (room // 2).expand(len(draws), 2)
    return (draws * (room + 1)).long()


def _moves(how: Augment) -> bool:
    """Whether pixels come from between pixels."""
    return bool(how.rotation or how.shift) or how.scale != (1.0, 1.0)


def _signs(how: Augment, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-1 for the images that are mirrored from left to right, and from top to bottom."""
    ones = torch.ones(len(draws))
    return (
        torch.where(draws[:, 0] < 0.5, -1.0, 1.0) if how.horizontal else ones,
        torch.where(draws[:, 1] < 0.5, -1.0, 1.0) if how.vertical else ones,
    )


def _flip(images: torch.Tensor, how: Augment, draws: torch.Tensor) -> torch.Tensor:
    for axis, signs in zip((-1, -2), _signs(how, draws), strict=True):
        if bool((signs < 0).any()):
            chosen = (signs < 0).view(-1, 1, 1, 1).to(images.device)
            images = torch.where(chosen, images.flip(axis), images)
    return images


def _cut(images: torch.Tensor, corner: torch.Tensor, out: tuple[int, int]) -> torch.Tensor:
    height, width = out
    if images.shape[-2:] == out:
        return images
    cuts = (
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(images, corner.tolist(), strict=True)
    )
    return torch.stack(list(cuts))


def _warp(
    images: torch.Tensor,
    how: Augment,
    draws: torch.Tensor,
    corner: torch.Tensor,
    out: tuple[int, int],
) -> torch.Tensor:
    """Flip, turn, scale, shift and crop at once.

    For each pixel of the result the place in the source is computed in pixels from the centre, so
    that an image which is not square is not sheared. The place is a sum of what the column and
    what the row contribute: one addition over the batch, where a matrix product per pixel would
    take longer than the sampling itself.
    """
    height, width = images.shape[-2:]
    right, down = _signs(how, draws)
    angle = torch.deg2rad((2 * draws[:, 2] - 1) * how.rotation)
    size = torch.tensor([width, height]) if how.shift < 1 else torch.ones(2)
    shift = (2 * draws[:, 3:5] - 1) * how.shift * size
    low, high = how.scale
    scale = low + (high - low) * draws[:, 5]
    # Columns and rows of the result, from the centre and with the shift taken back: (N, w), (N, h).
    x = torch.arange(out[1]) + corner[:, 1:] - (width - 1) / 2 - shift[:, :1]
    y = torch.arange(out[0]) + corner[:, :1] - (height - 1) / 2 - shift[:, 1:]
    cos, sin = (angle.cos() / scale)[:, None], (angle.sin() / scale)[:, None]
    right, down = 2 * right[:, None] / width, 2 * down[:, None] / height  # to grid_sample's units
    by_column = torch.stack([right * cos * x, -down * sin * x], 2).to(images.device)
    by_row = torch.stack([right * sin * y, down * cos * y], 2).to(images.device)
    grid = by_column[:, None] + by_row[:, :, None]
    return functional.grid_sample(images, grid, padding_mode=how.fill, align_corners=False)


def _colour(images: torch.Tensor, how: Augment, draws: torch.Tensor) -> torch.Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation about each grey."""
    amount = torch.tensor([how.brightness, how.contrast, how.saturation])
    factors = (1 + (2 * draws - 1) * amount).clamp_(min=0).to(images.device)
    bright, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    grey = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    mean = (images.mean((2, 3), keepdim=True) * grey).sum(1, keepdim=True) * bright
    images = (images * (bright * contrast)).add_((1 - contrast) * mean)
    if how.saturation:
        images = images * saturation + (1 - saturation) * (images * grey).sum(1, keepdim=True)
    return images.clamp_(0, 1)


def _float(images: torch.Tensor) -> torch.Tensor:
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    return images.float()
