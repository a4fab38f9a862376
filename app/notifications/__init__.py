"""Messages to the outside: the one place from which this service calls somebody.

    services.deliveries (what is due) → supervisor.deliver → `webhook.send` → services.deliveries

Only public addresses are called, and those that the operator allows. Knows `domain` and `errors`
only.
"""
