"""Space files: the shipped ones are valid, and every problem is reported with its line."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from amsam_ray.config.space_checks import check_space
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


BASE: dict[str, object] = {
    "name": "x",
    "datasets": [{"name": "procedural", "options": {"family": "polyp"}}],
    "shots": [4],
    "methods": ["am_sam"],
}


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
def test_paper_spaces_start_from_published_settings(stem: str) -> None:
    space = load_space(next(p for p in SHIPPED if p.stem == stem))
    assert (space.backbone.arch, space.backbone.size, space.shots) == ("vit_b", 1024, (4, 8, 16))
    first = next(cell for cell in make_cells(space) if cell.entry.name == "am_mca_sam").first[0]
    published = {"alpha": 0.7, "lambda": 0.8, "rank": 4, "lr": 5e-3, "lr_prompt": 1e-3}
    assert published.items() <= first.items()
    assert {"tau_token", "tau_sample"} <= first.keys()


def test_a_cell_searches_only_live_parameters_of_its_method(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    cells = {cell.entry.name: cell for cell in make_cells(load_space(tmp_path / "s.yaml"))}
    assert set(cells["am_sam"].space) == {"alpha", "lr"}
    assert not cells["sam"].space
    assert cells["sam"].trials == 1
    assert cells["am_sam"].first[0] == {"alpha": 0.7, "lr": 5e-3}


def test_alpha_is_not_searched_without_calibration() -> None:
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


def test_the_hash_ignores_resources_and_storage() -> None:
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
        "names calib, which is not in search.space",
    ),
    "key given twice": (
        "shots: [4]",
        "shots: [4]\nshots: [8]",
        "space.yaml:5 (shots): is given twice, in lines 4 and 5",
    ),
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
    "fraction above one GPU": ("search:", "resources: {gpus_per_lane: 1.5}\nsearch:", "must be a whole number of GPUs"),
    "no such union branch": (
        "search:",
        "resources: {lanes: many}\nsearch:",
        "space.yaml:6 (resources.lanes): must be a number or auto, not 'many'",
    ),
    "infinite reduction": ("trials: 3", "trials: 3\n  scheduler: {reduction: .inf}", "is not a finite number"),
    "large reduction": (
        "trials: 3",
        "trials: 3\n  scheduler: {reduction: 1.0e+9}",
        "must be at most 1000, not 1000000000.0",
    ),
    "large top_k": ("search:", "finals: {top_k: 100000}\nsearch:", "(finals.top_k): must be at most 1,000, not 100000"),
    "large number of seeds": ("search:", "finals: {seeds: 100000}\nsearch:", "(finals.seeds): must be at most 1,000"),
    "large seed": ("trials: 3", "trials: 3\n  seed: 4294967296", "(search.seed): must be at most 4,294,967,295"),
    "many GPUs": (
        "search:",
        "resources: {gpus_per_lane: 1.0e+8}\nsearch:",
        "(resources.gpus_per_lane): must be at most 1024",
    ),
    "many trials": ("trials: 3", "trials: 100000000", "(search.trials): must be at most 1,000,000"),
    "endless timeout": ("trials: 3", "trials: 3\n  timeout_s: 1.0e+12", "(search.timeout_s): must be at most"),
    "large range": ("alpha: {uniform: [0.5, 1.0]}", "rank: {int: [1, 2000000]}", "at most 1,000,000; narrow"),
    "very large range": ("alpha: {uniform: [0.5, 1.0]}", "rank: {int: [1, 99999999999]}", "between -1e+09 and 1e+09"),
    "long choice": ("{uniform: [0.5, 1.0]}", f"{{choice: {[0.5] * 1001}}}", "choice has 1,001 values; use at most"),
    "nested choice": ("{uniform: [0.5, 1.0]}", "{choice: [[0.5]]}", "must be a single value, not a list"),
    "nested list in when": (
        "{uniform: [0.5, 1.0]}",
        "{uniform: [0.5, 1.0], when: {calibration: [[sample]]}}",
        "space.yaml:9 (search.space.alpha): must be a single value, not a list",
    ),
    "stored form with fields missing": (
        "{uniform: [0.5, 1.0]}",
        "{kind: uniform, low: 0.5, high: 1.0}",
        "space.yaml:9 (search.space.alpha): `kind` is not a distribution; write {uniform: [low, high]}",
    ),
    "nested fixed value": ("am_sam]", "{name: am_sam, params: {rank: [[4]]}}]", "must be a single value, not a list"),
    "home of an unknown user": (
        "search:",
        "storage: ~no-such-user/results\nsearch:",
        "space.yaml:6 (storage): ~no-such-user is not a user of this machine; write the path out",
    ),
    "date": ("name: small", "name: 2024-01-01", "space.yaml:1 (name): 2024-01-01 is read as a date; put it in quotes"),
    "image size": ("search:", "backbone: {image_size: 250}\nsearch:", "must be a multiple of 16"),
    "name that leaves its folder": ("name: small", "name: ../small", "space.yaml:1 (name)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_line(tmp_path: Path, fault: str) -> None:
    old, new, expected = FAULTS[fault]
    assert old in GOOD
    found = problems_of(tmp_path, GOOD.replace(old, new, 1))
    assert any(expected in problem for problem in found), found


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 3", "trials: 0").replace("[4]", "[5]").replace("[0.5, 1.0]", "[2, 1]")
    assert len(problems_of(tmp_path, text + "extra: 1\n")) == 4


def test_schema_faults_do_not_hide_other_faults(tmp_path: Path) -> None:
    text = GOOD.replace("[4]", "[3]").replace("am_sam]", "sam3]")
    text = text.replace("alpha: {uniform: [0.5, 1.0]}", "rank: {int: [0, 4]}").replace("[sam, sam3]", "[am_sam, sam3]")
    found = "\n".join(problems_of(tmp_path, text + "foo: 1\n"))
    for expected in ("3 is odd", "sam3 is not a method", "(foo): is not a known key", "must be an integer in [1, inf)"):
        assert expected in found


def test_dataset_faults_and_schema_faults_are_sorted_by_line(tmp_path: Path) -> None:
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
def test_a_file_with_no_usable_dataset_reports_the_schema_faults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_space(file)
    assert all_problems(file, caught.value) == caught.value.problems


def test_problems_of_later_checks_get_lines(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(GOOD)
    found = problems_at(
        tmp_path / "space.yaml", [Problem("datasets[0].options.family", "x"), Problem("s3://bucket", "is away")]
    )
    assert [p.where for p in found] == ["space.yaml:3 (datasets[0].options.family)", "s3://bucket"]


def test_a_missing_file_bad_yaml_and_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_space(tmp_path / "absent.yaml")
    broken = problems_of(tmp_path, "name: [1\nshots: }")[0]
    assert "is not valid YAML" in broken and "; close brackets and quotes" in broken
    assert "must be a mapping" in problems_of(tmp_path, "- 1\n- 2\n")[0]
    assert "has the tag !!python" in problems_of(tmp_path, "name: !!python/object/apply:os.system ['true']\n")[0]


def test_a_scalar_in_place_of_a_list_is_one_fault(tmp_path: Path) -> None:
    text = "name: x\ndatasets: procedural\nshots: 4\nmethods: []\n"
    assert problems_of(tmp_path, text) == [
        "space.yaml:2 (datasets): must be a list; write [procedural]",
        "space.yaml:3 (shots): must be a list; write [4]",
        "space.yaml:4 (methods): is empty; give at least one item",
    ]


def test_faults_found_only_by_whole_file_checks_are_reported_together(tmp_path: Path) -> None:
    # The check for duplicate labels needs a valid schema, which the unknown key breaks.
    text = GOOD.replace("[sam, am_sam]", "[am_sam, am_sam, sam3]") + "extra: 1\n"
    found = "\n".join(problems_of(tmp_path, text))
    for expected in ("(extra)", "label am_sam is taken", "sam3 is not a method"):
        assert expected in found


def test_findings_carry_a_code_and_a_key() -> None:
    space = parse_space(BASE)
    broken = space.model_copy(update={"objective": "dicee", "storage": "a\0b"})
    assert [(f.code, f.path) for f in check_space(broken)] == [
        ("unknown-metric", ("objective",)),
        ("path", ("storage",)),
    ]


DISTRIBUTIONS = {
    "alpha": {"uniform": [0.5, 1]},
    "lr": {"loguniform": [1e-4, 1e-2]},
    "rank": {"int": [2, 16]},
    "adaptors": {"choice": ["none", "tc", "mc"]},
    "w_token": 0.1,
    "detector": True,
    "tau_token": {"loguniform": [0.03, 1.0], "when": {"adaptors": ["tc", "mc"]}},
}


def test_the_stored_form_of_a_space_is_read_back(tmp_path: Path) -> None:
    space = parse_space({**BASE, "methods": ["am_mca_sam"], "search": {"space": DISTRIBUTIONS}})
    stored = json.loads(json.dumps(space.model_dump(mode="json", by_alias=True)))
    assert stored["search"]["space"]["rank"]["kind"] == "int"
    assert parse_space(stored) == space
    assert space_hash(parse_space(stored)) == space_hash(space)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    assert load_space(tmp_path / "space.yaml") == space


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("low", 3.0, "is above high"),
        ("kind", "normal", "must be a constant or one of"),
        ("when", [1], "must map a key"),
    ],
)
def test_the_stored_form_is_checked_like_the_written_form(field: str, value: object, message: str) -> None:
    stored = {"kind": "uniform", "low": 0.5, "high": 1.0, "choices": [], "when": {}, field: value}
    with pytest.raises(InputError, match=message):
        parse_space({**BASE, "search": {"space": {"alpha": stored}}})


def test_a_boolean_condition_on_an_unknown_parameter_is_an_input_error() -> None:
    distributions = {"x": {"choice": ["on"]}, "alpha": {"uniform": [0, 1], "when": {"x": True}}}
    with pytest.raises(InputError, match="x\\): is not a parameter"):
        parse_space({**BASE, "search": {"space": distributions}})


REPLACEMENTS: tuple[object, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1e308,
        math.inf,
        math.nan,
        10**40,
        "",
        "x" * 5000,
        "\0",
        "~nobody/x",
        "[",
        [],
        {},
        [[1]],
        [None],
    ),
    *({"kind": "int"}, {"uniform": [math.nan, 1]}, {"choice": [{}]}, {"int": [0, 10**30]}, {1: 2}, [{"name": [1]}]),
)


def mutations(data: object) -> Iterator[object]:
    """All copies of ``data`` with one value replaced, removed or nested."""
    yield from REPLACEMENTS
    yield [data]
    if isinstance(data, dict):
        for key, value in data.items():
            yield {k: v for k, v in data.items() if k != key}
            yield {**data, f"{key}z": value}
            yield from ({**data, key: changed} for changed in mutations(value))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from ([*data[:index], changed, *data[index + 1 :]] for changed in mutations(value))


def test_a_mutated_space_is_valid_or_an_input_error() -> None:
    options = {"params": {"calibration": "sample"}, "name": "am_sam", "label": "own"}
    search = {"space": {k: DISTRIBUTIONS[k] for k in ("alpha", "rank")}, "scheduler": {"name": "asha"}, "first": [{}]}
    whole = {**BASE, "methods": ["sam", options], "search": search, "storage": "x", "resources": {"lanes": 2}}
    refused = 0
    for mutant in mutations(whole):
        if not isinstance(mutant, dict):
            continue
        try:
            space = parse_space(mutant)
        except InputError as error:
            refused += 1
            assert all(problem.where and len(str(problem)) < 1000 for problem in error.problems)
        else:
            with contextlib.suppress(InputError):  # a dataset's name is not looked up before this
                make_cells(space)
    assert refused > 300


# Spaces as they were shipped, and their hashes computed before ``retries`` and ``timeout_s`` were left out.
ISIC = """
name: isic
datasets: [isic2018]
shots: [4, 8, 16]
methods: [sam, samed, med_sa, blo_sam, am_sam]
backbone: {arch: vit_b, image_size: 1024}
detector: {weights: yolov8n.pt, confidence: 0.25, finetune_epochs: 60}
train: {epochs: 100, batch_size: 4}
search:
  trials: 20
  scheduler: {name: asha, grace_epochs: 10, reduction: 3}
  space:
    lr: {loguniform: [1.0e-4, 1.0e-2]}
    rank: {choice: [2, 4, 8, 16]}
