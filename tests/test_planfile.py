"""A plan file asks for what the same options on the command line ask for, crossed and pruned."""

from pathlib import Path

import pytest

from benchmark.errors import BenchError
from benchmark.plan import plan, request
from benchmark.spec import Runtime


def made(text: str, tmp_path: Path) -> list[tuple]:
    """What a plan comes to: (source, target, fusion, protocol, size, lr, fold) of its runs."""
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    requests = request.requests(request.read(path))
    runtime = Runtime(data=tmp_path, store=tmp_path / "store")
    specs = [planned.cell.spec for planned in plan.make(requests, runtime).cells]
    return sorted(
        (s.source, s.target, s.fusion, s.protocol, s.recipe.size, s.recipe.lr, s.fold)
        for s in specs
        if s.kind == "run"
    )


BASE = "target: demo:skin\nfold: 0\nprotocol: demo\narch: resnet18\n"


def test_lists_are_crossed_and_single_values_are_lists_of_one(tmp_path: Path):
    found = made(BASE + "source: [none, patterns:near]\nfusion: [none, concat]\n", tmp_path)
    assert [(one[0], one[2]) for one in found] == [
        ("none", "concat"), ("none", "none"), ("patterns:near", "concat"), ("patterns:near", "none")
    ]  # fmt: skip


def test_every_option_can_be_a_list_and_protocol_stands_for_what_the_protocol_says(tmp_path: Path):
    found = made(BASE + "size: [16, $protocol]\nrecipe.lr: [0.1, $protocol]\n", tmp_path)
    assert [(one[4], one[5]) for one in found] == [
        (16, 3e-3), (16, 0.1), (32, 3e-3), (32, 0.1)
    ]  # fmt: skip


def test_exclude_takes_out_what_has_all_of_an_entry(tmp_path: Path):
    text = BASE + (
        "source: [none, patterns:near, patterns:far]\nsize: [16, 32]\n"
        "exclude:\n  - {source: 'patterns:*', size: 16}\n  - {source: none, size: [32, 64]}\n"
    )
    assert [(one[0], one[4]) for one in made(text, tmp_path)] == [
        ("none", 16), ("patterns:far", 32), ("patterns:near", 32)
    ]  # fmt: skip


def test_include_adds_what_it_names_over_the_plan(tmp_path: Path):
    text = BASE + "source: none\ninclude:\n  - {fusion: metanet, size: 16, fold: [1, 2]}\n"
    found = [(one[2], one[4], one[6]) for one in made(text, tmp_path)]
    assert found == [("metanet", 16, 1), ("metanet", 16, 2), ("none", 32, 0)]


def test_a_cell_asked_for_twice_is_one(tmp_path: Path):
    assert len(made(BASE + "include: [{fold: 0}]\nsize: [32, $protocol]\n", tmp_path)) == 1


def test_the_three_seeds_are_lists_like_any_other():
    options = {"target": "demo:skin", "partition": [0, 1], "seed": 2, "pretrain_seed": [0, 3]}
    (found,) = request.requests(options)
    assert (found.partitions, found.seeds, found.pretrain_seeds) == ((0, 1), (2,), (0, 3))


def test_a_type_is_known_by_its_full_word():
    (found,) = request.requests({"target": "demo:skin", "type": {"age": "num"}})
    assert found.types == {"age": "numeric"}


def test_a_folder_goes_by_the_name_given(tmp_path: Path):
    places = [tmp_path / part / "images" for part in "ab"]
    for place in places:
        place.mkdir(parents=True)
    options = {"source": str(places[0]), "target": str(places[0]), "name": "eyes"}
    (found,) = request.requests(options)
    assert (found.targets, found.sources) == (("folder:eyes",), ("folder:eyes",))
    assert request.told(found.named)["inputs"]["folder:eyes"].path == places[0]
    with pytest.raises(BenchError, match="both named 'eyes'"):
        request.requests({"target": [str(place) for place in places], "name": "eyes"})
    with pytest.raises(BenchError, match="no name"):
        request.requests({"target": str(places[1]), "name": "a/b"})


@pytest.mark.parametrize(
    "text, message",
    [
        ("source: none\n", "names no target"),
        ("- a\n- b\n", "does not hold options"),
        ("target: [isic\n", "not YAML"),
        ("target: demo\nsources: dtd\n", "no option 'sources'"),
        ("target: demo\ndevice: cuda\n", "How it runs is said on the command line"),
        ("target: demo\nexclude: {source: none}\n", "not a list of options"),
        ("target: demo\nexclude: [{source: none}]\n", "excludes by 'source'"),
        ("target: demo\nsource: none\nexclude: [{source: '*'}]\n", "excludes everything"),
        ("target: demo\nfold: first\n", "not a whole number"),
        ("target: demo\npartition: -1\n", "not a whole number"),
        ("target: demo\ntype: {age: nummeric}\n", "No type named 'nummeric'"),
        ("target: demo\nname: mine\n", "describe a folder of your own"),
        ("target: demo\nfusion: !!python/object/apply:os.system [ls]\n", "not YAML"),
    ],
)
def test_a_bad_plan_says_what_is_wrong(tmp_path: Path, text: str, message: str):
    with pytest.raises(BenchError, match=message):
        made(text, tmp_path)


def test_a_distance_has_no_options_of_a_fusion():
    asked = {"source": "dtd", "target": "isic", "method": "otdd"}
    assert request.distances({**asked, "distance.size": 100}).options == {"size": 100}
    with pytest.raises(BenchError, match=r"no option 'fusion.rank'"):
        request.distances({**asked, "fusion.rank": 8})
