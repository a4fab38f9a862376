"""`llm-train`: the commands of operators and newcomers, a module for each group.

    main (arguments) → a function of its group → the service over REST (`client`), or its database

How to add a command: a parser and its function in `main`; what it does in the module of its group,
imported by that function, so that `llm-train --help` loads none of it.
"""
