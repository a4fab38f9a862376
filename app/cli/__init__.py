"""`llm-train`: a module for each group of commands."""
