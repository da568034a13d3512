"""Augmentation (first version)."""

import math
import torch
import torch.nn.functional as F


def augment(images, how, generator, *, out_size=None, random_crop=True):
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    n = len(x)
    if how.rotation or how.shift:
        a = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(how.rotation)
        t = (torch.rand(n, 2, generator=generator) * 2 - 1) * 2 * how.shift
        f = (
            torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
            if how.horizontal
            else torch.ones(n)
        )
        m = torch.stack(
            [
                torch.stack([f * a.cos(), -a.sin(), t[:, 0]], 1),
                torch.stack([f * a.sin(), a.cos(), t[:, 1]], 1),
            ],
            1,
        )
        x = F.grid_sample(
            x,
            F.affine_grid(m.to(x.device), list(x.shape), align_corners=False),
            align_corners=False,
        )
    return x


def normalise(x, mean, std):
    m = torch.tensor(mean, device=x.device).view(1, 3, 1, 1)
    s = torch.tensor(std, device=x.device).view(1, 3, 1, 1)
    return (x - m) / s
