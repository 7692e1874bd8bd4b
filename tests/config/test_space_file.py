"""Space files: the shipped ones validate, and every fault is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from amsam_ray.config.space_file import load_space, parse_space, problems_at, space_hash, sweep_id
from amsam_ray.errors import InputError, Problem
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import all_problems

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
GOOD = """\
name: small
datasets:
  - {name: procedural, options: {family: lesion}}
shots: [4]
methods: [sam, am_sam]
search:
  trials: 3
  space:
    alpha: {uniform: [0.5, 1.0]}
    lr: {loguniform: [1.0e-4, 1.0e-2]}
"""


def problems_of(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_space(file)
    assert caught.value.exit_status == 2
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_spaces_validate(path: Path) -> None:
    space = load_space(path)
    cells = make_cells(space)
    assert len(cells) == len(space.datasets) * len(space.shots) * len(space.methods)
    for cell in cells:
        assert cell.config(cell.first[0] if cell.first else {}, seed=0).method == cell.entry.name


@pytest.mark.parametrize("stem", ["isic", "tiktok", "vikram_human", "kvasir_seg", "cod10k", "camo", "istd"])
def test_paper_spaces_start_from_the_papers_settings(stem: str) -> None:
    space = load_space(next(p for p in SHIPPED if p.stem == stem))
    assert (space.backbone.arch, space.backbone.size, space.shots) == ("vit_b", 1024, (4, 8, 16))
    first = next(cell for cell in make_cells(space) if cell.entry.name == "am_mca_sam").first[0]
    published = {"alpha": 0.7, "lambda": 0.8, "rank": 4, "lr": 5e-3, "lr_prompt": 1e-3}
    assert published.items() <= first.items()
    assert {"tau_token", "tau_sample"} <= first.keys()


def test_a_cell_searches_only_what_acts_on_its_method(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    cells = {cell.entry.name: cell for cell in make_cells(load_space(tmp_path / "s.yaml"))}
    assert set(cells["am_sam"].space) == {"alpha", "lr"}
    assert not cells["sam"].space
    assert cells["sam"].trials == 1
    assert cells["am_sam"].first[0] == {"alpha": 0.7, "lr": 5e-3}


def test_alpha_is_not_searched_where_calibration_is_off() -> None:
    space = parse_space(
        {
            "name": "x",
            "datasets": [{"name": "procedural", "options": {"family": "polyp"}}],
            "shots": [4],
            "methods": ["am_sam", {"name": "am_sam", "label": "plain", "params": {"calibration": False}}],
            "search": {"space": {"alpha": {"uniform": [0, 1]}, "lr": {"loguniform": [1e-4, 1e-2]}}},
        }
    )
    on, off = make_cells(space)
    assert set(on.space) == {"alpha", "lr"}
    assert set(off.space) == {"lr"}
    assert off.config({"lr": 1e-3}, seed=0).params.calibration == "off"


def test_the_hash_ignores_where_a_sweep_runs_and_sees_what_it_does() -> None:
    base = {
        "name": "x",
        "datasets": [{"name": "procedural", "options": {"family": "polyp"}}],
        "shots": [4],
        "methods": ["sam"],
    }
    same = parse_space({**base, "storage": "s3://b/p", "resources": {"lanes": 3}})
    other = parse_space({**base, "shots": [8]})
    assert space_hash(same) == space_hash(parse_space(base)) != space_hash(other)
    assert sweep_id(same).startswith("x-")


FAULTS = {
    "unknown key": ("shots: [4]", "shots: [4]\nshotz: 3", "space.yaml:5 (shotz): is not a known key"),
    "wrong type": ("trials: 3", "trials: many", "space.yaml:7 (search.trials)"),
    "empty choice": ("{uniform: [0.5, 1.0]}", "{choice: []}", "space.yaml:9 (search.space.alpha): choice is empty"),
    "unknown method": ("am_sam]", "am_samm]", "space.yaml:5 (methods[1]): am_samm is not a method"),
    "low above high": ("[0.5, 1.0]", "[1.0, 0.5]", "low 1 is above high 0.5; swap them"),
    "log with zero": ("[1.0e-4, 1.0e-2]", "[0, 1.0e-2]", "a log scale needs low > 0"),
    "text for a number": ("[1.0e-4, 1.0e-2]", "[1e-4, 1e-2]", "write 1.0e-4"),
    "alpha above one": ("[0.5, 1.0]", "[0.5, 1.5]", "space.yaml:9 (search.space.alpha): must be a number in [0, 1]"),
    "unknown parameter": ("alpha:", "alfa:", "space.yaml:9 (search.space.alfa): is not a parameter"),
    "parameter of another method": ("alpha: {uniform: [0.5, 1.0]}", "tau_token: 0.1", "acts on none of the methods"),
    "odd shots": ("shots: [4]", "shots: [5]", "5 is odd"),
    "one shot": ("shots: [4]", "shots: [1]", "space.yaml:4 (shots[0])"),
    "no trials": ("trials: 3", "trials: 0", "space.yaml:7 (search.trials)"),
    "when on an unknown key": (
        "{uniform: [0.5, 1.0]}",
        "{uniform: [0.5, 1.0], when: {calib: sample}}",
        "names calib, which search.space does not hold",
    ),
    "key given twice": ("shots: [4]", "shots: [4]\nshots: [8]", "space.yaml:5 (shots): is given twice"),
    "missing section": ("methods: [sam, am_sam]\n", "", "(methods): is missing"),
    "calibration on samed": (
        "am_sam]",
        "{name: samed, params: {calibration: sample}}]",
        "space.yaml:5 (methods[1].params.calibration): does not apply to samed",
    ),
    "rank above the width": ("alpha: {uniform: [0.5, 1.0]}", "rank: {choice: [4, 999]}", "at most 64"),
    "temperature not positive": (
        "am_sam]",
        "{name: mca_sam, params: {tau_token: 0}}]",
        "must be a number in (0, inf)",
    ),
    "unknown metric": ("shots: [4]", "shots: [4]\nobjective: dicee", "space.yaml:5 (objective): dicee is not a metric"),
    "half a GPU too many": ("search:", "resources: {gpus_per_lane: 1.5}\nsearch:", "must be a whole number of GPUs"),
    "image size": ("search:", "backbone: {image_size: 250}\nsearch:", "must be a multiple of 16"),
    "name that leaves its folder": ("name: small", "name: ../small", "space.yaml:1 (name)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    old, new, expected = FAULTS[fault]
    assert old in GOOD
    found = problems_of(tmp_path, GOOD.replace(old, new, 1))
    assert any(expected in problem for problem in found), found


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 3", "trials: 0").replace("[4]", "[5]").replace("[0.5, 1.0]", "[2, 1]")
    assert len(problems_of(tmp_path, text + "extra: 1\n")) == 4


def test_the_schemas_faults_do_not_hide_the_others(tmp_path: Path) -> None:
    text = GOOD.replace("[4]", "[3]").replace("am_sam]", "sam3]")
    text = text.replace("alpha: {uniform: [0.5, 1.0]}", "rank: {int: [0, 4]}").replace("[sam, sam3]", "[am_sam, sam3]")
    found = "\n".join(problems_of(tmp_path, text + "foo: 1\n"))
    for expected in ("3 is odd", "sam3 is not a method", "(foo): is not a known key", "must be an integer in [1, inf)"):
        assert expected in found


def test_faults_of_the_data_are_told_with_those_of_the_schema_in_the_files_order(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    bad = "  - {name: folder, root: /nowhere}\n  - {name: procedural, options: {family: cow}}\n  - {nome: x}\nshots"
    file.write_text("extra: 1\n" + GOOD.replace("trials: 3", "trials: 0").replace("shots", bad, 1))
    with pytest.raises(InputError) as caught:
        load_space(file)
    places = [problem.where for problem in all_problems(file, caught.value)]
    assert places == [
        "space.yaml:1 (extra)",
        "space.yaml:5 (datasets[1].root)",
        "space.yaml:6 (datasets[2].options.family)",
        "space.yaml:7 (datasets[3].name)",
        "space.yaml:7 (datasets[3].nome)",
        "space.yaml:11 (search.trials)",
    ]


@pytest.mark.parametrize(
    "text", ["datasets: 5\n", "- 1\n", "datasets: [a: b: c\n", "datasets: [{name: [1]}]\nshots: x\n"]
)
def test_no_file_is_too_broken_for_its_data_to_be_looked_at(tmp_path: Path, text: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_space(file)
    assert all_problems(file, caught.value) == caught.value.problems


def test_problems_found_later_get_their_lines_too(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(GOOD)
    found = problems_at(
        tmp_path / "space.yaml", [Problem("datasets[0].options.family", "x"), Problem("s3://bucket", "is away")]
    )
    assert [p.where for p in found] == ["space.yaml:3 (datasets[0].options.family)", "s3://bucket"]


def test_not_a_file_not_yaml_not_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_space(tmp_path / "absent.yaml")
    broken = problems_of(tmp_path, "name: [1\nshots: }")[0]
    assert "is not valid YAML" in broken and "; mend it: close brackets and quotes" in broken
    assert "must hold keys" in problems_of(tmp_path, "- 1\n- 2\n")[0]
    assert "is not valid YAML" in problems_of(tmp_path, "name: !!python/object/apply:os.system ['true']\n")[0]


def test_one_thing_where_a_list_belongs_is_one_fault(tmp_path: Path) -> None:
    text = "name: x\ndatasets: procedural\nshots: 4\nmethods: []\n"
    assert problems_of(tmp_path, text) == [
        "space.yaml:2 (datasets): must be a list; write [procedural]",
        "space.yaml:3 (shots): must be a list; write [4]",
        "space.yaml:4 (methods): is empty; name at least one",
    ]


def test_faults_that_show_only_once_others_are_mended_are_told_at_once(tmp_path: Path) -> None:
    # A method's name taken twice is seen by the check of the whole file, which the unknown key would put off.
    text = GOOD.replace("[sam, am_sam]", "[am_sam, am_sam, sam3]") + "extra: 1\n"
    found = "\n".join(problems_of(tmp_path, text))
    for expected in ("(extra)", "label am_sam is taken", "sam3 is not a method"):
        assert expected in found
