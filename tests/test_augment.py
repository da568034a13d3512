"""Augmentation against torchvision's, its draws, crops, flips and what it leaves alone."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from benchmark.errors import BenchError
from benchmark.spec import Augment
from benchmark.train import augment as module
from benchmark.train.augment import augment, normalise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(n: int, seed: int = 0) -> torch.Tensor:
    """What a batch is changed by: crop 2, flips 2, angle, shift 2, scale, colours 3."""
    return torch.rand(n, 11, generator=generator(seed))


def photos(n: int = 6, height: int = 24, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator(9))


@pytest.mark.parametrize("shift", [0.2, 7.0])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 36)])
def test_it_turns_scales_and_shifts_as_torchvision_does(shift: float, height: int, width: int):
    images = photos(6, height, width)
    how = Augment(rotation=60, shift=shift, scale=(0.7, 1.4), horizontal=True, vertical=True)
    found = augment(images, how, generator())
    for image, draw, got in zip(images, draws(6), found, strict=True):
        image = image.float() / 255
        image = image.flip(-1) if draw[2] < 0.5 else image
        image = image.flip(-2) if draw[3] < 0.5 else image
        side = (width, height) if shift < 1 else (1, 1)
        move = [float((2 * draw[5 + i] - 1) * shift * side[i]) for i in (0, 1)]
        angle, scale = float((2 * draw[4] - 1) * 60), float(0.7 + 0.7 * draw[7])
        want = reference.affine(
            image, angle, move, scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
        )
        torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


def test_it_changes_colour_as_torchvision_does():
    images = 0.4 + 0.2 * torch.rand(5, 3, 8, 8, generator=generator(1))  # far from any clamp
    found = augment(images, Augment(brightness=0.2, contrast=0.3, saturation=0.4), generator())
    for image, draw, got in zip(images, draws(5), found, strict=True):
        bright, contrast, saturation = 1 + (2 * draw[8:] - 1) * torch.tensor([0.2, 0.3, 0.4])
        want = reference.adjust_brightness(image, float(bright))
        want = reference.adjust_contrast(want, float(contrast))
        want = reference.adjust_saturation(want, float(saturation))
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_nothing_asked_changes_nothing():
    images = photos()
    assert torch.equal(augment(images, Augment(), generator()), images.float() / 255)
    ready = torch.rand(2, 3, 8, 8)
    assert torch.equal(augment(ready, Augment(), generator()), ready)


def test_flips_only_move_whole_pixels(monkeypatch: pytest.MonkeyPatch):
    def sampled(*args, **named):
        raise AssertionError("sampled between pixels")

    monkeypatch.setattr(module.functional, "grid_sample", sampled)
    images = photos(200, 4, 5)
    found = augment(images, Augment(horizontal=True, vertical=True), generator())
    kinds = [0] * 4
    for image, got in zip(images.float() / 255, found, strict=True):
        forms = (image, image.flip(-1), image.flip(-2), image.flip(-1, -2))
        kinds[[torch.equal(got, form) for form in forms].index(True)] += 1
    assert min(kinds) > 30  # each of four is expected 50 times


def test_flips_of_the_quick_way_and_of_the_sampled_way_agree():
    images = photos(20)
    quick = augment(images, Augment(horizontal=True, vertical=True), generator(3))
    barely = Augment(horizontal=True, vertical=True, scale=(1.0, 1.0 + 1e-7))
    assert torch.allclose(quick, augment(images, barely, generator(3)), atol=1e-4)


def test_a_crop_is_a_window_and_the_central_one_is_central():
    images = photos(40, 12, 14)
    middle = augment(images, Augment(), generator(), out_size=(6, 8), random_crop=False)
    assert torch.equal(middle, images[:, :, 3:9, 3:11].float() / 255)
    found = augment(images, Augment(), generator(), out_size=(6, 8))
    corners = (draws(40)[:, :2] * 7).long().tolist()
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(7))
    for image, got, (top, left) in zip(images, found, corners, strict=True):
        assert torch.equal(got, image[:, top : top + 6, left : left + 8].float() / 255)


@pytest.mark.parametrize("random_crop", [True, False])
def test_a_crop_of_turned_images_is_the_turned_images_cropped(random_crop: bool):
    images, how = photos(8, 16, 20), Augment(rotation=40, horizontal=True)
    whole = augment(images, how, generator())
    found = augment(images, how, generator(), out_size=10, random_crop=random_crop)
    room = torch.tensor([7, 11])
    corners = (draws(8)[:, :2] * room).long() if random_crop else torch.tensor([[3, 5]] * 8)
    for image, got, (top, left) in zip(whole, found, corners.tolist(), strict=True):
        torch.testing.assert_close(
            got, image[:, top : top + 10, left : left + 10], atol=1e-5, rtol=0
        )


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(BenchError, match="crop of 32 x 32 does not fit into images of 24 x 24"):
        augment(photos(), Augment(), generator(), out_size=32)


def test_switching_a_change_on_leaves_the_others_as_they_were():
    images = photos(8)
    alone = augment(images, Augment(rotation=30), generator(), out_size=20)
    with_more = augment(images, Augment(rotation=30, brightness=1e-9), generator(), out_size=20)
    torch.testing.assert_close(alone, with_more, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fill", ["zeros", "border", "reflection"])
def test_the_border_is_filled_as_asked(fill: str):
    white = torch.full((4, 3, 10, 10), 255, dtype=torch.uint8)
    how = Augment.model_validate({"shift": 0.4, "rotation": 20, "fill": fill})
    found = augment(white, how, generator())
    assert (found.min() < 0.01) == (fill == "zeros")


def test_layout_and_type_of_the_input_do_not_matter():
    images = photos()
    how = Augment(rotation=10, shift=0.1, horizontal=True, contrast=0.2)
    mapped = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    want = augment(images, how, generator())
    torch.testing.assert_close(augment(mapped, how, generator()), want)
    torch.testing.assert_close(augment(images.float() / 255, how, generator()), want)


def test_it_draws_from_its_generator_alone():
    images, how = photos(), Augment(rotation=45, saturation=0.5)
    state = torch.random.get_rng_state()
    one, same = (augment(images, how, generator(4)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, augment(images, how, generator(5)))
    assert torch.equal(state, torch.random.get_rng_state())
    before = images.clone()
    augment(images, how, generator())
    assert torch.equal(images, before)


@settings(max_examples=40, deadline=None)
@given(
    rotation=st.floats(0, 180),
    shift=st.one_of(st.floats(0, 0.9), st.floats(1, 20)),
    scale=st.floats(0.2, 3),
    colour=st.floats(0, 2),
    size=st.integers(1, 9),
)
def test_what_comes_out_is_an_image(rotation, shift, scale, colour, size):
    how = Augment(
        rotation=rotation, shift=shift, scale=(scale, 2 * scale), vertical=True,
        brightness=colour, contrast=colour, saturation=colour,
    )  # fmt: skip
    found = augment(photos(3, 9, 12), how, generator(), out_size=size)
    assert found.shape == (3, 3, size, size)
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_normalise_takes_the_channels_means_and_deviations():
    images = torch.rand(2, 3, 4, 4)
    found = normalise(images, (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    for i, (mean, deviation) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(found[:, i], (images[:, i] - mean) / deviation)


@pytest.mark.gpu
def test_a_gpu_shows_the_same_images():
    images = photos(8, 32, 32)
    how = Augment(rotation=90, shift=3, horizontal=True, brightness=0.2, saturation=0.2)
    found = augment(images.cuda(), how, generator(), out_size=24).cpu()
    torch.testing.assert_close(
        found, augment(images, how, generator(), out_size=24), atol=1e-3, rtol=0
    )
