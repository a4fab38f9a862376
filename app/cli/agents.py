"""`mcp`: tools for agents, over stdio."""

import click

from app.cli import api
from app.cli.errors import Refused


@click.command()
@click.option(
    "--read-only/--write", "read_only", default=True, show_default=True,
    help="Only tools that read; or also those that submit, cancel and resume.",
)  # fmt: skip
def mcp(read_only: bool) -> None:
    """Serve tools for agents (MCP) over stdin and stdout; see `llm-train help agents`."""
    try:
        from app.mcp.server import make_server
    except ModuleNotFoundError as missing:
        raise Refused(
            f'mcp needs {missing.name}; install it with: pip install "llm-train-api[mcp]"'
        ) from missing
    make_server(api.client(), read_only=read_only).run("stdio")
