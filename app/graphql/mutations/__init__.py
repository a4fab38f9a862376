"""Mutation: one class a resource, one method a mutation, through the same use cases as REST.

    input → `perform` → request model of REST → use case → payload with its rows or `userErrors`

How to add a mutation:
1. write its input and payload beside the others of its resource; a row in the payload has a name
   of `payloads.ROWS`, which the rows of a new table join;
2. write a method with `@mutation` in the resource's class: its docstring is the description, its
   `work` makes REST's request of the input (`request_of`, with the names of the input's fields that
   are not the request's, such as "run_id") and calls the use case; a new class joins `Mutation`;
3. where REST's operation has another name, add both to `_IN_GRAPHQL` of `app.services.audit`;
4. run `llm-train export-schema > schema.graphql`, then `tests/api`, whose walks of the schema find
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
