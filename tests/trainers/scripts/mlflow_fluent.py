"""What people write with MLflow: nothing here knows this service."""

import math

import mlflow

mlflow.set_experiment("an experiment of my own")
with mlflow.start_run(run_name="my run", tags={"team": "nlp"}) as run:
    mlflow.log_params({"learning_rate": 1e-4, "flag": True, "layers": [1, 2]})
    for step in range(1, 21):
        mlflow.log_metrics({"loss": 1.0 / step, "odd": math.nan}, step=step)
    mlflow.log_metric("no_step", 0.5)
    mlflow.log_metric("later", 1.0, step=21, synchronous=False).wait()
    mlflow.log_text("hello", "notes/a b.txt")
    mlflow.log_dict({"a": 1}, "config.json")
    data = mlflow.data.meta_dataset.MetaDataset(
        mlflow.data.http_dataset_source.HTTPDatasetSource("http://example.com/a"), name="d"
    )
    mlflow.log_input(data, context="training")
    model = mlflow.initialize_logged_model(name="m", model_type="llm")
    mlflow.finalize_logged_model(model.model_id, "READY")
    mlflow.log_metric("quality", 0.75, step=21, model_id=model.model_id)

client = mlflow.MlflowClient()
found = client.get_run(run.info.run_id)
assert found.data.params["learning_rate"] == "0.0001", found.data.params
assert found.data.tags["team"] == "nlp"
assert math.isnan(found.data.metrics["odd"])
assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["config.json", "notes"]
assert mlflow.artifacts.load_text(found.info.artifact_uri + "/notes/a b.txt") == "hello"
history = client.get_metric_history(run.info.run_id, "loss")
assert [each.step for each in history] == list(range(1, 21))
query = "metrics.loss < 0.1 AND params.learning_rate = '0.0001' AND tags.team LIKE 'n%'"
(same,) = client.search_runs([found.info.experiment_id], query, order_by=["metrics.loss DESC"])
assert same.info.run_id == run.info.run_id
assert client.get_logged_model(model.model_id).metrics[0].value == 0.75
print("all as it was logged", flush=True)
