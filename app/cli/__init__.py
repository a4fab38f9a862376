"""`llm-train`: the commands of operators and newcomers, a module for each group.

    main (arguments) → a function of its group → the service over REST (`client`), or its database

`main` says how a command is added.
"""
