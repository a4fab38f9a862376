"""`open`: a link to the dashboard, which signs in the first to open it."""

from urllib.parse import quote

import click

from app.cli import api


@click.command()
@click.argument("run", required=False, shell_complete=api.complete_run)
@click.option("--launch", is_flag=True, help="Open it in this machine's browser as well.")
@api.calls_service
def open(run: str | None, launch: bool) -> None:
    """Print a link to the dashboard, or to the page of a RUN.

    With an API token the link holds a code instead of it: good for one sign-in within a minute.
    The code stands in the fragment, which a browser sends to no server and no log.
    """
    client = api.client()
    url = client.connection.url + (f"/runs/{client.run(run).id}" if run else "/")
    code = client.connection.request("POST", "/session/code")["code"]
    if code is not None:
        url += f"#code={quote(code)}"
    click.echo(url)
    if launch:
        click.launch(url)
