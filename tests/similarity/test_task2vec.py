"""Task2Vec against gradients taken image by image and class by class, and its own properties."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional as F

from benchmark.api import Estimate
from benchmark.errors import BenchError, NotFinite
from benchmark.stats import Z
from similarity import _fisher, task2vec
from similarity.task2vec import Embedding, cosine, embed, raw_cosine


@pytest.fixture(autouse=True)
def one_thread():
    """Small work spread over threads mostly waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Awkward(nn.Module):
    """Strides, groups, dilation, paddings, a residual in place: all that a hook may trip over."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.channels = channels
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=(2, 1))
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding="same", groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, channels, 3, stride=(2, 1), dilation=2, padding=1, bias=False)
        self.point = nn.Conv2d(channels, channels, 1, stride=2)
        self.unused = nn.Conv2d(1, 2, 1)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.norm2(self.wide(x))
        y += x
        return self.point(F.relu(self.deep(y.relu_()))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a backbone is asked for its pooled features")


def awkward(seed: int = 0) -> Awkward:
    torch.manual_seed(seed)
    net = Awkward().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean = torch.randn(8, dtype=torch.float64) / 5
            module.running_var = torch.rand(8, dtype=torch.float64) + 0.5
    return net


def task(n: int = 5, classes: int = 3, size: int = 14, seed: int = 1) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, size, size + 2, generator=generator, dtype=torch.float64)
    return images, np.arange(n) % classes


def random_head(classes: int, channels: int, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, channels, generator=generator, dtype=torch.float64)
    return weight * 2, torch.randn(classes, generator=generator, dtype=torch.float64)


def by_hand(net: nn.Module, images: torch.Tensor, labels: Any, head: Any) -> np.ndarray:
    """The sum over images and classes that the embedding stands for, one backward for each; the
    mean over images is that over classes of their own means."""
    net = copy.deepcopy(net).eval()
    run: Any = getattr(net, "pooled", net)
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    weights = [m.weight for m in net.modules() if isinstance(m, kinds)]
    share = 1 / np.bincount(labels)[labels] / len(set(labels.tolist()))
    totals = [torch.zeros(len(w), dtype=torch.float64) for w in weights]
    for image, part in zip(images, share, strict=True):
        log_p = torch.log_softmax(run(image[None]).flatten(1) @ head[0].T + head[1], 1)[0]
        for value in log_p:
            grads = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            for total, g in zip(totals, grads, strict=True):
                if g is not None:
                    squared = g.detach().double().square().reshape(len(g), -1).mean(1)
                    total += part * value.detach().exp() * squared
    return torch.cat(totals).numpy()


# --- the Fisher -------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("size", [14, 40])
def test_the_exact_fisher_is_the_sum_over_images_and_classes(classes: int, size: int):
    net, (images, labels) = awkward(), task(7, classes, size)
    head = random_head(classes, net.channels)
    expected = by_hand(net, images, labels, head)
    found = embed(net, images, labels, head=head, batch=3)
    assert found.values.dtype == np.float64
    assert (found.values[-2:] == 0).all()  # a layer that never ran
    np.testing.assert_allclose(found.values, expected, rtol=1e-9, atol=1e-14 * expected.max())
    assert found.meta["method"] == "exact"
    assert (found.meta["n"], found.meta["classes"]) == (7, classes)


def test_classes_count_alike_however_many_images_they_have():
    """As in the head and in the reference: a rare class is as much of the task as a common one."""
    net, (images, labels) = awkward(), task(4, 2)
    often = np.array([0, 1, 2, 3, 0, 2, 0, 2, 0, 2])  # class 0 has four times the images of class 1
    head = random_head(2, net.channels)
    once, again = (embed(net, images[r], labels[r], head=head).values for r in (range(4), often))
    np.testing.assert_allclose(again, once, rtol=1e-9)


def sets(n: int = 6, names: int = 3) -> np.ndarray:
    """Every image bears some of the names, the first one none."""
    labels = (np.arange(n)[:, None] % (np.arange(names) + 2) == 1).astype(np.uint8)
    assert labels.any(0).all() and not labels[0].any()
    return labels


def test_the_exact_fisher_of_sigmoids_is_the_sum_over_images_and_answers():
    net, (images, _) = awkward(), task(6)
    matrix, bias = random_head(3, net.channels)
    weights = [m.weight for m in net.eval().modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    totals = [torch.zeros(len(w), dtype=torch.float64) for w in weights]
    for image in images:
        z = (net.pooled(image[None]) @ matrix.T + bias)[0]
        for answer in torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3):
            log_p = -F.binary_cross_entropy_with_logits(z, answer, reduction="sum")
            grads = torch.autograd.grad(log_p, weights, retain_graph=True, allow_unused=True)
            for total, g in zip(totals, grads, strict=True):
                if g is not None:
                    total += log_p.detach().exp() * g.square().reshape(len(g), -1).mean(1) / 6
    expected = torch.cat(totals).numpy()
    found = embed(net, images, sets(), head=(matrix, bias), batch=4)
    np.testing.assert_allclose(found.values, expected, rtol=1e-9, atol=1e-14 * expected.max())
    assert found.meta["classes"] == 3
    drawn = embed(net, images, sets(), head=(matrix, bias), draws=400).values
    assert np.sqrt(((drawn - expected) ** 2).sum() / (expected**2).sum()) < 0.15


def test_the_head_learns_each_label_by_itself_and_leaves_out_those_of_all(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 640)
    codes = torch.tensor((np.arange(200)[:, None] % np.array([2, 3, 5]) == 0).astype(float))

    def weights(labels: torch.Tensor) -> np.ndarray:
        return task2vec._fit(codes.float(), labels, 3, torch.Generator().manual_seed(0))[0].numpy()

    apart = weights(codes) - weights(1 - codes)  # from one start, taught the opposite
    assert apart.diagonal().min() > 0.02
    assert apart.diagonal().min() > 2 * np.abs(apart - np.diag(apart.diagonal())).max()
    net, (images, _) = awkward(), task(6)
    labels = np.column_stack([sets(), np.ones(6, np.uint8)])
    assert embed(net, images, labels, head=random_head(3, net.channels)).meta["classes"] == 3
    with pytest.raises(BenchError, match="knows one class an image only"):
        embed(net, images, labels, reference=True)


def test_a_resnet_in_single_precision_agrees_to_1e_5():
    from benchmark.train.network import build

    net = build("test_resnet", seed=0).eval()
    images, labels = task(3, 2, 48)
    images = images.float()
    weight, bias = random_head(2, net.channels)
    head = weight.float(), bias.float()
    expected = by_hand(net, images, labels, head)
    found = embed(net, images, labels, head=head).values
    filters = sum(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d))
    assert len(found) == 2 * filters
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
    assert cosine(found, expected) < 1e-5
    convs = embed(net, images, labels, head=head, conv_only=True)
    assert convs.values.shape == (filters,)
    assert set(convs.values) < set(found)


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("test_vit", {"img_size": 32, "depth": 2, "embed_dim": 8, "num_heads": 2}),
        (
            "swin_tiny_patch4_window7_224",
            {
                "img_size": 32,
                "window_size": 4,
                "depths": (2, 2),
                "embed_dim": 4,
                "num_heads": (1, 2),
            },
        ),
    ],
)
def test_the_linear_layers_of_a_transformer_are_filters_over_its_tokens(arch: str, more: Any):
    """Tokens of all windows of an image, of one pass or of several, are one image's gradient."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(arch, num_classes=0, **more).double().eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels, head = np.array([0, 1, 1]), random_head(2, net.num_features)
    expected = by_hand(net, images, labels, head)
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    found = embed(net, images, labels, head=head, batch=2).values
    assert found.shape == (sum(len(m.weight) for m in layers),)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14 * expected.max())


