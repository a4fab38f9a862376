"""The simulation behind what the guide says a service carries."""

import pytest

from tests.bench.capacity import Cost, Costs, Site, simulate

COSTS = Costs(*(Cost(ms / 1e3, ms / 2e3) for ms in (1.0, 0.001, 2.0, 0.3, 1.0)))


def test_the_same_seed_gives_the_same_outcome() -> None:
    site = Site(workers=2, cores=1, trainers=200, viewers=10, points=10)
    assert simulate(COSTS, site, 1) == simulate(COSTS, site, 1) != simulate(COSTS, site, 2)


def test_a_quiet_site_answers_in_the_time_that_the_work_takes() -> None:
    was = simulate(COSTS, Site(workers=4, cores=4, trainers=20, viewers=0, points=0), 1)
    assert was.rate == pytest.approx(20, rel=0.02)
    assert was.service == pytest.approx(20 * 1e-3 / 4, rel=0.05)
    assert was.database == pytest.approx(was.service / 2, rel=0.05)
    assert 0.00075 <= was.reports[0] <= was.reports[1] <= 0.00225 * 1.2


def test_a_full_site_serves_what_its_first_full_station_can() -> None:
    workers, database = Site(1, 1, 5_000, 0, 0), Site(8, 1, 5_000, 0, 0)
    assert simulate(COSTS, workers, 1).rate == pytest.approx(1_000, rel=0.02)
    was = simulate(COSTS, database, 1)
    assert was.rate == pytest.approx(2_000, rel=0.02) and was.database > 0.99 > was.service
    assert was.reports[0] == pytest.approx(5_000 / 2_000 - 1, rel=0.05), "each waits for all others"


def test_a_late_report_has_all_that_was_logged_meanwhile() -> None:
    with_points = simulate(COSTS, Site(1, 1, 5_000, 0, 100), 1)
    assert with_points.rate < simulate(COSTS, Site(1, 1, 5_000, 0, 0), 1).rate * 0.75
