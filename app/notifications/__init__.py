"""Messages to the outside: the one place from which this service calls somebody.

    services.deliveries (what is due) → supervisor.deliver → `webhook.send` → services.deliveries

webhook.py   POST to an URL
mail.py      e-mail, for `mailto:` addresses

Only public addresses are called, and those that the operator allows. Imports `domain` and `errors`
only. How to add a format of messages beside Slack's:
`Format` and a function beside `slack` in `app/domain/webhooks.py`, called by `body_of` in
`app/services/deliveries.py`; then export the schema.
"""
