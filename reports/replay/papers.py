"""What the published values of five studies determine, beside what they printed."""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark import stats
from benchmark.stats import Estimate
from reports import render

FOLDER = Path(__file__).parent.parent / "published"
REPOSITORY = "authors' repository"  # where a number was read


@dataclass(frozen=True)
class Row:
    """One number: as published, as we have it, or what has to run for it."""

    item: str
    paper: float | None  # None: the paper gives no number
    ours: Estimate | None = None
    sd: float | None = None  # as published
    verified: str = ""  # where the published number was read
    gate: bool = True  # whether ours may be held against it
    cells: str = ""  # "3/5" of what has to be trained; empty where published values determine it
    wanted: dict[str, str] | None = None  # what has to be trained
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.ours is None or self.paper is None:
            return None
        return self.ours.value - self.paper


@dataclass(frozen=True)
class Section:
    """A table of the paper, or a claim of it, number by number."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    digits: int = 2


def _cats() -> list[Section]:
    pairs = read("cats_pairs")
    names = [(pair["source"], pair["target"]) for pair in pairs]
    source, target = zip(*names, strict=True)
    column = {name: [float(pair[name]) for pair in pairs] for name in list(pairs[0])[2:]}
    folds = np.array([column[f"fold_{k}"] for k in range(1, 6)]).T
    own = folds[[names.index((t, t)) for t in target]]
    gains = ((folds / own - 1) * 100).mean(1)
    column["size"] = [-math.log(n) for n in column["images"]]
    column["static"] = list(-stats.static_baseline(gains, target, source))

    def correlate(name: str, how: stats.Pairs) -> stats.Correlation:
        return stats.correlate(column[name], gains, target, source, pairs=how)

    gained = (
        Row(f"{s} → {t}", said, _exact(gain, 5), verified=REPOSITORY)
        for (s, t), said, gain in zip(names, column["transferability"], gains.tolist(), strict=True)
    )
    note = "AUC(T) is the run whose source is the target; T is the mean over the five folds."
    return [
        _claimed(correlate),
        _within(correlate),
        Section("Transferability T in %, from the folds' AUCs", tuple(gained), (note,)),
    ]


Correlate = Callable[[str, stats.Pairs], stats.Correlation]


def _claimed(correlate: Correlate) -> Section:
    """The paper's two correlations, as they were computed and as they were called."""
    rows, warnings = [], []
    for line in read("cats_correlations"):
        name, found = line["distance"], correlate(line["column"], "all")
        claim = {"paper": float(line["paper"]), "verified": line["verified"]}
        rho = Estimate(found.spearman, found.low, found.high, found.n)
        rows.append(Row(f"{name}, Pearson's r", ours=_exact(found.pearson, found.n), **claim))
        rows.append(
            Row(f"{name}, Spearman's ρ", ours=rho, gate=False, note="as it was called", **claim)
        )
        warnings.append(f"{name}: {stats.power_warning(found)}")
    return Section("Fig. 4: distance and transferability, 24 pairs", tuple(rows), (
        "The paper calls 0.24 and -0.11 Spearman's ρ. They are Pearson's r over 24 pairs, of which "
        "three are a target with itself (distance 0, gain 0); ρ of the same values is beside them.",
        *warnings,
    ), 5)  # fmt: skip


def _within(correlate: Correlate) -> Section:
    rows = []
    for key, text in WITHIN.items():
        found = correlate(key, "within_target")
        rho = Estimate(found.spearman, found.low, found.high, found.n)
        rows.append(Row(text, None, rho, gate=False, note=render.probability(found.p)))
    return Section("Within targets: Spearman's ρ, 21 pairs", tuple(rows), (
        "Self pairs are dropped and each target's mean is taken off, so that easy targets are no "
        "evidence. A distance that foretells transfer is negative here: nearer sources gain more.",
        "Task2Vec's own cosine says the opposite of the raw cosine that the authors used.",
        "Intervals resample sources and targets; of both there are few, so they are wide.",
    ), 4)  # fmt: skip


def _medmnist() -> list[Section]:
    pairs, published = read("medmnist_scores"), read("medmnist_tau")
    source, target = ([pair[side] for pair in pairs] for side in ("source", "target"))
    column = {
        name.removeprefix("near:"): np.array([float(pair[name] or "nan") for pair in pairs])
        for name in pairs[0] if name not in ("source", "target")
    }  # fmt: skip
    column["lpfu"] = _scaled(column["lp"], target) * _scaled(column["fu"], target)
    gain = np.where(np.array(source) == np.array(target), np.nan, column["score"])
    rows, means = [], []
    for name in (name for name in published[0] if name != "target"):
        taus = stats.weighted_tau_by_target(column[name], gain, target)
        mine = [
            _row(f"{name}, {line['target']}", line[name], taus[line["target"]])
            for line in published
        ]
        rows += mine
        means.append(
            _row(name, _mean(r.paper for r in mine), _mean(r.ours and r.ours.value for r in mine))
        )
    static = stats.weighted_tau_by_target(stats.static_baseline(gain, target, source), gain, target)
    value = float(np.mean([static[line["target"]] for line in published]))
    best = max(means, key=lambda row: row.paper or -1)
    means.append(Row("static baseline", None, _exact(value, len(published))))
    return [
        Section("Weighted Kendall's τ of each score with the AUC", tuple(rows), (
            "lpfu was published without its scores. It is lp times fu, each scaled to [0, 1] over "
            "all sources of a target, itself among them: that gives all eleven published values.",
            "sfda is the same for every source on breastmnist and pneumoniamnist: no order, no τ.",
        ), 6),
        Section("Means over the targets", tuple(means), (
            "The static baseline is a source's mean rank on the other targets: it knows nothing of "
            f"the pair and is above all nine scores ({best.item}: {best.paper:.3f} is the best).",
        ), 3),
    ]  # fmt: skip