finals: {top_k: 1, seeds: 5}
resources: {lanes: auto, gpus_per_lane: auto, cpus_per_lane: 4}
storage: ./results
"""
CROSSFIT = """
name: demo
datasets: [{name: procedural, options: {family: lesion, train: 64, test: 40}}]
shots: [4, 8]
methods: [sam, am_sam]
backbone: {arch: nano}
detector: {weights: nano}
selection: {mode: crossfit, folds: 4}
train: {epochs: 20, batch_size: 4}
search:
  trials: 6
  scheduler: {name: asha, grace_epochs: 5}   # the default then
  space: {steps: {choice: [50, 100]}, lr: {loguniform: [5.0e-4, 1.0e-2]}}
  first: [{steps: 100, lr: 1.0e-3}]
"""


@pytest.mark.parametrize(("text", "digits"), [(ISIC, "f3e1310bb83b2454"), (CROSSFIT, "1a6ace7b220e0b23")])
def test_hash_of_a_space_is_stable(text: str, digits: str) -> None:
    assert space_hash(parse_space(yaml.safe_load(text))).startswith(digits)


def test_hash_ignores_what_cannot_change_a_result() -> None:
    base = {"name": "tiny", "datasets": ["isic2018"], "shots": [4], "methods": ["am_sam"]}
    plain = space_hash(parse_space(base))
    for search in ({"retries": 0}, {"timeout_s": 60}, {"retries": 2, "timeout_s": 1800}):
        assert space_hash(parse_space({**base, "search": search})) == plain
    for search in ({"trials": 5}, {"margin": 2}, {"seed": 1}):
        assert space_hash(parse_space({**base, "search": search})) != plain


def test_an_entry_cannot_set_what_its_protocol_fixes_nor_a_search_its_protocol(tmp_path: Path) -> None:
    text = """\
