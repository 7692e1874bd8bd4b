"""What a method that is not SAM starts from, in records, leaderboards and tables; older records read without it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amsam_ray.config.methods import METHODS, pretrained_text, resolve_params
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.records.schema import Record
from amsam_ray.records.summary import RecordSummary, cell_summaries
from amsam_ray.records.tables import columns, readable_table, to_csv
from tests.records.synthetic import config, record

SSP_ON_SAM = "SAM nano (published: ImageNet ResNet-50)"


def final(method: str, dataset: str = "person", **params: Any) -> Record:
    trial = config(dataset, method=method, role="final", **params)
    made = record(trial, final=0, images=[0.5, 0.6])
    return made.model_copy(update={"searched": ()})


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        ("deeplabv3", {}, "ImageNet ResNet-50"),
        ("swin_unet", {"features": "random"}, "none (published: ImageNet Swin-T)"),
        ("ssp", {"features": "sam"}, SSP_ON_SAM),
        ("am_sam", {}, None),
    ],
)
def test_whatever_is_not_as_published_says_so(method, params, text):
    assert pretrained_text(method, resolve_params(method, params), "nano") == text
    assert config("person", method=method, **params).params == resolve_params(method, params)


def test_rows_tell_the_start_of_every_method_and_which_hsnet_it_is():
    records = [final("hsnet", features="sam"), final("am_sam")]
    rows = {row["method"]: row for row in build_leaderboard(cell_summaries(records), published=False)}
    assert rows["hsnet"]["pretrained"] == SSP_ON_SAM and rows["am_sam"]["pretrained"] == "SAM nano"
    assert "Min et al. 2021" in rows["hsnet"]["reference"] and "Zhang et al. 2022" in rows["hsnet"]["reference"]
    assert rows["hsnet"]["features"] == "sam" and "image_size" not in rows["hsnet"]
    header, lines = readable_table(list(rows.values()))
    assert header[-2:] == ["trained", "pretrained"] and {line[-1] for line in lines} == {SSP_ON_SAM, "SAM nano"}
    assert SSP_ON_SAM in to_csv(list(rows.values())).decode()


def test_a_leaderboard_of_sam_methods_alone_is_as_before():
    rows = build_leaderboard(cell_summaries([final("am_sam"), final("blo_sam")]), published=False)
    assert "pretrained" not in columns(rows) and "pretrained" not in readable_table(rows)[0]


def test_the_papers_row_of_hsnet_says_what_it_cites():
    rows = build_leaderboard(cell_summaries([final("am_sam", "tiktok")]), published=True)
    references = {row["method"]: row["reference"] for row in rows if row["source"] == "paper"}
    assert {"deeplabv3", "swin_unet", "hsnet", "ssp"} <= set(references)
    assert "Zhang et al. 2022" in references["hsnet"] and references["ssp"] == "AM-SAM, arXiv 2410.09714, Table 1"


def test_a_record_without_the_field_is_read():
    made = final("am_sam")
    plain = json.loads(made.to_bytes())
    del plain["pretrained"]
    assert Record.model_validate(plain) == made
    kept = final("ssp", features="sam")
    assert RecordSummary.of(Record.model_validate_json(kept.to_bytes())).pretrained == SSP_ON_SAM
    assert METHODS["ssp"].note == ""
