"""`/wandb`: the part of W&B's protocol that unmodified scripts call, of client 0.31.

    WANDB_BASE_URL=http://127.0.0.1:8000/wandb python train.py

`wandb.init` is a mutation of GraphQL, `wandb.log` lines of JSON in a stream of files, and
`wandb.save` an upload. The protocol is not documented: the client's version is pinned where this is
tested (tests/trainers).

graphql.py   the operations: a run begins, its files are announced, a run is resumed
rows.py      lines of the stream as points
stream.py    the stream: metrics, the machine's metrics, the summary, the end
files.py     uploads, and the pages that the client prints

Not served: artifacts with versions, sweeps, alerts, reading by `wandb.Api`. A client that asks for
such a thing gets an error that says so, and training goes on.
"""
