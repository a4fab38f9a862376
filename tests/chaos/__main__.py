"""The command; see the package."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import hostile, races, slurm
from tests.chaos.audit import audit
from tests.chaos.storm import storm
from tests.support.database import Databases, postgresql_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--kills", type=int, default=0, help="of servers, agents and trainers")
    parser.add_argument("--minutes", type=float, help="kill for so long, instead of so often")
    parser.add_argument(
        "--slurm", type=int, nargs="?", const=30, default=0, metavar="KILLS",
        help="the same on a real Slurm: controllers and nodes as well",
    )  # fmt: skip
    parser.add_argument("--server-kills", type=int, default=0, help="under eight writers")
    parser.add_argument("--cancels", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--damages", type=int, default=0)
    parser.add_argument("--hostile", action="store_true", help="callers, at every route, counted")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.database}", flush=True)
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as directory, database(chosen.database, directory) as url:
        path, since = Path(directory), time.monotonic()
        if kills := chosen.slurm or chosen.kills or chosen.minutes:
            blow = slurm.storm if chosen.slurm else storm
            story = blow(path, int(kills), chosen.seed, chosen.minutes, DATABASE_URL=url)
            broken += asyncio.run(audit(story, url, path / "data"))
            print(f"killed: {dict(story.kills)}; slowest start {story.slowest_start:.1f} s")
            print(f"{len(story.acknowledged)} acknowledged requests, {len(story.runs)} runs")
        if chosen.hostile:
            rows = hostile.hostile(path, url)
            print(hostile.table(rows))
            broken += [escape for row in rows for escape in row.escapes]
        for kind in ("server_kills", "cancels", "restarts", "damages"):
            if number := getattr(chosen, kind):
                broken += getattr(races, kind)(path, number, chosen.seed, url)
        print(f"{time.monotonic() - since:.0f} s; {len(broken)} promises broken")
    for each in broken:
        print(f"BROKEN: {each}")
    sys.exit(bool(broken))


@contextmanager
def database(kind: str, directory: str) -> Iterator[str]:
    """An empty database of our own."""
    if kind == "sqlite":
        yield f"sqlite:///{directory}/app.db"
    else:
        with postgresql_server() as server:
            yield Databases(Path(directory), server).migrated()


if __name__ == "__main__":
    main()