def test_activations_inside_a_batch_norm_do_no_harm():
    import timm

    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=0).double().eval()
    images, labels = task(2, 2, 32)
    head = random_head(2, net(images).shape[1])
    expected = by_hand(net, images, labels, head)
    found = embed(net, images, labels, head=head).values
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12 * expected.max())


def test_both_ways_to_square_a_convolution_are_taken_and_agree(monkeypatch: Any):
    taken = []
    shifted = _fisher._shifted
    monkeypatch.setattr(_fisher, "_shifted", lambda *a: taken.append(1) or shifted(*a))
    generator = torch.Generator().manual_seed(0)
    for size, filters in ((4, 64), (24, 2)):
        x = torch.randn(3, 6, size, size, generator=generator, dtype=torch.float64)
        w = torch.randn(filters, 6, 3, 3, generator=generator, dtype=torch.float64)
        _, _, squares = _fisher._convolution(1, x, w, None, (1, 1), (1, 1), (1, 1), 1)
        g = torch.randn(3, filters, size, size, generator=generator, dtype=torch.float64)
        a = F.unfold(x, (3, 3), padding=1)
        expected = (g.flatten(2) @ a.mT).square().mean(2).sum(0)
        torch.testing.assert_close(squares(g), expected)
        torch.testing.assert_close(squares(g), expected)  # a second pass shares the products
    assert len(taken) == 1


