"""`/mlflow`: the part of MLflow's REST API that unmodified trainers and readers call.

    MLFLOW_TRACKING_URI=http://127.0.0.1:8000/mlflow python train.py

Each endpoint parses its request (`bodies`), checks who asks (`access`), runs one use case of
`app.services` and answers in MLflow's words (`views`). Errors have MLflow's form (`routing`).

experiments.py  runs.py  metrics.py  search.py  models.py  artifacts.py   one file a resource

Not served, and not missed by clients: traces, prompts, the model registry. What this service
never does (to delete or to rename) is refused with a sentence.
"""
