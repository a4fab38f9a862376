"""The truth table of trainers (tests/support/trainer_truth.py) on this machine."""

from tests.support.trainer_truth import *  # noqa: F403
