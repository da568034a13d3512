"""The synthetic sources are as far from the synthetic targets as they were built to be."""

import numpy as np
import pytest
import torch

from benchmark import registry, synthetic
from benchmark.data.sheet import make
from benchmark.spec import Runtime
from benchmark.train import network
from similarity import expert, otdd

KINDS = ("near", "middle", "far")


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def sets() -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    found = {}
    for kind in KINDS:
        images, labels = synthetic.patterns(kind, count=96)
        found[kind] = (pixels(images), labels)
    for grey in (False, True):
        made = synthetic.lesions(count=96, grey=grey)
        found["grey" if grey else "skin"] = (pixels(made.images), made.labels)
    return found


@pytest.fixture(scope="module")
def probe() -> network.Backbone:
    """A network that was trained on none of the sets."""
    torch.set_num_threads(2)
    return network.build("resnet18", seed=0).eval()


@pytest.mark.parametrize("target", ["skin", "grey"])
def test_transport_orders_them(sets, probe, target: str):
    with torch.inference_mode():
        features = {name: probe.pooled(images).numpy() for name, (images, _) in sets.items()}
    apart = [
        otdd.otdd(features[kind], sets[kind][1], features[target], sets[target][1]).distance
        for kind in KINDS
    ]
    assert apart == sorted(apart)


@pytest.mark.parametrize("target", ["demo:skin", "demo:grey"])
def test_the_answers_on_the_cards_order_them(target: str):
    def answers(name: str) -> list[str]:
        return list(vars(registry.load("source", name).card.experts).values())

    apart = [expert.hamming(answers(f"patterns:{kind}"), answers(target)) for kind in KINDS]
    assert apart == sorted(set(apart))


def test_a_broad_set_has_a_class_for_every_mixture():
    images, labels = synthetic.patterns("broad", count=128)
    assert images.shape == (128, 32, 32, 3)
    assert np.bincount(labels).tolist() == [2] * 64


def test_a_sheet_shows_nine_images_and_keeps_answers(tmp_path):
    from PIL import Image

    from benchmark.errors import BenchError

    runtime = Runtime(data=tmp_path, store=tmp_path / "store")
    made = list(make(["demo:skin"], runtime, tmp_path / "sheet"))
    assert [path.name for path in made] == ["demo-skin.png", "answers.csv"]
    assert Image.open(made[0]).size == (704, 704)
    rows = made[1].read_text().splitlines()
    assert len(rows) == 7
    made[1].write_text(
        rows[0] + "\n" + "\n".join(f"ann{row.replace(',,', ',yes,')}" for row in rows[1:])
    )
    assert {row.answer for row in expert.read_answers(made[1])} == {"yes"}
    with pytest.raises(BenchError, match="there already"):
        list(make(["demo:skin"], runtime, tmp_path / "sheet"))
