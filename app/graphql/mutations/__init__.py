"""Mutation: one class a resource, one method a mutation, through the same use cases as REST.

    input → `perform` → request model of REST → use case → payload with its rows or `userErrors`

How to add a mutation:
1. write its input and payload beside the others of its resource;
2. write a method with `@mutation` in the resource's class: its docstring is the description,
   its `work` calls the use case;
3. run `llm-train export-schema > schema.graphql`, then `tests/api`: its walks of the schema find
   the mutation by themselves.
"""

from app.graphql.describe import output
from app.graphql.mutations.checkpoints import CheckpointMutations
from app.graphql.mutations.deletions import DeletionMutations
from app.graphql.mutations.experiments import ExperimentMutations
from app.graphql.mutations.notifications import NotificationMutations
from app.graphql.mutations.runs import RunMutations
from app.graphql.mutations.team import TeamMutations


@output
class Mutation(
    ExperimentMutations,
    RunMutations,
    CheckpointMutations,
    DeletionMutations,
    TeamMutations,
    NotificationMutations,
):
    """Everything that can be changed."""
