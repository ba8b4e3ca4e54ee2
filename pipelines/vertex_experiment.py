"""Vertex AI's experiments. Each is a context in ML Metadata; its children are the contexts of the runs it compares."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions

from twhin_core.errors import UserError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1 import MetadataServiceClient

STORE = "metadataStores/default"
SCHEMA = "system.Experiment"
TIMEOUT = 60.0


def find_or_create(client: MetadataServiceClient, parent: str, name: str) -> str:
    """The resource name of the experiment `name` in the project and region `parent`.

    Raises:
        UserError: the name cannot be the id of a context, or is that of a context of another kind.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{3,127}", name):
        raise UserError(
            f"--experiment {name}: on Vertex AI, expected 4 to 128 lower-case letters, digits and dashes, no dash first"
        )
    experiment = f"{parent}/{STORE}/contexts/{name}"
    try:
        found = client.get_context(name=experiment, timeout=TIMEOUT)
    except exceptions.NotFound:
        _create(client, parent, name)
        return experiment
    if found.schema_title != SCHEMA:
        raise UserError(f"--experiment {name}: a context of that name exists, and it is a {found.schema_title}")
    return experiment


def add_run(client: MetadataServiceClient, experiment: str, run_context: str) -> None:
    """Adds a run by its context, a resource name like `experiment`."""
    client.add_context_children(request={"context": experiment, "child_contexts": [run_context]}, timeout=TIMEOUT)


def _create(client: MetadataServiceClient, parent: str, name: str) -> None:
    try:
        client.get_metadata_store(name=f"{parent}/{STORE}", timeout=TIMEOUT)
    except exceptions.NotFound:  # nothing has run in this region yet
        making: Any = client.create_metadata_store(
            request={"parent": parent, "metadata_store": {}, "metadata_store_id": "default"}, timeout=TIMEOUT
        )
        making.result(timeout=TIMEOUT)
    context = {
        "display_name": name,
        "schema_title": SCHEMA,
        "schema_version": "0.0.1",
        "metadata": {"experiment_deleted": False},  # without it, the console does not list the experiment
    }
    with contextlib.suppress(exceptions.Conflict):  # another run made it meanwhile
        client.create_context(
            request={"parent": f"{parent}/{STORE}", "context": context, "context_id": name}, timeout=TIMEOUT
        )
