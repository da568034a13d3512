"""ImageNet-1k: weights made by others, or trained here from a local copy (imagenet:scratch)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.api import (
    Augment,
    Experts,
    Input,
    Recipe,
    Sample,
    Source,
    SourceCard,
    class_folders,
    locate,
    synthetic,
)

if TYPE_CHECKING:
    import torch


class ImageNet(Source):
    variants = ("pretrained", "scratch")
    card = SourceCard(
        title="ImageNet-1k",
        origin="natural",
        classes=1000,
        images=1281167,  # the training part; cats' Table I counts all three parts: 1,431,167
        license="for non-commercial research; the weights have licences of their own",
        reference="https://www.image-net.org/",
        experts=Experts("natural", "colour", "objects", "animals and things", "high", "many"),
        # Not one of the papers' recipes: they all took public weights.
        pretrain=Recipe(
            size=256,
            crop=224,
            batch=256,
            optimizer="sgd",
            lr=0.1,
            weight_decay=1e-4,
            epochs=90,
            schedule="step",
            milestones=(30, 60),
            factor=0.1,
            dropout=0.0,
            class_weights="none",
            augment=Augment(horizontal=True),
            select="last",
        ),
        given=True,
        folders=("imagenet", "ILSVRC2012", "imagenet-1k"),
        steps="Ask for the ILSVRC2012 classification task on https://www.image-net.org/ with an "
        "account, and unpack ILSVRC2012_img_train.tar so that train/n01440764/*.JPEG and so on "
        "lie there.",
        overlaps=("stl10", "sti10"),
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if variant == "scratch":
            self.card = replace(self.card, given=False, title="ImageNet-1k, trained here")

    def check(self, arch: str) -> None:
        """Weights that timm has of another data set are not ImageNet's."""
        from benchmark.train.archs import need_imagenet

        if self.card.given:
            need_imagenet(arch)

    def records(self, root: Path) -> Iterator[Sample]:
        """The training part, its classes named by WordNet ids."""
        for path, label in class_folders(locate(root, "train/n01440764") / "train"):
            yield Sample(path, label, path.stem)

    def need_fetched(self, arch: str) -> None:
        """Public weights lie in the caches of the libraries that fetch them."""
        if self.card.given:
            from benchmark.train.public import need_imagenet

            need_imagenet(arch)

    def pretrained(self, arch: str) -> "dict[str, torch.Tensor] | None":
        """Public weights of an architecture, head included; None trains on the records."""
        if not self.card.given:
            return None
        from benchmark.train.public import imagenet_weights

        return imagenet_weights(arch)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 4 for i in range(48)]
        for i, image in enumerate(synthetic.samples(labels, size=64, seed=seed)):
            wnid = ("n01440764", "n02102040", "n03000684", "n04326547")[labels[i]]
            synthetic.save(image, root / "train" / wnid / f"{wnid}_{i}.JPEG")
