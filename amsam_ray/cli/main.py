"""The ``amsam-ray`` command. Subcommands are imported on use, so that ``--help`` is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from amsam_ray import __version__
from amsam_ray.errors import REMEDIES, AmsamError, InputError, printable, with_remedy

# name: (module:attribute, one line of help)
COMMANDS = {
    "tune": ("amsam_ray.cli.tune:tune", "Run or continue the sweep of a space file."),
    "profile": ("amsam_ray.cli.profile:profile", "Show where the time of one trial goes."),
    "status": ("amsam_ray.cli.status:status", "Show the progress of sweeps."),
    "stop": ("amsam_ray.cli.stop:stop", "Stop a sweep that runs on a cluster."),
    "doctor": ("amsam_ray.cli.doctor:doctor", "Check this machine or a cluster: versions, GPUs, storage, data."),
    "leaderboard": ("amsam_ray.cli.leaderboard:leaderboard", "Print leaderboards."),
    "show": ("amsam_ray.cli.show:show", "Print one trial's record."),
    "compare": ("amsam_ray.cli.compare:compare", "Compare two trials over the same test images."),
    "report": ("amsam_ray.cli.report:report", "Write a sweep's HTML report."),
    "export": ("amsam_ray.cli.export:export", "Write a trained model as SAM weights and ONNX."),
    "predict": ("amsam_ray.cli.predict:predict", "Segment images with a trained model."),
    "methods": ("amsam_ray.cli.methods:methods", "List the methods and their parameters."),
    "data": ("amsam_ray.cli.data:data", "List, detect, check, show and fetch datasets."),
    "weights": ("amsam_ray.cli.weights:weights", "List and fetch official weights."),
    "detector": ("amsam_ray.cli.detector:detector", "Tune a detector on a dataset's shots."),
}


class LazyGroup(click.Group):
    """A group that lists its commands and their help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="amsam-ray")
def cli() -> None:
    """Find the best way to adapt the Segment Anything Model to a small labelled dataset."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. Errors that a user can fix are printed without a traceback; bad input exits with 2."""
    try:
        sys.exit(cli.main(args=args, prog_name="amsam-ray", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except InputError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(error.exit_status)
    except AmsamError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        click.echo(f"error: {printable(str(with_remedy(error)))}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