def _metanet() -> list[Section]:
    table = read("metanet")
    by_class = [row for row in table if row["table"].startswith("Table 2")]
    whole = [row for row in table if row["table"].startswith("Table 1")]
    rows = []
    for fusion in ("none", "concat", "metanet"):
        one = next(r for r in whole if r["arch"] == "senet154" and r["fusion"] == fusion)
        mean = _mean(float(row["paper"]) for row in by_class if row["fusion"] == fusion)
        rows.append(
            replace(_row(f"SENet154, {fusion}", one["paper"], mean), verified=one["verified"])
        )
    known = [row["sd"] for row in whole]
    copied = sum(row["copied_sd"] in known for row in by_class)
    return [Section("Table 1 from Table 2: mean class recall in %", tuple(rows), (
        f"Table 2's standard deviations are no results of its own: {copied} of its {len(by_class)} "
        "stand in Table 1, concat's in full. Its means are used, its deviations are not shown.",
        "Splits are by image: 38 to 40 % of the test images have a sibling in train (melanoma 68 "
        "to 71 %).",
    ))]  # fmt: skip


def _thomas() -> list[Section]:
    rows = (
        Row("ISIC, training images", 7021, _exact(10015 - 2 * 1502), note="10,015 − 2 × 1,502"),
        Row("ISIC, all three parts", 10015, _exact(7021 + 1502 + 1502)),
        Row("ISIC, classes", 8, _exact(7)),
        Row("PTB-XL, records of one superclass", 15351, _exact(10746 + 2303 + 2302)),
    )
    return [Section("Counts", tuple(replace(row, verified="paper") for row in rows), (
        "The paper's counts of ISIC are slips: 7,021 + 1,502 + 1,502 is not 10,015, and HAM10000 "
        "has seven classes.",
        "Its results are figures without numbers; the text puts the gain of fine-tuned VGG "
        "networks on PTB-XL at up to 35 points.",
        "Splits are by image: 35 % of ISIC's test images have a sibling in train.",
    ), 0)]  # fmt: skip


def _yang() -> list[Section]:
    """Accuracy, sensitivity and specificity fix the prevalence, and so PPV and NPV."""
    table: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in read("yang"):
        arm, _, metric = row["item"].partition(", ")
        table[row["table"]][arm][metric] = row["paper"]
    sections = []
    for title, arms in table.items():
        rows = []
        for arm, said in arms.items():
            right, sick, well = (
                float(said[k]) / 100 for k in ("ACC", "Sensitivity", "Specificity")
            )
            share = (right - well) / (sick - well)
            true, false = share * sick, (1 - share) * (1 - well)
            rows.append(_row(f"{arm}, PPV", said["PPV"], 100 * true / (true + false)))
            true, false = (1 - share) * well, share * (1 - sick)
            rows.append(_row(f"{arm}, NPV", said["NPV"], 100 * true / (true + false)))
        worst = max(abs(row.difference or 0) for row in rows)
        fine = worst < 1
        notes = (
            "Ours follow from the printed accuracy, sensitivity and specificity. They differ by up "
            f"to {worst:.1f} points: "
            + ("rounding and means over folds." if fine else "the table contradicts itself."),
        )
        rows = [replace(row, gate=fine, verified="paper") for row in rows]
        sections.append(
            Section(f"{title}: PPV and NPV in % as the rest implies", tuple(rows), notes)
        )
    return sections


#: Column of cats_pairs -> what a reader calls it.
WITHIN = {
    "expert": "Experts",
    "raw_five": "raw cosine, the authors' five draws",
    "raw_hundred": "raw cosine, all 100 subsets",
    "cosine_hundred": "Task2Vec's own cosine, all 100 subsets",
    "cosine_ten": "the same without its 1e-8, ten subsets",
    "size": "rival: less log of source size",
    "static": "rival: less mean rank on the other targets",
}

STUDIES: dict[str, tuple[str, Callable[[], list[Section]]]] = {
    "cats": ("van den Brandt et al. 2021, Cats, not CAT scans (arXiv:2107.05940)", _cats),
    "metanet": ("Li, Zhuang et al. 2020, Fusing metadata and dermoscopy images (ISBI)", _metanet),
    "thomas": (
        "Thomas 2021, Enhanced transfer learning through fusion (arXiv:2111.14388)",
        _thomas,
    ),
    "yang": ("Yang et al. 2021, Fusing medical image features and clinical features", _yang),
    "medmnist": ("Juodelyte et al. 2024, On dataset transferability (arXiv:2412.20172)", _medmnist),
}


def _row(item: str, paper: str | float | None, ours: float | None) -> Row:
    """A row from what may be empty or undefined on either side."""
    said = float(paper) if paper not in ("", None) else None
    found = None if ours is None or math.isnan(ours) else _exact(ours)
    return Row(item, said, found, verified=REPOSITORY)


def _exact(value: float, n: int = 0) -> Estimate:
    """A number without an interval."""
    return Estimate(value, math.nan, math.nan, n)


def _mean(values: Iterable[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _scaled(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """To [0, 1] within each group; NaN stays."""
    found = np.full(len(values), np.nan)
    for name in dict.fromkeys(groups):
        here = np.array(groups) == name
        if np.isfinite(values[here]).any():
            low, high = np.nanmin(values[here]), np.nanmax(values[here])
            found[here] = (values[here] - low) / (high - low)
    return found


def there(name: str) -> bool:
    """Whether a study has numbers that need training."""
    return (FOLDER / f"{name}.csv").is_file()


def read(name: str) -> list[dict[str, str]]:
    """The lines of a file of published values."""
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
