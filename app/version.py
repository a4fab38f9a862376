"""The one version number, as the installed distribution has it."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("llm-train-api")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0"
