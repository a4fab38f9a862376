"""GraphiQL from local files, opened on the operations that a newcomer needs, in their order.

`graphiql` is what the router's `render_graphql_ide` returns. Each of `EXAMPLES` is a tab; a test
runs them against the schema, so they cannot rot.
"""

from fastapi.responses import HTMLResponse

from app.web.pages import page

EXAMPLES = (
    """\
# 1. Create an experiment, and copy its id from the answer.
mutation CreateExperiment {
  createExperiment(input: { name: "my first experiment", taskType: "pretrain" }) {
    experiment { id name taskType createdAt }
    userErrors { code message field }
  }
}
""",
    """\
# 2. Submit a run under it. The demo recipe trains a small real language model.
mutation CreateRun {
  createRun(input: { experimentId: "exp_…", model: "char-lm", recipe: "demo" }) {
    run { id status statusReason }
    userErrors { code message field }
  }
}
""",
    """\
# 3. Watch it live: how it is now, then every change until it ends.
subscription WatchRun {
  run(id: "run_…") { id status statusReason step totalSteps progress }
}
""",
    """\
# 4. Cancel it without losing its work: the answer names the checkpoint that it leaves.
mutation CancelRun {
  cancelRun(input: { runId: "run_…" }) {
    run { id status }
    checkpoint { id ckptPath state }
    userErrors { code message field }
  }
}
""",
    """\
# 5. Resume from its newest checkpoint, as a child run with other hyperparameters.
mutation ResumeRun {
  resumeRun(input: { runId: "run_…", overrideHyperparams: { learning_rate: 0.001 } }) {
    run { id status hyperparams }
    userErrors { code message field }
  }
}
""",
    """\
# 6. Mark a checkpoint as a candidate or a release.
mutation MarkCheckpoint {
  markCheckpoint(input: { runId: "run_…", ckptPath: "/ckpts/…", tagType: "candidate" }) {
    checkpoint { id ckptPath tagType releaseTag metrics }
    userErrors { code message field }
  }
}
""",
    """\
# 7. Everything at once: experiments, their runs, the runs' checkpoints.
query Browse {
  experiments(first: 5) {
    totalCount
    nodes {
      id
      name
      runs(first: 10) {
        pageInfo { hasNextPage endCursor }
        nodes {
          id
          status
          progress
          checkpoints(first: 5) { nodes { ckptPath state step } }
        }
      }
    }
  }
}
""",
)


def graphiql() -> HTMLResponse:
    """Return the GraphiQL page; it sends to the address that it was loaded from."""
    return page(
        "LLM Train API: GraphiQL",
        styles=(
            "vendor/graphiql/graphiql.min.css",
            "vendor/@graphiql/plugin-explorer/style.css",
            "pages.css",
        ),
        scripts=(
            "vendor/react/react.production.min.js",
            "vendor/react-dom/react-dom.production.min.js",
            "vendor/graphiql/graphiql.min.js",
            "vendor/@graphiql/plugin-explorer/index.umd.js",
            "graphiql.js",
        ),
        settings={"examples": EXAMPLES},
    )
