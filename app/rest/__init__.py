"""REST: `/v1`, and what machines need beside it: reports, logs, health, metrics of the service.

    route → body.read (strict JSON) → one use case → views (rows as schemas) → responses

schemas, views, examples   responses: their types, how rows become them, how they are shown
problems, openapi, docs    errors as problem+json, the document, the pages made of it
routes, lists, metrics, logs, reports, attempts, checkpoints, service    the routes

How to add an endpoint is in `routes`, a field in `schemas`, a filter of lists in
`app.domain.filters`. What an operation does is a use case of `app.services`, never written here.
"""
