"""``amsam-ray export``: a trained model as plain SAM weights and ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from amsam_ray.cli.lookup import STORAGE, naming, read_adapter
from amsam_ray.cli.predict import BACKBONE


@click.command()
@click.argument("adapter")
@STORAGE
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the output files."
)
@click.option("--decoder", type=click.Choice(["onnx", "torchscript", "none"]), default="onnx", show_default=True)
@BACKBONE
def export(adapter: str, storage: str, out: Path, decoder: str, backbone: Path | None) -> None:
    """Write ADAPTER as files that do not need this package.

    ADAPTER is an adapter file, s3://bucket/key, or a trial or cell as for `amsam-ray show`: lesion.k4.am_sam is the
    model of that leaderboard row. segment_anything loads sam.pth; the decoder maps image embeddings to masks. Files
    that ADAPTER names are not opened: for SAM weights that are neither shipped nor published, give --backbone.
    """
    from amsam_ray.inference.export import export_adapter

    content = read_adapter(adapter, storage)
    with naming(adapter):
        made = export_adapter(content, out, decoder=decoder, backbone_file=backbone)  # type: ignore[arg-type]  # click's choice
    for name, what in made.items():
        click.echo(f"{out / name}  {what}")
