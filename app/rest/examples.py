"""One example of every answer and of the report, by the name of its schema."""

from typing import Any

from app.domain.requests import EXPERIMENT_ID, RUN_ID, VERIFICATION_ID

_PATH = f"/ckpts/{EXPERIMENT_ID}/{RUN_ID}/step-000100"
_CREATED, _STARTED, _SEEN = (
    f"2026-01-05T09:{minute}:00.000000+00:00" for minute in ("30", "31", "35")
)
_EXPERIMENT = {
    "experiment_id": EXPERIMENT_ID,
    "name": "qwen-sft-zh",
    "task_type": "sft",
    "goal": "Instruction following in Chinese",
    "version": "v1",
    "base_model": "Qwen2.5-7B",
    "owner": "alice",
    "param_config": {"learning_rate": 2e-5, "epochs": 3},
    "tags": ["sft", "zh"],
    "created_at": _CREATED,
}
_SUMMARY = {
    "run_id": RUN_ID,
    "experiment_id": EXPERIMENT_ID,
    "parent_run_id": None,
    "model": "char-lm",
    "recipe": "demo",
    "status": "running",
    "status_reason": None,
    "status_detail": None,
    "attempt": 1,
    "progress": 0.3,
    "step": 120,
    "total_steps": 400,
    "created_at": _CREATED,
    "started_at": _STARTED,
    "finished_at": None,
    "next_attempt_at": None,
    "metrics": {"loss": {"value": 1.83, "step": 120}},
}
_RUN = {
    "run_id": RUN_ID,
    "experiment_id": EXPERIMENT_ID,
    "parent_run_id": None,
    "root_run_id": RUN_ID,
    "ckpt_path": None,
    "attempt": 0,
    "model": "Qwen2.5-7B",
    "recipe": None,
    "dataset": {"name": "alpaca-zh", "split": "train"},
    "hyperparams": {"learning_rate": 2e-5, "batch_size": 16},
    "override_hyperparams": {},
    "effective_hyperparams": None,
    "overrides": {},
    "resources": {"gpu_type": "A100", "count": 4},
    "notes": "first try",
    "status": "queued",
    "status_reason": "waiting_for_trainer",
    "status_detail": None,
    "created_at": _CREATED,
    "run_token": "rt_uKEMwyYXfGnn94Un14SfT8oxpADaX3tQECY0mVW8Uco",
}
_CHECKPOINT = {
    "checkpoint_id": "ckpt_0cc4q1y5k9r2t4v6x8z0b1d3fh",
    "experiment_id": EXPERIMENT_ID,
    "run_id": RUN_ID,
    "ckpt_path": _PATH,
    "state": "ready",
    "reason": None,
    "step": 100,
    "size_bytes": 1_402_881,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "stored_as": None,
    "tag_type": "release",
    "release_tag": "v1.0.0",
    "metrics": {"val_loss": 1.83},
    "marked_at": _SEEN,
    "saved_at": _STARTED,
    "created_at": _STARTED,
}
_EVENT = {
    "seq": 2,
    "type": "run.queued",
    "at": _CREATED,
    "run_id": RUN_ID,
    "data": {"model": "char-lm", "recipe": "demo"},
}
_LISTS = f"/v1/experiments/{EXPERIMENT_ID}"

EXAMPLES: dict[str, dict[str, Any]] = {
    "HealthAnswer": {"status": "ok"},
    "ServiceAnswer": {
        "name": "LLM Train API",
        "version": "0.1.0",
        "docs": "/docs",
        "openapi": "/openapi.json",
        "graphql": "/graphql",
        "health": "/healthz",
    },
    "ExperimentAnswer": _EXPERIMENT,
    "ExperimentsAnswer": {"experiments": [_EXPERIMENT], "next": None},
    "DetailAnswer": {
        "experiment": _EXPERIMENT,
        "totals": {"runs": 1, "checkpoints": 1, "events": 1},
        "links": {name: f"{_LISTS}/{name}" for name in ("runs", "checkpoints", "events")},
        "runs": [_SUMMARY],
        "checkpoints": [_CHECKPOINT],
        "events": [_EVENT],
    },
    "RunAnswer": _RUN,
    "RunsAnswer": {"runs": [_SUMMARY], "next": None},
    "RunStatusAnswer": _SUMMARY
    | {"eta_seconds": 56.0, "heartbeat_at": _SEEN, "last_progress_at": _SEEN, "ckpt_path": _PATH},
    "CancelAnswer": {
        "run_id": RUN_ID,
        "status": "cancelled",
        "ckpt_path": _PATH,
        "checkpoint": _CHECKPOINT,
    },
    "CheckpointAnswer": _CHECKPOINT,
    "CheckpointsAnswer": {"checkpoints": [_CHECKPOINT], "next": None},
    "VerifyAnswer": {
        "ready": 1,
        "lost": 0,
        "checkpoints": [_CHECKPOINT],
        "unreadable": [],
    },
    "VerificationAnswer": {
        "verification_id": VERIFICATION_ID,
        "experiment_id": EXPERIMENT_ID,
        "run_id": None,
        "ckpt_path": None,
        "total": 2,
        "verified": 1,
        "ready": 1,
        "lost": 0,
        "unreadable": 0,
        "findings": [
            {"seq": 1, "ckpt_path": _PATH, "outcome": "ready", "reason": None, "at": _SEEN}
        ],
        "created_at": _SEEN,
        "finished_at": None,
    },
    "RetentionAnswer": {"size_bytes": 1_402_881, "checkpoints": [_CHECKPOINT]},
    "EventsAnswer": {"events": [_EVENT], "next": "2"},
    "MetricsAnswer": {
        "series": [
            {
                "run_id": RUN_ID,
                "key": "loss",
                "attempt": None,
                "steps": [1, 2, 3],
                "values": [4.21, None, 3.97],
                "wall_times": [1767605461.2, 1767605461.3, 1767605461.4],
                "downsampled": False,
                "next_after_step": None,
                "special": [{"step": 2, "value": "NaN"}],
            }
        ]
    },
    "ReportRequest": {
        "attempt": 1,
        "batch": 17,
        "step": 120,
        "total_steps": 400,
        "metrics": {"loss": {"steps": [119, 120], "values": [1.85, "NaN"]}},
        "checkpoints": [{"name": "step-000100", "step": 100, "size_bytes": 1_402_881}],
    },
    "SpecAnswer": {
        "format": 1,
        "run_id": RUN_ID,
        "experiment_id": EXPERIMENT_ID,
        "recipe": None,
        "model": "Qwen2.5-7B",
        "dataset": {"name": "alpaca-zh", "split": "train"},
        "hyperparams": {"learning_rate": 2e-5},
        "resources": {},
        "notes": "",
        "checkpoint_dir": f"/srv/data/ckpts/{EXPERIMENT_ID}/{RUN_ID}",
        "resume": None,
        "data_dir": {"path": "/srv/data", "name": "5f0c6b0d"},
    },
    "ReceiptAnswer": {
        "run_id": RUN_ID,
        "status": "running",
        "attempt": 1,
        "batch": 17,
        "should_stop": False,
        "stop_checkpoint": None,
    },
}
