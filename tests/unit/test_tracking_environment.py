"""The variables by which unmodified clients report into their recipe's run."""

import pytest

from app.domain.recipes import with_tracking
from app.domain.team import new_token
from app.domain.tokens import attempt_token

FOUND = with_tracking({"A": "b"}, "http://127.0.0.1:8000", "run_x", "at_1_secret")


def test_both_clients_find_the_service_and_their_run() -> None:
    assert FOUND == {
        "A": "b",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:8000/mlflow",
        "MLFLOW_RUN_ID": "run_x",
        "MLFLOW_TRACKING_USERNAME": "run_x",
        "MLFLOW_TRACKING_PASSWORD": "at_1_secret",
        "WANDB_BASE_URL": "http://127.0.0.1:8000/wandb",
        "WANDB_RUN_ID": "run_x",
        "WANDB_API_KEY": "run_x-at_1_secret",
    }


@pytest.mark.parametrize(
    "own",
    ["MLFLOW_TRACKING_URI", "WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_MODE"],
)
def test_a_recipe_that_names_its_own_keeps_that(own: str) -> None:
    found = with_tracking({own: "of its own"}, "http://127.0.0.1:8000", "run_x", "at_1_secret")
    client = own.partition("_")[0]
    assert {name: value for name, value in found.items() if name.startswith(client)} == {
        own: "of its own"
    }


@pytest.mark.parametrize("number", range(20))
def test_a_token_is_long_enough_behind_the_first_dash_of_a_key_for_the_client_of_wandb(
    number: int,
) -> None:
    """The client takes what is before a key's first dash for the prefix of a server."""
    of_run = with_tracking({}, "", f"run_{number}", attempt_token("secret", f"run_{number}", 1))
    for key in (new_token(), of_run["WANDB_API_KEY"]):
        assert len(key.split("-", 1)[-1]) >= 40
