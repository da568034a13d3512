"""Synthetic lesions with a record, made on the spot: demo:skin, and demo:grey without a record.

demo:shortcut is demo:skin with a mark that tells the label; demo:clean are other lesions, unmarked.
demo:signs are the lesions of demo:skin with any number of three labels.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.api import (
    Augment,
    Experts,
    Input,
    Recipe,
    Sample,
    Target,
    TargetCard,
    synthetic,
)

LABELS = ("benign", "malignant")
SIGNS = ("malignant", "dotted", "weathered")
TITLES = {
    "shortcut": "Synthetic skin lesions, most malignant ones with a mark",
    "clean": "Synthetic skin lesions of another hospital, without a mark",
}


class Demo(Target):
    """Made for demonstration and tests: nothing in it is a patient, and nothing it gives is known.

    The label of demo:skin depends on the look of the lesion and on age, sex and site, so that a
    network that read both perfectly would reach an AUROC of about 0.87, and 0.79 and 0.72 alone.
    A network that reads the mark of demo:shortcut instead finds nothing to read on demo:clean.
    Of demo:signs the look of a lesion alone tells whether it is dotted, its record alone whether it
    is weathered.
    """

    variants = ("skin", "grey", "shortcut", "clean", "signs")
    card = TargetCard(
        title="Synthetic skin lesions",
        origin="synthetic",
        classes=2,
        images=900,
        task="benign or malignant, by a rule with chance in it",
        group="lesion",
        labels=LABELS,
        license="CC0 1.0",
        reference="made by benchmark/synthetic.py",
        experts=Experts("medical", "colour", "both", "skin lesion", "low", "binary"),
        pretrain=Recipe(
            size=32,
            batch=64,
            lr=1e-3,
            epochs=8,
            dropout=0.0,
            augment=Augment(horizontal=True, vertical=True),
            select="last",
        ),
        columns={"age": "numeric", "sex": "categorical", "site": "categorical"},
        missing=("unknown",),
        subgroups=("sex",),
        show=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant or self.variants[0], given)
        if self.variant == "grey":
            self.card = replace(
                self.card,
                title="Synthetic grey lesions",
                images=600,
                channels=1,
                columns={},
                subgroups=(),
                experts=Experts("medical", "grey", "both", "lesion", "low", "binary"),
            )

        if self.variant in TITLES:
            self.card = replace(self.card, title=TITLES[self.variant])
        if self.variant == "signs":
            self.card = replace(
                self.card,
                title="Synthetic skin lesions, three signs",
                task="signs of a lesion, any number of them",
                classes=len(SIGNS),
                labels=SIGNS,
                multilabel=True,
                overlaps=("demo:skin",),
            )

    def records(self, root: Path) -> Iterator[Sample]:
        grey, seed = self.variant == "grey", int(self.variant == "clean")
        found = synthetic.lesions(count=self.card.images, seed=seed, grey=grey)
        if self.variant == "shortcut":
            found = synthetic.marked(found)
        for i, image in enumerate(found.images):
            label, lesion = LABELS[found.labels[i]], f"lesion-{found.lesions[i]:03d}"
            if self.variant == "signs":
                dotted, weathered = found.image_evidence[i] > 0.5, found.record_evidence[i] > 0.7
                told = zip(SIGNS, (found.labels[i], dotted, weathered), strict=True)
                label = tuple(name for name, yes in told if yes)
            yield Sample(image, label, f"{self.variant}-{i:03d}", lesion, found.rows[i])

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Nothing to write: the set is made from a fixed seed and needs no folder."""
