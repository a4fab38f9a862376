"""GraphQL: nested queries, mutations, live subscriptions, at `/graphql`.

    router → operation (parse, limits) → executor → resolvers → batches of the context → statements

schema, types, values, queries, mutations, subscriptions    what clients see
context, connections, edges, curves, live   one statement for all rows of a list
documents, limits, budget, executor   what an operation may cost, and how it costs little

How to add a field: an `attribute` (a column of the same name), `field` or `edge` of its type in
`types`; a mutation: `mutations`; a filter of lists: `app.domain.filters`. Then
`llm-train export-schema > schema.graphql`.
"""
