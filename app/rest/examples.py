"""One example of every answer and of the report, by the name of its schema.

Those of experiments, runs and checkpoints are made of rows by `views`, as the answers are.
The file is long because it is data: one entry for each schema of the OpenAPI document.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from app.db.objects import replace
from app.db.tables import Checkpoint, Experiment, Run
from app.domain.attempts import AGENT
from app.domain.requests import EXPERIMENT_ID, RUN_ID, VERIFICATION_ID
from app.rest import views

_PATH = f"/ckpts/{EXPERIMENT_ID}/{RUN_ID}/step-000100"
_CREATED, _STARTED, _SEEN = (
    f"2026-01-05T09:{minute}:00.000000+00:00" for minute in ("30", "31", "35")
)


def _show(view: Mapping[str, object]) -> dict[str, Any]:
    """Return an answer as its JSON is read."""
    shown: dict[str, Any] = orjson.loads(orjson.dumps(view))
    return shown


_LOSS = (RUN_ID, "loss", 120, 1.83, None)
_QUEUED = Run(
    id=RUN_ID, experiment_id=EXPERIMENT_ID, root_run_id=RUN_ID, model="Qwen2.5-7B",
    dataset='{"name": "alpaca-zh", "split": "train"}', notes="first try", created_at=_CREATED,
    hyperparams='{"learning_rate": 2e-5, "batch_size": 16}',
    resources='{"gpu_type": "A100", "count": 4}', status_reason="waiting_for_trainer",
)  # fmt: skip
_TRAINING = replace(
    _QUEUED, model="char-lm", recipe="demo", status="running", status_reason=None, attempt=1,
    step=120, total_steps=400, started_at=_STARTED, heartbeat_at=_SEEN, last_progress_at=_SEEN,
    pace_steps=120, pace_seconds=24.0,
)  # fmt: skip
_SAVED = Checkpoint(
    id="ckpt_0cc4q1y5k9r2t4v6x8z0b1d3fh", experiment_id=EXPERIMENT_ID, run_id=RUN_ID,
    ckpt_path=_PATH, state="ready", step=100, size_bytes=1_402_881, tag_type="release",
    sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    release_tag="v1.0.0", metrics='{"val_loss": 1.83}', healthy=True, marked_at=_SEEN,
    saved_at=_STARTED,
    created_at=_STARTED,
)  # fmt: skip
_EXPERIMENT = _show(
    views.experiment(
        Experiment(
            id=EXPERIMENT_ID, name="qwen-sft-zh", task_type="sft",
            goal="Instruction following in Chinese", version="v1", base_model="Qwen2.5-7B",
            owner="alice", param_config='{"learning_rate": 2e-5, "epochs": 3}',
            tags='["sft", "zh"]', created_at=_CREATED, last_seq=1,
        )
    )
)  # fmt: skip
_SUMMARY = _show(views.run_summary(_TRAINING, [_LOSS]))
_RUN = _show(views.run(_QUEUED)) | {"run_token": "rt_uKEMwyYXfGnn94Un14SfT8oxpADaX3tQECY0mVW8Uco"}
_CHECKPOINT = _show(views.checkpoint(_SAVED))
_EVENT = {
    "seq": 2,
    "type": "run.queued",
    "at": _CREATED,
    "run_id": RUN_ID,
    "actor": {"kind": "user", "name": "alice"},
    "data": {"model": "char-lm", "recipe": "demo"},
}
_LISTS = f"/v1/experiments/{EXPERIMENT_ID}"

_TRANSFER = {
    "file": "model.safetensors",
    "offset": 0,
    "size": 1_402_881,
    "url": "https://bucket.s3.amazonaws.com/ckpts/…?X-Amz-Signature=…",
}
_EXIT = {
    "format": 1,
    "exit_code": 0,
    "signal": None,
    "stop_sent": False,
    "killed": False,
    "oom": False,
    "log_start": 0,
    "started_at": _STARTED,
    "ended_at": _SEEN,
    "detail": "",
}
_DELETION = {
    "deletion_id": "del_0cc4q1zt8b3k5m7p9s1v3x5z7a",
    "experiment_id": EXPERIMENT_ID,
    "run_id": RUN_ID,
    "name": "baseline",
    "runs": 1,
    "checkpoints": 3,
    "size_bytes": 4_096,
    "requested_at": _CREATED,
    "finished_at": None,
}
_PROJECT = {
    "project_id": "prj_0cc4q1zt8b3k5m7p9s1v3x5z7a", "name": "speech",
    "description": "Speech models", "created_at": _CREATED,
    "max_runs": 8, "max_gpus": 16, "max_bytes": None,
    "logs_days": 30.0, "points_days": None, "curves_days": None,
    "release_metrics": ["val_loss<=2.0"],
    "release_verified_hours": 24.0, "release_approval": None,
}  # fmt: skip
_USER = {
    "user_id": "usr_0cc4q1zt8b3k5m7p9s1v3x5z7a", "name": "alice", "kind": "person",
    "email": "alice@example.com", "is_admin": False, "created_at": _CREATED, "disabled_at": None,
}  # fmt: skip
_MEMBER = {
    "user_id": _USER["user_id"], "user": "alice", "role": "member", "created_at": _CREATED,
}  # fmt: skip
_TOKEN = {
    "token_id": "tok_0cc4q1zt8b3k5m7p9s1v3x5z7a", "user_id": _USER["user_id"], "user": "alice",
    "name": "laptop", "scope": "member", "created_at": _CREATED, "expires_at": None,
    "revoked_at": None, "last_used_at": _SEEN,
}  # fmt: skip
_WEBHOOK = {
    "webhook_id": "whk_0cc4q1zt8b3k5m7p9s1v3x5z7a",
    "url": "https://hooks.example.com/training",
    "name": None,
    "types": ["run.failed", "run.stalled"],
    "experiment_id": EXPERIMENT_ID,
    "project_id": None,
    "format": "standard",
    "created_at": _CREATED,
    "paused_at": None,
    "paused_reason": None,
    "failing_since": None,
}
_ALERT_RULE = {
    "rule_id": "alr_0cc4q1zt8b3k5m7p9s1v3x5z7a", "project_id": _PROJECT["project_id"],
    "name": None, "kind": "metric_threshold", "metric": "val_loss", "direction": "above",
    "value": 3.0, "points": 5, "created_at": _CREATED, "paused_at": None,
}  # fmt: skip
_ALERT = {
    "rule_id": _ALERT_RULE["rule_id"], "experiment_id": EXPERIMENT_ID, "run_id": RUN_ID,
    "ckpt_path": None, "attempt": 1, "step": 1200, "value": 3.4, "fired_at": _SEEN,
    "recovered_at": None,
}  # fmt: skip
_DELIVERY = {
    "delivery_id": "dlv_0cc4q20a4c6e8g0j2m4p6r8t0v",
    "webhook_id": _WEBHOOK["webhook_id"],
    "type": "run.failed",
    "state": "pending",
    "attempts": 1,
    "next_attempt_at": _SEEN,
    "last_attempt_at": _SEEN,
    "last_status": 503,
    "last_error": "answered 503",
    "created_at": _SEEN,
    "message": {
        "type": "run.failed",
        "timestamp": _SEEN,
        "data": {"experiment_id": EXPERIMENT_ID, "run_id": RUN_ID, "reason": "out_of_memory"},
    },
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "UsageAnswer": {
        "usage": [
            {
                "group": "2026-01",
                "attempts": 12,
                "used_seconds": 90_000.0,
                "wasted_seconds": 1_800.0,
                "waited_seconds": 600.0,
                "saved_seconds": 21_600.0,
                "gpu_hours_used": 100.0,
                "gpu_hours_wasted": 2.0,
                "gpu_hours_waited": 0.7,
                "gpu_hours_saved": 24.0,
                "goodput": 0.98,
                "name": None,
            }
        ],
        "next": None,
    },
    "RedactedAnswer": {
        "experiment_id": EXPERIMENT_ID,
        "run_id": RUN_ID,
        "run_ids": [RUN_ID],
        "messages_sent": 1,
        "not_reached": ["backups", "log", "files", "messages"],
    },
    "ReleasesAnswer": {
        "at": None,
        "releases": [
            {
                "release_tag": "v1.0.0",
                "ckpt_path": f"/ckpts/{EXPERIMENT_ID}/{RUN_ID}/step-000100",
                "checkpoint_id": "ckpt_0cc4q1zt8b3k5m7p9s1v3x5z7a",
                "run_id": RUN_ID,
                "tag_type": "release",
                "metrics": {"val_loss": 1.83},
                "released_at": _CREATED,
            }
        ],
    },
    "DeletionAnswer": _DELETION,
    "DeletionsAnswer": {"deletions": [_DELETION], "next": None},
    "ProjectAnswer": _PROJECT,
    "ProjectsAnswer": {"projects": [_PROJECT]},
    "RetentionPreviewAnswer": {
        "project_id": _PROJECT["project_id"],
        "removed": [
            {
                "part": "log",
                "days": 30.0,
                "runs": 12,
                "size_bytes": 48_000_000,
                "oldest_end": _CREATED,
                "more": False,
            },
        ],
    },
    "ProjectUseAnswer": {
        "project_id": _PROJECT["project_id"],
        "runs": 3,
        "gpus": 12,
        "bytes": 48_318_382_080,
    },
    "MemberAnswer": _MEMBER,
    "MembersAnswer": {"members": [_MEMBER]},
    "UserAnswer": _USER,
    "UsersAnswer": {"users": [_USER]},
    "TokenAnswer": _TOKEN,
    "NewTokenAnswer": _TOKEN | {"token": f"llmt_{'9f86d081884c7d65' * 4}"},
    "TokensAnswer": {"tokens": [_TOKEN]},
    "AuditAnswer": {
        "entries": [
            {
                "entry_id": "aud_0cc4q1zt8b3k5m7p9s1v3x5z7a",
                "at": _CREATED,
                "actor": {"kind": "user", "name": "alice"},
                "token_id": _TOKEN["token_id"],
                "action": "create_run",
                "target_id": RUN_ID,
                "outcome": "done",
                "address": None,
            }
        ],
        "next": None,
    },
    "MeAnswer": {
        "kind": "user",
        "name": "alice",
        "user_id": _USER["user_id"],
        "scope": "member",
        "is_admin": False,
        "projects": [{"project_id": _PROJECT["project_id"], "project": "speech", "role": "member"}],
    },
    "WebhookAnswer": _WEBHOOK,
    "NewWebhookAnswer": _WEBHOOK
    | {"signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="},
    "WebhooksAnswer": {"webhooks": [_WEBHOOK], "event_types": ["run.failed", "run.stalled"]},
    "DeliveryAnswer": _DELIVERY,
    "DeliveriesAnswer": {"deliveries": [_DELIVERY], "next": None},
    "AlertRuleAnswer": _ALERT_RULE,
    "AlertRulesAnswer": {"rules": [_ALERT_RULE]},
    "AlertsAnswer": {"alerts": [_ALERT]},
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
    "RunDetailAnswer": _show(views.run_detail(_TRAINING, [_LOSS], _SAVED)),
    "CountsAnswer": {"counts": {"running": 2, "succeeded": 40}, "is_lower_bound": False},
    "ComparisonAnswer": {
        "run_ids": [RUN_ID, "run_0cc4q1x3h7p2n4s6v8y0c1e3gk"],
        "params": [
            {"section": "hyperparams", "key": "lr", "values": [3e-4, 1e-3], "differs": True}
        ],
    },
    "RecipesAnswer": {
        "recipes": [
            {
                "name": "demo",
                "description": "A small character-level language model.",
                "launcher": "local",
                "launchers": ["local"],
                "resources": {},
                "max_attempts": 1,
                "grace_seconds": 10.0,
                "keep_checkpoints": 0,
            }
        ]
    },
    "CapacityAnswer": {
        "launchers": [
            {
                "name": "local",
                "cpus": 16.0,
                "memory_gb": 128.0,
                "gpus": {"A100": 2},
                "max_runs": 4,
                "active": 1,
                "queued": 0,
                "trouble": None,
            }
        ],
        "queued": 0,
    },
    "RunsAnswer": {"runs": [_SUMMARY], "next": None},
    "RunStatusAnswer": _show(views.run_status(_TRAINING, [_LOSS], _SAVED)),
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
        "store": False,
    },
    "ReceiptAnswer": {
        "run_id": RUN_ID,
        "status": "running",
        "attempt": 1,
        "batch": 17,
        "should_stop": False,
        "stop_checkpoint": None,
    },
    "ClaimRequest": {"agent": AGENT, "host": "gpu-17"},
    "ClaimAnswer": {
        "run_id": RUN_ID,
        "attempt": 1,
        "token": "at_1_uKEMwyYXfGnn94Un14SfT8oxpADaX3tQECY0mVW8Uco",
        "config": {
            "argv": ["{python}", "train.py"],
            "env": {"LLM_TRAIN_RUN_ID": RUN_ID, "LLM_TRAIN_ATTEMPT": "1"},
            "cwd": "/home/alice/sft",
            "nonce": "hS2zJ0t8Yd3m",
            "stop_signal": 15,
            "grace_seconds": 30.0,
            "max_log_bytes": 268_435_456,
            "failpoints": {},
        },
        "spec": {"format": 1, "run_id": RUN_ID, "files": "http"},
        "log_offset": 0,
        "pulse_seconds": 2.0,
    },
    "PulseRequest": {"ran_seconds": 61.5, "heard": None},
    "PulseAnswer": {"order": "go"},
    "LogAnswer": {"offset": 4096},
    "ExitRequest": _EXIT,
    "ExitAnswer": {"run_id": RUN_ID, "attempt": 1, "record": _EXIT},
    "FileAnswer": {"path": "model.safetensors", "size": 1_402_881},
    "CommitAnswer": {"ckpt_path": _PATH, "name": "step-000100"},
    "UploadsAnswer": {"uploads": [_TRANSFER], "headers": {}, "expires_seconds": 3600.0},
    "ResumeAnswer": {
        "ckpt_path": _PATH,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "manifest": '{"format": 1, "step": 100, …}',
        "downloads": [_TRANSFER],
        "expires_seconds": 3600.0,
    },
}
