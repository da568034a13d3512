"""RadImageNet: a network trained on 1.35 million CT, MRI and ultrasound images; a file to add."""

from typing import NoReturn

from benchmark.api import BenchError, Experts, Ready, SourceCard

PAGE = "https://www.radimagenet.com/"


class RadImageNet(Ready):
    """Weights of Mei et al. 2022; their images are had by request, and are not read here."""

    card = SourceCard(
        title="RadImageNet",
        origin="medical",
        classes=165,
        images=1_350_000,
        channels=1,
        license="its makers'; ask on their page",
        reference="https://doi.org/10.1148/ryai.210315",
        experts=Experts("medical", "grey", "objects", "organs and lesions", "high", "many"),
        given=True,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )

    def need_added(self, arch: str) -> NoReturn:
        """Its file is behind a form, so it is put into the store by hand."""
        raise BenchError(
            f"The weights of RadImageNet for {arch} were not added.",
            f"Get their PyTorch file from {PAGE} and add it: "
            f"bench weights add resnet50_torch.pt --name radimagenet --arch {arch}.",
        )

    pretrained = need_added
