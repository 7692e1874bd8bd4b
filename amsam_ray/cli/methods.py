"""``amsam-ray methods``: the registered methods and their parameters."""

from __future__ import annotations

import json
from typing import Any

import click

from amsam_ray.config.methods import METHODS, MethodSpec
from amsam_ray.config.params import PARAMS, MethodParams


@click.group()
def methods() -> None:
    """List the methods and their parameters."""


def _entry(spec: MethodSpec) -> dict[str, Any]:
    values = MethodParams.model_validate(spec.defaults).as_dict()
    return {
        "name": spec.name,
        "title": spec.title,
        "paper": spec.paper,
        "trains": spec.trains,
        "prompt": spec.prompt,
        "levels": values["levels"],
        "parameters": {
            key: {"default": values[key], "allowed": PARAMS[key].allowed, "doc": PARAMS[key].doc}
            for key in PARAMS
            if key in spec.keys
        },
        "published": None
        if spec.published is None
        else {"fixes": dict(spec.published.fixes), "notes": list(spec.published.notes)},
    }


@methods.command("list")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def list_methods(form: str) -> None:
    """Print every method with its trained parts, prompt, parameters with their defaults, and published protocol."""
    entries = [_entry(spec) for spec in METHODS.values()]
    if form == "json":
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        click.echo(f"{entry['name']}: {entry['title']} ({entry['paper']})")
        click.echo(f"  trains  {entry['trains']}")
        click.echo(f"  prompt  {entry['prompt']}")
        defaults = (f"{key}={info['default']}" for key, info in entry["parameters"].items())
        click.echo(f"  keys    {', '.join(defaults)}")
        for note in (entry["published"] or {}).get("notes", ()):
            click.echo(f"  protocol: published  {note}")
        click.echo()
