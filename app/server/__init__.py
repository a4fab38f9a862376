"""The server in front of every API: what a connection may do, who may ask, what is logged.

    connections → guard → the routes of rest, graphql and web

connections  uvicorn's protocols, bounded: heads, bodies, idle clients, descriptors
guard        an ASGI middleware: hosts, origins, tokens, the size of bodies
jsonlines    the log: one JSON object a line

`app.main` puts them together. What an API does with a request is in its own room.
"""
