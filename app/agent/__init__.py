"""The agent: starts, stops and judges one trainer, on the machine where that runs."""