def test_columns_of_the_factor_give_the_covariance_of_the_labels():
    p = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    columns = torch.stack(list(_fisher._factor(p)), 2)
    assert columns.shape == (3, 3, 2)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(columns @ columns.mT, expected)


def test_monte_carlo_nears_the_exact_fisher_as_one_over_the_root_of_the_draws():
    net, (images, labels) = awkward(), task(30, 4)
    options: dict[str, Any] = {"head": random_head(4, net.channels)}
    exact = embed(net, images, labels, **options).values
    errors = []
    for draws, seeds in ((2, 20), (8, 16), (32, 16)):
        found = [embed(net, images, labels, draws=draws, seed=s, **options) for s in range(seeds)]
        squares = [((e.values - exact) ** 2).sum() / (exact**2).sum() for e in found]
        errors.append(np.sqrt(np.mean(squares)))
        assert found[0].meta["method"] == "montecarlo"
    assert errors[2] < 0.05
    assert 1.5 < errors[0] / errors[1] < 2.7  # four times the draws, half the error
    assert 1.5 < errors[1] / errors[2] < 2.7


def test_many_classes_are_drawn_and_few_are_summed(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 640)
    net, (images, labels) = awkward(), task(42, 21)
    found = embed(net, images, labels)
    assert (found.meta["method"], found.meta["draws"]) == ("montecarlo", 20)
    assert embed(net, images, labels % 20).meta["method"] == "exact"


def test_the_network_is_left_as_it_is(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 640)
    net, (images, labels) = awkward().train(), task(66, 2)
    before = copy.deepcopy(net.state_dict())
    for reference in (False, True):
        embed(net, images, labels, reference=reference, head=random_head(2, net.channels))
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_same_seed_same_numbers_whatever_the_batch_and_the_kind_of_labels(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 640)
    net, (images, labels) = awkward(), task(9, 3)
    first = embed(net, images, labels).values
    np.testing.assert_array_equal(embed(net, images, labels).values, first)
    names = np.array(["cat", "dog", "eel"])[labels]
    for again in (
        embed(net, images.numpy(), names, batch=2),
        embed(net, images, torch.as_tensor(labels), batch=5),
        embed(net, (images * 2).numpy(), labels, prepare=lambda x: torch.as_tensor(x) / 2),
    ):
        np.testing.assert_allclose(again.values, first, rtol=1e-9)
    assert cosine(embed(net, images, labels, seed=1), first) > 1e-9
    drawn = [embed(net, images, labels, draws=3, batch=n).values for n in (2, 9)]
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9)


def test_the_head_separates_what_can_be_separated():
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(60) % 3
    features = torch.randn(60, 16, generator=generator) + 4 * F.one_hot(codes, 16)
    weight, bias = task2vec._fit(features, codes, 3, generator)
    assert ((features @ weight.T + bias).argmax(1) == codes).all()
    assert all(w.abs().max() > 0.3 for w in weight)  # moved well away from ±1/4


