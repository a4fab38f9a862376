"""The agent: starts one trainer, ends it when asked to, and records how it ended.

    claim → start the trainer → pulse until it ends → end its descendants → exit record

* `mailbox`: how the agent and the service talk: the verbs `claim`, `pulse`, `log` and `exit`.
* `detached`: out of reach of an engine that signals whole process trees.
* `directory`: these verbs on files that both can read; `http`: the same over HTTP.

The package uses the standard library only, runs on Python 3.10 and later, and imports itself
relatively: it is `app.agent` in the server, and `agent` on a machine that got its source alone.
"""
