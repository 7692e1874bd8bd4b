"""``amsam-ray stop``: stop a sweep that runs on a cluster."""

from __future__ import annotations

import click

from amsam_ray.errors import InputError, Problem


@click.command()
@click.argument("sweep", required=False)
@click.option("--address", required=True, metavar="URL", help="The cluster's dashboard, as for `tune`.")
@click.option("--force", is_flag=True, help="Stop the running trials too, as Ctrl-C twice does.")
def stop(sweep: str | None, address: str, force: bool) -> None:
    """Stop a sweep that was submitted to a cluster.

    Its running trials are finished, as after one Ctrl-C, unless --force is given. Records are kept; the same `tune`
    command continues the sweep. SWEEP is a job's id, or the id or name of its sweep; it may be omitted if there is
    only one.
    """
    from amsam_ray.cli.remote import find_running
    from amsam_ray.search.ray.jobs import Jobs
    from amsam_ray.search.submission import is_dashboard

    if not is_dashboard(address):
        what = f"{address} is not the URL of a dashboard; give http://HOST:8265, or press Ctrl-C where `tune` runs"
        raise InputError(Problem("--address", what))
    jobs = Jobs(address)
    job = find_running(jobs, address, sweep)
    if force:
        jobs.kill(job)
        click.echo(f"Stopped {job.id}; trials that ran are run again when the sweep continues.")
        return
    jobs.interrupt(job)
    click.echo(
        f"{job.id} starts no further trial and ends when its running trials have ended. "
        f"To end it now: amsam-ray stop --address {address} --force {job.id}"
    )