# --- the reference ----------------------------------------------------------------------------


def test_the_reference_is_an_estimate_of_the_fisher_over_its_batch(monkeypatch: Any):
    """Batch means over drawn labels are unbiased but for the factor 64, where batch norm is not
    in train mode."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).double()
    images, labels = task(20, 2, 12)
    head = random_head(2, 6)
    exact = embed(net, images, labels, head=head)
    assert exact.values.shape == (6,)
    rough = embed(net, images, labels, head=head, reference=True)
    assert rough.meta["method"] == "reference"
    assert 64 * rough.values == pytest.approx(exact.values, rel=0.4)
    monkeypatch.setattr(task2vec, "EPOCH", 100_000)
    fine = embed(net, images, labels, head=head, reference=True)
    assert 64 * fine.values == pytest.approx(exact.values, rel=0.15)
    with pytest.raises(BenchError, match="reference"):
        cosine(exact, rough)


def test_the_reference_runs_batch_norm_in_train_mode_and_draws_classes_alike(monkeypatch: Any):
    net, (images, _) = awkward(), task(20, 2)
    labels = np.arange(20) >= 18
    head = random_head(2, net.channels)
    monkeypatch.setattr(task2vec, "EPOCH", 640)
    found = embed(net, images, labels, head=head, reference=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # train mode does not see them
            module.running_mean, module.running_var = torch.ones(8) * 9.0, torch.ones(8) * 4.0
    again = embed(net.double(), images, labels, head=head, reference=True)
    np.testing.assert_allclose(again.values, found.values, rtol=1e-9)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat(list(task2vec._balanced(labels.astype(int), generator)))
    assert drawn.shape == (640,)
    assert 0.4 < (drawn >= 18).double().mean() < 0.6


# --- distances --------------------------------------------------------------------------------


def test_the_cosine_by_hand():
    # (1, 3) -> 1/4, 3/4; (1, 1) -> 1/2, 1/2; (0, 2) -> 0, 1; (0, 0) -> left out
    a, b = np.array([1.0, 1.0, 0.0, 0.0]), np.array([3.0, 1.0, 2.0, 0.0])
    u, v = np.array([0.25, 0.5, 0.0]), np.array([0.75, 0.5, 1.0])
    expected = 1 - u @ v / np.sqrt((u @ u) * (v @ v))
    assert cosine(a, b) == pytest.approx(expected, abs=1e-15)
    assert cosine(Embedding(a), Embedding(b)) == cosine(a, b)
    assert raw_cosine(a, b) == pytest.approx(1 - 4 / np.sqrt(2 * 14), abs=1e-15)


def test_the_cosine_is_that_of_the_public_code_where_its_constant_does_not_count():
    rng = np.random.default_rng(0)
    h0, h1 = rng.lognormal(0, 3, size=(2, 500))
    x, y = h0 / (h0 + h1 + 1e-8), h1 / (h0 + h1 + 1e-8)
    assert cosine(h0, h1) == pytest.approx(1 - x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-7)


fishers = arrays(
    np.float64, 6, elements=st.floats(0, 1e3).map(lambda v: 0.0 if v < 1e-6 else v)
).filter(lambda h: h.any())


@given(fishers, fishers, st.floats(1e-12, 1e12))
@settings(deadline=None)
def test_distances_are_symmetric_bounded_and_without_a_unit(a: Any, b: Any, unit: float):
    for distance in (cosine, raw_cosine):
        value = distance(a, b)
        assert 0 <= value <= 1 + 1e-12
        assert distance(b, a) == pytest.approx(value, abs=1e-12)
        assert distance(a * unit, b * unit) == pytest.approx(value, abs=1e-9)
        assert distance(a, a) == pytest.approx(0, abs=1e-15)
    assert cosine(a, np.zeros(6) + b) == pytest.approx(cosine(np.append(a, 0), np.append(b, 0)))


def test_the_asymmetric_distance_is_the_papers_formula():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 2, size=(2, 300))
    even = np.full(300, a.mean())
    x, y = a / (a + even), even / (a + even)
    from_trivial = 1 - x @ y / np.sqrt((x @ x) * (y @ y))
    expected = cosine(a, b) - 0.15 * from_trivial
    assert task2vec.asymmetric(a, b) == pytest.approx(expected, abs=1e-12)
    assert task2vec.asymmetric(a, b, 0.5) == pytest.approx(cosine(a, b) - 0.5 * from_trivial)
    assert task2vec.asymmetric(a, b) != task2vec.asymmetric(b, a)
    assert task2vec.asymmetric(7 * a, 7 * b) == pytest.approx(expected, abs=1e-12)
    assert task2vec.asymmetric(even, b) == cosine(even, b), "the trivial task is nothing complex"


class Images(NamedTuple):
    """A side as a distance sees it."""

    network: nn.Module
    pixels: torch.Tensor
    labels: np.ndarray
    kept: dict[str, np.ndarray]
    name: str = "given"

    @property
    def groups(self) -> np.ndarray:
        return np.arange(len(self.labels))

    def images(self, rows: np.ndarray) -> torch.Tensor:
        return self.pixels[rows]

    def cached(self, name: str, make: Any) -> np.ndarray:
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


def measured(variant: str = "", kept: Any = ({}, {}), **options: Any) -> tuple[Any, Images, Images]:
    sides = []
    for seed, known in zip((1, 2), kept, strict=True):
        images, labels = task(40, 2, 10, seed)
        sides.append(Images(awkward(), images * seed, labels, known or {}))
    method = task2vec.Task2Vec(variant)
    asked = {**method.card.options, "floor": 0, **options}
    found = method.measure(*sides, seed=3, options=asked)
    return found, sides[0], sides[1]


def test_the_mean_over_subsets_meets_each_with_its_like_or_as_told(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 128)
    study = {"subsets": 4, "share": 0.25}
    every, one, other = measured(**study)
    assert len(one.kept) == len(other.kept) == 4
    apart = [cosine(a, b) for a, b in zip(one.kept.values(), other.kept.values(), strict=True)]
    assert every.value == pytest.approx(np.mean(apart), abs=1e-15)
    half = Z * np.std(apart, ddof=1) / 2
    assert (every.low, every.high) == pytest.approx((every.value - half, every.value + half))
    assert 0 < every.facts["floor"] < every.value
    told, one, other = measured(**study, pairs="0-1,3-1")
    (c,), (a, b) = other.kept.values(), one.kept.values()
    assert told.value == pytest.approx((cosine(a, c) + cosine(b, c)) / 2, abs=1e-15)
    assert "floor" not in told.facts, "one subset of a side has no noise to show"
    drawn, one, _ = measured(**study, pairs=2)
    assert len(one.kept) == 2
    assert drawn.value != told.value
    for bad in ({"pairs": "0-4"}, {"pairs": "twice"}, {"share": 0.0}, {"subsets": 0}):
        with pytest.raises(BenchError, match=r"pairs of the subsets|are none"):
            measured(**{**study, **bad})


def test_the_variants_differ_by_how_embeddings_are_compared(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 128)
    plain, one, other = measured()
    (a,), (b,) = one.kept.values(), other.kept.values()
    assert plain.value == cosine(a, b)
    assert measured("raw")[0].value == pytest.approx(raw_cosine(a, b))
    assert measured("asymmetric")[0].value == pytest.approx(task2vec.asymmetric(a, b))
    assert measured("asymmetric", alpha=0.0)[0].value == pytest.approx(plain.value)


def test_a_subset_holds_each_class_by_its_share():
    labels = np.repeat([0, 1, 2], (600, 300, 100))
    parts = [task2vec.subset(labels, 0.01, (0, k)) for k in range(100)]
    assert {len(set(rows.tolist())) for rows in parts} == {10}
    assert {tuple(np.bincount(labels[rows])) for rows in parts} == {(6, 3, 1)}
    assert len({rows.tobytes() for rows in parts}) == 100
    assert np.unique(np.concatenate(parts)).size > 500
    assert len(task2vec.subset(labels[:30], 0.01, (0, 0))) == 2
    hot = np.eye(3, dtype=np.uint8)[labels]
    assert np.array_equal(np.bincount(labels[task2vec.subset(hot, 0.01, (0, 0))]), (6, 3, 1))


def test_the_floor_is_that_of_halves_of_both_sides(monkeypatch: Any):
    monkeypatch.setattr(task2vec, "EPOCH", 128)
    found, *sides = measured(floor=2)
    one, other = ([x for x in side.kept.values() if x.size > 2] for side in sides)
    assert len(one) == len(other) == 5, "two halvings, and the whole last"
    pairs = [list(zip(x[:4:2], x[1:4:2], strict=True)) for x in (one, other)]
    floor = np.mean([[cosine(*x), cosine(*y)] for x, y in zip(*pairs, strict=True)])
    across = [[cosine(x[0], y[1]), cosine(x[1], y[0])] for x, y in zip(*pairs, strict=True)]
    excess = found.facts["excess"]
    assert isinstance(excess, Estimate)
    assert found.value == cosine(one[4], other[4])
    assert found.facts["floor"] == pytest.approx(floor)
    assert excess.value == pytest.approx(np.mean(across) - floor)
    assert (excess.n, excess.low < excess.value < excess.high) == (19, True)
    before = [{**side.kept} for side in sides]
    again, *_ = measured("raw", floor=2, kept=before)
    added = [
        set(side) - set(kept) for side, kept in zip(before, (x.kept for x in sides), strict=True)
    ]
    assert [len(names) for names in added] == [1, 1], "other variants take the same embeddings"
    assert again.facts["floor"] != found.facts["floor"]


@pytest.mark.real
@pytest.mark.slow
def test_textures_are_further_from_chests_than_seeds_from_each_other(real_data: Path):
    from PIL import Image

    from benchmark.train.network import build

    def first(folder: Path, n: int) -> list[np.ndarray]:
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".jpeg"))[:n]
        assert len(files) == n
        return [np.asarray(Image.open(p).convert("RGB").resize((48, 48))) for p in files]

    def small(folders: list[Path]) -> torch.Tensor:
        pixels = np.stack([image for folder in folders for image in first(folder, 20)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    textures = sorted({p.parent for p in (real_data / "dtd").rglob("*.jpg")})[:2]
    chests = sorted({p.parent for p in (real_data / "chest_xray").rglob("*.jpeg")})[:2]
    net, labels = build("resnet18", seed=0), np.repeat([0, 1], 20)
    one, other = (
        [embed(net, small(folders), labels, seed=s) for s in (0, 1)]
        for folders in (textures, chests)
    )
    apart = cosine(one[0], other[0])
    assert max(cosine(*one), cosine(*other)) < apart / 2


# --- refusals ---------------------------------------------------------------------------------


class Twice(Awkward):
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(self.wide(self.stem(x))).mean((2, 3))


class InPlace(Awkward):
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.wide(x)
        x += 1
        return (y + x).mean((2, 3))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(672, 4)), "no convolution"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "as it is"),
        (Twice(8), "twice"),
        (InPlace(8), "in place"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "running statistics"),
    ],
)
def test_networks_that_cannot_be_embedded_are_refused(net: nn.Module, match: str):
    images, labels = task(4, 2)
    with pytest.raises(BenchError, match=match):
        embed(net.double(), images, labels)


def test_bad_tasks_and_embeddings_are_refused():
    net, (images, labels) = awkward(), task(4, 2)
    with pytest.raises(BenchError, match="1 classes"):
        embed(net, images, labels * 0)
    with pytest.raises(BenchError, match="3 labels"):
        embed(net, images, labels[:3])
    with pytest.raises(NotFinite):
        embed(net, images * float("nan"), labels, head=random_head(2, net.channels))
    for bad in ([1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, 2.0, 3.0]):
        with pytest.raises(BenchError):
            cosine([1.0, 2.0], bad)
    with pytest.raises(BenchError, match="-1 halvings"):
        measured(floor=-1)
