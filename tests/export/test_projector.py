"""TensorBoard's projector, read by the plugin that serves it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client
from werkzeug.wrappers import Response

from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config


def ask(folder: Path, route: str, **query: str) -> bytes:
    """What the plugin answers to the browser for a log folder."""
    context = base_plugin.TBContext(logdir=str(folder), multiplexer=EventMultiplexer())
    app = ProjectorPlugin(context).get_plugin_apps()[route]
    return Client(app, Response).get("/", query_string=query).data


def test_the_plugin_serves_each_vector_under_its_id(trained: tuple[Config, str]) -> None:
    _, root = trained
    export_as(trained, "tensorboard-projector")
    folder = Path(root, "embeddings/projector/tweet")
    assert json.loads(ask(folder, "/runs")) == ["."]
    config = json.loads(ask(folder, "/info", run="."))
    (embedding,) = config["embeddings"]
    assert (embedding["tensorName"], embedding["tensorShape"]) == ("tweet", [30, 8])
    tensor = np.frombuffer(ask(folder, "/tensor", run=".", name="tweet"), np.float32).reshape(30, 8)
    np.testing.assert_array_equal(tensor, weights(root, "tweet"))
    assert ask(folder, "/metadata", run=".", name="tweet").decode().splitlines() == vocabulary(root, "tweet")


def test_a_large_table_is_shown_by_a_part_that_says_so(trained: tuple[Config, str]) -> None:
    _, root = trained
    manifest = export_as(trained, "tensorboard-projector", projector={"rows": 12})
    folder = Path(root, "embeddings/projector/user")
    vectors = np.loadtxt(folder / "vectors.tsv", dtype=np.float32)
    names = (folder / "metadata.tsv").read_text().splitlines()
    assert len(set(names)) == len(vectors) == 12
    by_id = dict(zip(vocabulary(root, "user"), weights(root, "user"), strict=True))
    np.testing.assert_array_equal(vectors, [by_id[name] for name in names])
    assert json.loads(ask(folder, "/info", run="."))["embeddings"][0]["tensorName"] == "user, 12 of 40 at random"
    assert manifest.formats["tensorboard-projector"]["user"].figures == {"shown": 12, "of": 40}
