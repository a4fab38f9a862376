"""A well-formed value for each parameter in a path of the API. Nothing has these ids."""

PREFIXES = {
    "experiment_id": "exp",
    "run_id": "run",
    "verification_id": "vfy",
    "webhook_id": "whk",
    "delivery_id": "dlv",
    "rule_id": "alr",
    "project_id": "prj",
    "user_id": "usr",
    "token_id": "tok",
}
IDS = {name: f"{prefix}_{'0' * 26}" for name, prefix in PREFIXES.items()}
PARAMETERS: dict[str, str] = IDS | {"attempt": "1", "name": "step-1", "file": "model.bin"}
