"""Use cases: what may be done, decided in one transaction, shared by every API.

    await db.write(runs.cancel, run_id)   the edge opens the transaction, no use case commits

A use case is a plain function `f(tx, …)`. It raises `app.errors` with a sentence for people, and
changes nothing then; each change of a status and its event are one transaction.

runs, resuming, experiments, marks   what clients ask for, and the events of it
reports, sessions, saves, metrics    what trainers send; attempts: what remote agents send
curves, overviews                    what is read of metrics
launches, live_runs, endings         what the supervisor decides
checkpoints, promises, verification(s), retention, uploads   files and what is known of them
perform, idempotency                 one write, at most once per key

How to add a use case:

1. Add its request to `app.domain.requests`, if clients send one.
2. Write `f(tx, …)` here, in the file of its resource. Lock the row it changes (`runs.lock`), move a
   status by `runs.move` alone, and append an event (`events.append`). A new type of event is a new
   name, such as `run.updated`; one that webhooks can send joins `app.domain.webhooks.EventType`.
3. `events.append` requires the role of a member. A use case that needs a higher one, or appends no
   event, begins with `tx.require`.
4. Give it an endpoint (`app/rest/routes.py`), a mutation (`app/graphql/mutations`), or both, and a
   test in `tests/services`.
"""
