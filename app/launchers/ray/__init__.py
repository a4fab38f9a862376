"""Trainers as jobs of Ray: `[launchers.NAME]` with `kind = "ray"`.

    launcher.py   the decisions: what is submitted, what a job's state means, what is ended
    client.py     the dashboard's REST API, and its answers
    job.py        one job, built purely: the body of a submission
    states.py     Ray's states and what they mean here

A job's submission id is its name, `<run>.<attempt>`. The service owns the queue, since Ray cannot
take back a job that is PENDING: what fits the nodes now is submitted. The job starts the agent,
which claims the attempt over HTTP; the product needs no package of Ray.
"""
