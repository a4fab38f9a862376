"""MCP: tools with which an agent looks at runs and, where it may, steers them.

    server.py    the tools, and the server over stdio
    bounded.py   answers that fit into an agent's context

The tools are a client of REST like any other (`llm_train.Client`).
"""
