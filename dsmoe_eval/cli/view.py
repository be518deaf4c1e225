"""The command that shows the rendered pages."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from .copying import folder_or_url
from .main import main
from .terminal import echo


@main.command("view")
@click.argument("folder", metavar="DIR", type=folder_or_url)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7676,
    show_default=True,
    help="Port on this machine; 0 takes a free one.",
)
def view_command(folder: Path, port: int) -> None:
    """Serve the runs and leaderboards in DIR to this machine only, until interrupted.

    DIR may be the URL of a copy.
    A generated answer that is in an Inspect log (.eval) in DIR has a link to it.
    """
    from ..reports.serve import HOST, listen, make_server, open_site

    with tempfile.TemporaryDirectory(prefix="dsmoe-eval-") as viewer:
        site = open_site(folder, Path(viewer))
        listener = listen(port)
        echo(f"{len(site.pages)} page(s): http://{HOST}:{listener.getsockname()[1]}/")
        try:
            make_server(site).run(sockets=[listener])
        except KeyboardInterrupt:
            echo("ended", err=True)
