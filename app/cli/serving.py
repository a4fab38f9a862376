"""Commands that serve: `serve`, `demo`."""

import click

PORT = click.option("--port", type=int, help="Instead of LLM_TRAIN_PORT (8000).")


def _overrides(port: int | None) -> dict[str, object]:
    return {} if port is None else {"port": port}


@click.command()
@PORT
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that serve, with PostgreSQL.",
)
def serve(port: int | None, workers: int) -> None:
    """Serve REST and GraphQL; configure it by LLM_TRAIN_* variables."""
    from app import main
    from app.settings import load_settings

    main.serve(load_settings(**_overrides(port)), workers)


@click.command()
@PORT
@click.option("--exit", "leave", is_flag=True, help="Exit when the demo has finished.")
def demo(port: int | None, leave: bool) -> None:
    """Serve, and watch a real language model train, stop, resume and be released."""
    from app.cli.demo import run
    from app.settings import load_settings

    run(load_settings(**_overrides(port)), stay=not leave)
