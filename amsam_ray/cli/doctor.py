"""``amsam-ray doctor``: check this machine or all nodes of a cluster before a sweep."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from amsam_ray.errors import InputError, printable

if TYPE_CHECKING:
    from amsam_ray.config.space import SpaceFile
    from amsam_ray.search.doctor import Finding


@click.command()
@click.option(
    "--address",
    metavar="ADDRESS",
    help="A running Ray cluster, as for `tune`: check all nodes [default: this machine].",
)
@click.option(
    "--storage", metavar="URI", help="Folder or s3://bucket/prefix for results [default: from the space file]."
)
@click.option("--space", "space_path", metavar="FILE", help="A space file: check its data, weights and storage too.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects with level, where and what.")
def doctor(address: str | None, storage: str | None, space_path: str | None, as_json: bool) -> None:
    """Check what a sweep needs, one line per check: versions, GPUs, memory, disk, clock, storage, data and weights.

    Exit status: 0 without a fault, 1 with one, 2 if the check itself cannot run. Warnings do not count.
    """
    from amsam_ray.config.space_file import load_space
    from amsam_ray.search.submission import is_dashboard

    space = load_space(space_path) if space_path is not None else None
    uri = storage or (space.storage if space is not None else None)
    if address is not None and is_dashboard(address):
        from amsam_ray.cli.remote import run_remotely
        from amsam_ray.search.submission import travelling

        arguments = ["doctor", "--address", "auto"]
        arguments += ["--storage", uri] if uri is not None else []
        arguments += ["--space", "space.yaml"] if space_path is not None else []
        files: dict[str, bytes] = {}
        if space is not None and space_path is not None:
            files = travelling(space_path, space, uri or space.storage, paths_on_nodes=True)
        sys.exit(run_remotely(address, "doctor", [*arguments, *(["--json"] if as_json else [])], files))
    findings = _look(address, uri, space)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(printable(f"{finding.level:<8}{finding.where}: {finding.what}"))
    sys.exit(1 if any(finding.level == "fault" for finding in findings) else 0)


def _look(address: str | None, storage: str | None, space: SpaceFile | None) -> list[Finding]:
    from amsam_ray.search.doctor import NodeReport, diagnose
    from amsam_ray.search.node_facts import Request, examine, versions

    request, own = Request(storage, space=space), versions()
    if address is None:
        return diagnose([NodeReport("this machine", examine(request), own)], own, space)

    from amsam_ray.search.ray.cluster import check_ray, connected

    if problems := check_ray(address):
        raise InputError(problems)
    with connected(address):
        from amsam_ray.search.ray.nodes import ask_nodes

        reports, of_cluster = ask_nodes(request, own)
    return [*of_cluster, *diagnose(reports, own, space)]
