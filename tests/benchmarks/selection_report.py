"""Figures and tables of the selection benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.selection_format import identity, number, percent, points, table
from tests.benchmarks.selection_noise import beyond_noise, noise, noise_tables
from tests.benchmarks.selection_replay import replay_tables, replays
from tests.benchmarks.selection_rules import HALF, SCORES, CellRecords
from tests.benchmarks.selection_stopping import stopping, stopping_table
from tests.benchmarks.selection_trials import DEVELOPMENT, PUBLISHED, RECIPE

RESAMPLES, BOOTSTRAP_SEED = 4000, 0
BASE = "published"
MEAN = "mean of all"
_SHORT = {
    "published": "published",
    "published, trained longer": "longer",
    "published, refit on all shots": "refit",
    "recipe, no search": "recipe",
    "d2": "d2",
    "crossfit, 2 folds": "2 folds",
    "crossfit, 2 folds of 4": "2 of 4",
    "crossfit, 4 folds": "4 folds",
    "crossfit, 8 folds": "8 folds",
    "crossfit, 4 folds, 1 s.e.": "4 folds, 1 s.e.",
    "crossfit, 4 folds, 1 s.e. over recipe": "1 s.e. over recipe",
    "successive halving": "halving",
    MEAN: "mean",
    "best of all (looks at the test)": "best",
}


def interval(pairs: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> tuple[float, float, float]:
    """Mean gain and its 95 % interval from a paired bootstrap.

    Draws, seeds and test images are resampled; the draws of a dataset share the resampled images. Datasets are fixed.

    Args:
        pairs: per dataset and draw, Dice with a rule and with the published setting, each seeds x images.
    """
    random = np.random.default_rng(BOOTSTRAP_SEED)
    points, samples = [], np.zeros(RESAMPLES)
    for draws in pairs:
        images = _weights(random, draws[0][0].shape[1])
        shares = _weights(random, len(draws))
        for place, (rule, base) in enumerate(draws):
            points.append((rule.mean() - base.mean()) / len(draws) / len(pairs))
            seeds = _weights(random, len(rule))
            base_seeds = seeds if len(base) == len(rule) else _weights(random, len(base))
            gain = ((seeds @ rule - base_seeds @ base) * images).sum(axis=1)
            samples += shares[:, place] * gain / len(pairs)
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(sum(points)), float(low), float(high)


def _weights(random: np.random.Generator, count: int) -> np.ndarray:
    """Shares of ``count`` things in each resample, resamples x count."""
    weights: np.ndarray = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    return weights


class _Cell:
    """What the tables need of one cell."""

    def __init__(self, records: CellRecords):
        self.records, self.cell = records, records.cell
        self.choices = records.choices()
        self.tests: dict[str, np.ndarray] = {}
        for name, choice in self.choices.items():
            test = records.test(choice.configuration, choice.protocol)
            assert test is not None
            self.tests[name] = test
        models = {"published": (PUBLISHED, "d2"), "recipe": (RECIPE, "refit")}
        if self.searched:
            everything = [records.test(number, "refit") for number in range(records.count)]
            self.tests[MEAN] = np.mean([one[:1] for one in everything if one is not None], axis=0)
            models["chosen"] = self.choices["crossfit, 4 folds"].configuration, "refit"
        self.true_boxes = {
            name: float(found.mean())
            for name, model in models.items()
            if (found := records.true_box(*model)) is not None
        }

    @property
    def searched(self) -> bool:
        """Whether there are configurations to choose from."""
        return self.records.count > 2

    @property
    def group(self) -> tuple[str, int, str]:
        """Method, shots, and which datasets are averaged together."""
        kind = "development" if self.cell.dataset in DEVELOPMENT else "tuned" if self.cell.tuned else "fresh"
        return self.cell.method, self.cell.shots, kind

    def figures(self) -> dict[str, Any]:
        rules: dict[str, dict[str, Any]] = {}
        for name, test in self.tests.items():
            gain, low, high = interval([[(test, self.tests[BASE])]])
            rules[name] = {"dice": test.mean(), "seeds": len(test), "gain": gain, "low": low, "high": high}
            if choice := self.choices.get(name):
                rules[name] |= {"configuration": choice.configuration, "trainings": choice.trainings}
                if choice.trainings:
                    rules[name] |= {"seconds": choice.seconds, "score": choice.score}
        cell, records = self.cell, self.records
        return {
            "dataset": cell.dataset,
            "shots": cell.shots,
            "draw": cell.draw,
            "method": cell.method,
            "group": self.group[2],
            "configurations": records.count,
            "rules": rules,
            "true_box": self.true_boxes,
        } | (self._search_figures() if self.searched else {})

    def _search_figures(self) -> dict[str, Any]:
        records = self.records
        return {
            "ranking": records.ranking(),
            "spread": records.spread(),
            "noise": noise(records),
            "equal_compute": records.equal_compute(records.count),
            "equal_trials": {kind: self.tests[name].mean() for kind, name in _RULES.items() if name in self.tests},
        }


_RULES = {
    "d2": "d2",
    "crossfit2": "crossfit, 2 folds",
    HALF: "crossfit, 2 folds of 4",
    "crossfit4": "crossfit, 4 folds",
    "crossfit8": "crossfit, 8 folds",
}


def figures(finished: Iterable[CellRecords]) -> dict[str, Any]:
    """Return all figures: per cell, and averaged over datasets and draws for each method and number of shots."""
    cells = [_Cell(records) for records in finished]
    groups: dict[tuple[str, int, str], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    single = [cell.figures() for cell in cells]
    rounded: dict[str, Any] = _rounded(
        {
            "averages": [
                _average(group, part) for group, members in sorted(groups.items()) for part in _parts(members)
            ],
            "cells": single,
            "beyond_noise": beyond_noise(one for one in single if "noise" in one),
            "replays": replays(cell.records for cell in cells),
            "early_stopping": stopping(cell.records for cell in cells),
        }
    )
    return rounded


def _parts(members: list[_Cell]) -> list[list[_Cell]]:
    """All cells, and those that compare more than the published setting with the recipe, if they are not all."""
    searched = [cell for cell in members if cell.searched]
    return [members, searched] if 0 < len(searched) < len(members) else [members]


def _average(group: tuple[str, int, str], members: list[_Cell]) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    # Rules that were applied to some cells only are averaged in a part of their own.
    names = max((list(cell.tests) for cell in members), key=len)
    searched = all(cell.searched for cell in members)
    if not searched:
        names = [name for name in names if name in min((list(cell.tests) for cell in members), key=len)]
    # Published models can be worse with true boxes than with those they were trained on: no ceiling.
    gap = _mean(c.true_boxes["recipe"] - c.tests[BASE].mean() for c in members if "recipe" in c.true_boxes)
    for name in names:
        having = [cell for cell in members if name in cell.tests]
        datasets: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for cell in having:
            datasets.setdefault(cell.cell.dataset, []).append((cell.tests[name], cell.tests[BASE]))
        gain, low, high = interval(list(datasets.values()))
        dice = [np.mean([rule.mean() for rule, _ in draws]) for draws in datasets.values()]
        rules[name] = {"cells": len(having), "dice": float(np.mean(dice)), "gain": gain, "low": low, "high": high}
        if having[0].choices.get(name):
            rules[name]["trainings"] = _mean(cell.choices[name].trainings for cell in having)
            rules[name]["seconds"] = _mean(cell.choices[name].seconds for cell in having)
        if gap:
            rules[name]["gap_closed"] = gain / gap
    ranking = {}
    for kind in SCORES if searched else ():
        having = [cell for cell in members if _RULES[kind] in cell.choices]
        if having:
            rows = [cell.records.ranking()[kind] for cell in having]
            name = _RULES[kind]
            ranking[kind] = {
                "cells": len(having),
                "spearman": _mean(row["spearman"] for row in rows),
                "excess": _mean(row["excess"] for row in rows),
                "excess_of_the_chosen": _mean(c.choices[name].score - c.tests[name].mean() for c in having),
                "equal_compute": _mean(c.records.equal_compute(c.records.count)[kind] for c in having),
            }
    method, shots, kind = group
    return {
        "method": method,
        "shots": shots,
        "group": f"{kind}, searched" if searched else kind,
        "cells": len(members),
        "draws": len({cell.cell.draw for cell in members}),
        "rules": rules,
        "ranking": ranking,
        "true_box": {
            name: _mean(cell.true_boxes[name] for cell in members if name in cell.true_boxes)
            for name in ("published", "recipe", "chosen")
        },
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def markdown(found: dict[str, Any]) -> str:
    """Return the tables: averages, ranking, and one row per cell. Dice in per cent."""
    averages, cells = found["averages"], found["cells"]
    if not cells:
        return "No cell is finished.\n"
    tables = [_averages_table(averages), _ranking_table(averages), _cells_table(cells), _noise_table(cells)]
    return "\n\n".join(
        [*tables, *noise_tables(found), *replay_tables(found["replays"]), stopping_table(found["early_stopping"])]
    )


def _averages_table(averages: list[dict[str, Any]]) -> str:
    longest_first = sorted(averages, key=lambda average: -len(average["rules"]))
    names = list(dict.fromkeys(name for average in longest_first for name in average["rules"]))
    heads = [f"{a['method']}, K = {a['shots']}, {a['group']} ({a['cells']} cells)" for a in averages]
    rows = []
    for name in names:
        row = [name]
        for average in averages:
            rule = average["rules"].get(name)
            row.append("" if rule is None else _gain(rule, name, average["cells"]))
        rules = [average["rules"][name] for average in averages if name in average["rules"]]
        spent = [rule["trainings"] for rule in rules if rule.get("trainings")]
        seconds = [rule["seconds"] for rule in rules if rule.get("trainings")]
        row += [f"{np.mean(spent):.0f}", f"{np.mean(seconds):.0f}"] if spent else ["0", "0"]
        rows.append(row)
    boxes = [f"true box, {name} (looks at the test)" for name in ("published", "recipe", "chosen")]
    for head, key in zip(boxes, ("published", "recipe", "chosen"), strict=True):
        if any(average["true_box"][key] for average in averages):
            rows.append([head, *[percent(average["true_box"][key]) for average in averages], "", ""])
    return table(["rule", *heads, "trainings", "seconds"], rows)


def _gain(rule: dict[str, Any], name: str, cells: int) -> str:
    text = percent(rule["dice"])
    if name != BASE:
        text += f" ({100 * rule['gain']:+.1f} [{100 * rule['low']:+.1f}, {100 * rule['high']:+.1f}])"
    if rule.get("gap_closed") is not None and name != BASE:
        text += f", gap {100 * rule['gap_closed']:.0f} %"
    return text + (f", {rule['cells']} cells" if rule["cells"] != cells else "")


def _ranking_table(averages: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{average['method']}, K = {average['shots']}, {average['group']}",
            kind,
            str(row["cells"]),
            number(row["spearman"]),
            points(row["excess"]),
            points(row["excess_of_the_chosen"]),
            percent(row["equal_compute"]),
        ]
        for average in averages
        for kind, row in average["ranking"].items()
    ]
    heads = ["", "score", "cells", "Spearman with test", "score - test, mean", "score - test, chosen"]
    return table([*heads, "test at equal compute"], rows)


def _cells_table(cells: list[dict[str, Any]]) -> str:
    names = [name for name in _SHORT if any(name in cell["rules"] for cell in cells)]
    rows = [
        [
            *identity(cell),
            *[percent(cell["rules"].get(name, {}).get("dice")) for name in names],
            percent(cell["true_box"].get("published")),
            percent(cell["true_box"].get("chosen")),
        ]
        for cell in cells
    ]
    heads = ["dataset", "K", "draw", "method", *[_SHORT[name] for name in names]]
    return table([*heads, "true box, published", "true box, 4 folds"], rows)


def _noise_table(cells: list[dict[str, Any]]) -> str:
    kinds = [kind for kind in SCORES if any(kind in cell.get("ranking", {}) for cell in cells)]
    rows = []
    for cell in cells:
        if "spread" not in cell:
            continue
        row = identity(cell)
        for kind in kinds:
            ranking = cell["ranking"].get(kind, {})
            row.append(f"{number(ranking.get('spearman'))} / {points(ranking.get('excess'))}" if ranking else "")
        spread = cell["spread"]
        row += [percent(spread["configurations_sd"]), percent(spread.get("seeds_sd"))]
        row.append("" if spread.get("p") is None else f"{spread['p']:.3f}")
        rows.append(row)
    heads = ["dataset", "K", "draw", "method", *[f"{kind}: Spearman / score - test" for kind in kinds]]
    return table([*heads, "sd over configurations", "sd over seeds", "p"], rows)
