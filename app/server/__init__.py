"""The server in front of every API: what a connection may do, who may ask, what is logged.

    connections → guard → the routes of rest, graphql and web

connections  uvicorn's protocols, bounded: heads, bodies, idle clients, descriptors; websockets
guard        an ASGI middleware: hosts, origins, tokens; exchange: the size of bodies, errors
listening    the socket, and uvicorn's server for it
jsonlines    the log: one JSON object a line

`app.main` puts them together. What an API does with a request is in its own room.
"""