name: small
datasets:
  - {name: procedural, options: {family: lesion}}
shots: [4]
methods:
  - {name: sam_adapter, label: as_published, params: {protocol: published, warmup: 0.1}}
search:
  space:
    lr: {loguniform: [1.0e-4, 1.0e-2]}
    protocol: {choice: [default, published]}
"""
    warmup, protocol = problems_of(tmp_path, text)
    assert ":6 " in warmup and "warmup" in warmup and "is fixed to" in warmup and "; remove it" in warmup
    assert ":10 " in protocol and "protocol" in protocol and "is not searched" in protocol


def test_a_search_of_nothing_but_what_a_protocol_fixes_names_the_protocol(tmp_path: Path) -> None:
    text = """\
name: small
datasets:
  - {name: procedural, options: {family: lesion}}
shots: [4]
methods:
  - {name: samed, label: as_published, params: {protocol: published}}
search:
  space:
    warmup: {uniform: [0, 0.1]}
"""
    (nothing, *_) = problems_of(tmp_path, text)
    assert "`protocol: published` fixes warmup" in nothing and "search one of" in nothing


def test_what_a_protocol_fixes_is_neither_searched_nor_set_for_its_row() -> None:
    published = {"name": "blo_sam", "label": "x", "params": {"protocol": "published"}}
    search = {"space": {"lr": {"loguniform": [1e-4, 1e-2]}, "reach": {"loguniform": [1e-4, 1e-2]}}}
    methods = [{"name": "blo_sam", "params": {"hypergradient": "unrolled"}}, published]
    space = parse_space({**BASE, "methods": methods, "train": {"hypergradient": "first_order"}, "search": search})
    ours, theirs = make_cells(space)
    assert set(ours.space) == {"lr", "reach"} and set(theirs.space) == {"lr"}
    assert theirs.config({"lr": 1e-3}, seed=0).params.hypergradient == "unrolled"


def test_a_protocol_is_a_row_of_its_own_and_reaches_the_trial(tmp_path: Path) -> None:
    published = {"name": "samed", "params": {"protocol": "published"}}
    assert parse_space({**BASE, "methods": [published]}).methods[0].label == "samed-published"
    space = parse_space({**BASE, "methods": ["samed", published]})
    ours, theirs = (cell.config({}, seed=0).params for cell in make_cells(space))
    assert (ours.protocol, ours.warmup) == ("default", 0.0134)
    assert (theirs.protocol, theirs.warmup) == ("published", 0.0)
