"""Answers of a server, against brute force over what the files of its run hold."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.serving.running import Exported, Server, best, serving
from twhin_core.embeddings import Embeddings
from twhin_core.run import saved_config

USERS = ["u3", "u17", "u0", "u39"]


@pytest.fixture(scope="module")
def server(exported_root: str) -> Iterator[Server]:
    with serving(exported_root, "--max-ids", "50", "--max-k", "100") as server:
        yield server


@pytest.fixture(scope="module")
def files(exported_root: str) -> Exported:
    return Exported(exported_root)


@pytest.fixture(scope="module")
def known(exported_root: str) -> dict[tuple[str, str], set[str]]:
    """The other ends of all edges that were prepared, by relation and lhs."""
    edges = pq.read_table(saved_config(exported_root).prepare.sources[0].path).to_pylist()  # type: ignore[union-attr]
    found: dict[tuple[str, str], set[str]] = {}
    for edge in edges:
        found.setdefault((edge["relation"], edge["lhs"]), set()).add(edge["rhs"])
    return found


def assert_found(listed: list[dict[str, Any]], expected: list[tuple[str, float]]) -> None:
    assert [of["id"] for of in listed] == [name for name, _ in expected]
    assert [of["score"] for of in listed] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("index", [None, True, False])
@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("relation", ["fav", "follow"])
def test_neighbors_by_a_relation(server: Server, files: Exported, relation: str, k: int, index: bool | None) -> None:
    status, answer = server.post(
        "/neighbors", {"table": "user", "ids": USERS, "relation": relation, "k": k, "index": index}
    )
    assert status == 200
    assert [of["id"] for of in answer["answers"]] == USERS
    for of in answer["answers"]:
        assert_found(of["found"], best(files.scores(of["id"], relation), k, {of["id"]}))
    assert ("through the flat index" in answer["by"]) == (index is not False)


def test_neighbors_without_a_relation_are_by_cosine_although_the_index_is_not(server: Server, files: Exported) -> None:
    status, answer = server.get("/neighbors", table="user", ids=USERS, k=7)
    assert (status, answer["by"]) == (200, "cosine")
    for of in answer["answers"]:
        assert_found(of["found"], best(files.cosines(of["id"]), 7, {of["id"]}))
    status, answer = server.get("/neighbors", table="user", ids=USERS, k=7, index=True)
    assert answer["by"].startswith("inner product, through the flat index")
    for of in answer["answers"]:
        products = files.vectors["user"] @ files.of("user", of["id"])
        expected = dict(zip(files.ids["user"], products.tolist(), strict=True))
        assert_found(of["found"], best(expected, 7, {of["id"]}))


@pytest.mark.parametrize("index", [True, False])
def test_the_lhs_of_a_relation(server: Server, files: Exported, index: bool) -> None:
    status, answer = server.get("/neighbors", table="tweet", ids="t4", relation="fav", side="lhs", k=40, index=index)
    assert status == 200
    scores = {user: files.scores(user, "fav")["t4"] for user in files.ids["user"]}
    assert_found(answer["answers"][0]["found"], best(scores, 40, set()))


@pytest.mark.parametrize("index", [True, False])
def test_nodes_that_known_edges_lead_to_are_left_out_on_request(
    server: Server, files: Exported, known: dict[tuple[str, str], set[str]], index: bool
) -> None:
    of_lhs = {"table": "user", "ids": "u3", "relation": "fav", "exclude": "fav", "k": 100, "index": index}
    _, answer = server.get("/neighbors", **of_lhs)
    assert_found(answer["answers"][0]["found"], best(files.scores("u3", "fav"), 100, known["fav", "u3"]))
    of_rhs = {"table": "tweet", "ids": "t4", "relation": "fav", "side": "lhs", "exclude": "fav", "k": 100}
    _, answer = server.get("/neighbors", **of_rhs, index=index)
    fans = {user for (relation, user), tweets in known.items() if relation == "fav" and "t4" in tweets}
    assert fans
    scores = {user: files.scores(user, "fav")["t4"] for user in files.ids["user"]}
    assert_found(answer["answers"][0]["found"], best(scores, 100, fans))


@pytest.mark.parametrize("relation", ["fav", "follow"])
def test_recommendations_leave_out_known_edges(
    server: Server, files: Exported, known: dict[tuple[str, str], set[str]], relation: str
) -> None:
    for user in USERS:
        seen = known[relation, user] | ({user} if relation == "follow" else set())
        for k in (1, 5, 100):
            status, answer = server.get("/recommend", relation=relation, ids=user, k=k)
            assert status == 200
            assert_found(answer["answers"][0]["found"], best(files.scores(user, relation), k, seen))
    _, answer = server.post("/recommend", {"relation": relation, "ids": USERS, "k": 4, "exclude": []})
    for of in answer["answers"]:
        assert_found(of["found"], best(files.scores(of["id"], relation), 4, {of["id"]}))


def test_many_requests_at_once_have_the_answers_of_one(server: Server, files: Exported) -> None:
    def ask(number: int) -> None:
        user, relation, k = f"u{number % 40}", ("fav", "follow")[number % 2], 1 + number % 7
        status, answer = server.get("/neighbors", table="user", ids=user, relation=relation, k=k)
        assert status == 200
        assert_found(answer["answers"][0]["found"], best(files.scores(user, relation), k, {user}))

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(ask, range(300)))) == 300
    assert server.metric("twhin_search_queries_sum") >= 300
    assert server.metric("twhin_requests_total", endpoint="/neighbors", status="200") >= 300


def test_unknown_ids_among_others_are_listed(server: Server, files: Exported) -> None:
    status, answer = server.get("/neighbors", table="user", ids=["nobody", "u3", "u3", "no one"], relation="fav", k=2)
    assert status == 200
    assert [of["id"] for of in answer["answers"]] == ["u3", "u3"]
    assert answer["unknown"] == ["nobody", "no one"]
    for of in answer["answers"]:
        assert_found(of["found"], best(files.scores("u3", "fav"), 2, set()))


def test_scores_of_pairs(server: Server, files: Exported) -> None:
    pairs = [{"lhs": user, "rhs": tweet} for user in USERS for tweet in ("t4", "t0", "t29")]
    unknown = [{"lhs": "nobody", "rhs": "t4"}, {"lhs": "u3", "rhs": "u3"}]
    status, answer = server.post("/score", {"relation": "fav", "pairs": [unknown[0], *pairs, unknown[1]]})
    assert status == 200
    assert (answer["scores"][0]["score"], answer["scores"][-1]["score"]) == (None, None)
    for pair, of in zip(pairs, answer["scores"][1:-1], strict=True):
        assert (of["lhs"], of["rhs"]) == (pair["lhs"], pair["rhs"])
        assert of["score"] == pytest.approx(files.scores(pair["lhs"], "fav")[pair["rhs"]], abs=1e-5)
    for side in ("lhs", "rhs"):
        _, one = server.get("/score", relation="fav", lhs="u3", rhs="t4", side=side)
        assert one["scores"][0]["score"] == pytest.approx(files.scores("u3", "fav")["t4"], abs=1e-5)


@pytest.mark.parametrize("method", ["mean", "fit"])
@pytest.mark.parametrize("with_known", [False, True])
def test_new_nodes_have_the_vectors_of_twhin_embed(
    server: Server, exported_root: str, method: str, with_known: bool
) -> None:
    edges = [
        ("new", "fav", "t4", 1.0), ("new", "fav", "t7", 2.0), ("new", "follow", "u3", 1.0), ("u5", "fav", "t4", 1.0),
        ("u3", "follow", "other", 0.5), ("another", "fav", "nothing", 1.0), ("new", "fav", "t4", 1.0),
    ]  # fmt: skip
    body = [dict(zip(("lhs", "relation", "rhs", "weight"), edge, strict=True)) for edge in edges]
    status, answer = server.post("/embed", {"table": "user", "edges": body, "method": method, "with_known": with_known})
    assert status == 200
    table = pa.Table.from_pylist(body)
    expected = Embeddings.load(exported_root).embed("user", table, method, with_known)  # type: ignore[arg-type]
    assert [of["id"] for of in answer["vectors"]] == expected["id"].to_pylist()
    assert [of["edges"] for of in answer["vectors"]] == expected["edges"].to_pylist()
    assert {"new", "other"} <= {of["id"] for of in answer["vectors"]}
    for of, vector in zip(answer["vectors"], expected["embedding"].to_pylist(), strict=True):
        assert of["embedding"] == pytest.approx(vector, abs=1e-5)
    assert "nothing" in answer["unknown"]


def test_edges_to_no_trained_node_give_no_vector(server: Server) -> None:
    status, answer = server.post("/embed", {"table": "user", "edges": [{"lhs": "a", "relation": "fav", "rhs": "b"}]})
    assert (status, answer["vectors"], answer["unknown"]) == (200, [], ["b"])


@pytest.mark.parametrize("index", [True, False])
def test_users_that_were_not_trained_are_recommended_by_their_edges(
    server: Server, files: Exported, exported_root: str, known: dict[tuple[str, str], set[str]], index: bool
) -> None:
    edges = [
        ("new", "fav", "t4"), ("new", "fav", "t7"), ("new", "follow", "u3"), ("other", "follow", "u9"),
        ("lost", "fav", "nothing"), ("u3", "fav", best(files.scores("u3", "fav"), 1, known["fav", "u3"])[0][0]),
    ]  # fmt: skip
    body = [dict(zip(("lhs", "relation", "rhs"), edge, strict=True)) for edge in edges]
    asked = {"relation": "fav", "ids": ["u3", "nobody"], "edges": body, "k": 6, "index": index}
    status, answer = server.post("/recommend", asked)
    assert status == 200
    assert [of["id"] for of in answer["answers"]] == ["u3", "new", "other"]
    assert answer["unknown"] == ["nobody", "nothing"]
    vectors = Embeddings.load(exported_root).embed("user", pa.Table.from_pylist(body))
    by_id = dict(zip(vectors["id"].to_pylist(), np.array(vectors["embedding"].to_pylist()), strict=True))
    for of in answer["answers"]:
        name = of["id"]
        scores = files.scores(name, "fav") if name == "u3" else files.scores_of(by_id[name], "fav")
        given = {rhs for lhs, relation, rhs in edges if (lhs, relation) == (name, "fav")}
        assert_found(of["found"], best(scores, 6, known.get(("fav", name), set()) | given))
    status, answer = server.post("/recommend", {"relation": "fav", "edges": body[4:5]})
    assert (status, answer["error"].startswith("edges: none leads from a new user to a trained node")) == (404, True)


FAV = {"relation": "fav", "ids": ["u3"]}
EDGE = {"lhs": "u3", "relation": "fav", "rhs": "t4"}
MISTAKES: list[tuple[str, Any, int, str]] = [
    ("/neighbors", {"table": "usr", "ids": ["u3"]}, 404, "no table named 'usr'; did you mean user?"),
    ("/neighbors", {"table": "user", "ids": ["u33x"]}, 404, "no node has the id 'u33x'; near it: 'u33', 'u13'"),
    ("/neighbors", {"table": "user", "ids": ["u3"], "relation": "favs"}, 404, "named 'favs'; did you mean fav?"),
    ("/neighbors", {"table": "tweet", "ids": ["t3"], "relation": "fav"}, 422, "does not start at table tweet"),
    ("/neighbors", {"table": "user", "ids": ["u3"], "side": "lhs"}, 422, "side lhs selects an end of a relation"),
    ("/neighbors", {"table": "user", "ids": ["u3"], "side": "up"}, 422, "side: Input should be 'lhs' or 'rhs'"),
    ("/neighbors", {"table": "user", "ids": []}, 422, "ids: List should have at least 1 item"),
    ("/neighbors", {"table": "user", "ids": [f"u{n}" for n in range(51)]}, 413, "ids: 51 are more than the 50"),
    ("/neighbors", {"table": "user", "ids": ["u3"], "exclude": ["fav"]}, 422, "between tables user and user"),
    ("/neighbors", {"ids": ["u3"]}, 422, "table: Field required"),
    ("/recommend", {**FAV, "prior": 1}, 422, "prior: the model was trained without one for the rhs (model.prior)"),
    ("/recommend", {**FAV, "kk": 3}, 422, "kk: Extra inputs are not permitted"),
    ("/recommend", {"relation": "fav"}, 422, "ids: name a user, or give edges of one"),
    ("/recommend", {**FAV, "k": 0}, 422, "k: Input should be greater than or equal to 1"),
    ("/recommend", {**FAV, "k": 101}, 422, "k: 101 is more than 100, the most that this server gives"),
    ("/recommend", {**FAV, "k": "three"}, 422, "k: Input should be a valid integer"),
    ("/recommend", {**FAV, "relation": "likes"}, 404, "no relation named 'likes'; there are follow, fav"),
    ("/recommend", {**FAV, "ids": ["t3"]}, 404, "user: no node has the id 't3'; near it: 'u3'"),
    ("/score", {"relation": "fav", "pairs": [{"lhs": "u3", "rhs": "u3"}]}, 404, "the id 'u3'; near it: 't3'"),
    ("/score", {"relation": "fav", "pairs": [{"lhs": "t3", "rhs": "t3"}]}, 404, "user: no node has the id 't3'"),
    ("/score", {"relation": "fav", "pairs": [{"lhs": "u3"}]}, 422, "pairs.0.rhs: Field required"),
    ("/score", {"relation": "fav", "pairs": [{"lhs": "u3", "rhs": "t3"}] * 51}, 413, "pairs: 51 are more than the 50"),
    ("/embed", {"table": "users", "edges": [EDGE]}, 404, "no table named 'users'; did you mean user?"),
    ("/embed", {"table": "user", "edges": [{**EDGE, "relation": "faf"}]}, 404, "named 'faf'; did you mean fav?"),
    ("/embed", {"table": "user", "edges": [{**EDGE, "weight": 0}]}, 422, "edges.0.weight: Input should be"),
    ("/embed", {"table": "user", "edges": [EDGE] * 10_001}, 413, "edges: 10,001 are more than the 10,000"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), MISTAKES)
def test_a_mistake_is_one_line(server: Server, path: str, body: Any, status: int, message: str) -> None:
    found, answer = server.post(path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


def test_what_is_no_json_or_no_endpoint_is_refused(server: Server) -> None:
    status, answer = server.ask("POST", "/score", "{", {"Content-Type": "application/json"})
    assert (status, answer["error"].startswith("the body is not JSON: ")) == (422, True)
    assert server.get("/neighbours") == (404, {"error": "Not Found"})
    assert server.get("/embed") == (405, {"error": "Method Not Allowed"})


def test_every_endpoint_is_in_the_schema_with_its_answer_and_its_errors(server: Server) -> None:
    _, schema = server.get("/openapi.json")
    asked = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    assert asked == {
        *((path, method) for path in ("/neighbors", "/recommend", "/score") for method in ("get", "post")),
        ("/embed", "post"), ("/healthz", "get"), ("/metrics", "get"),
    }  # fmt: skip
    for path, method in asked:
        endpoint = schema["paths"][path][method]
        for status, response in endpoint["responses"].items():
            (content,) = response["content"].values()
            if path == "/metrics" and status == "200":
                continue
            named = content["schema"]["$ref"].rsplit("/", 1)[-1]
            assert named in schema["components"]["schemas"]
            assert (named == "Error") == (status != "200")
        assert {"200", "401", "404", "422", "503"} <= set(endpoint["responses"])
    _, page = server.get("/docs")
    assert "openapi.json" in page


def test_health_and_metrics_say_what_is_served(server: Server, exported_root: str) -> None:
    step = Embeddings.load(exported_root).step
    assert server.get("/healthz") == (200, {"version": None, "step": step, "status": "ok"})
    assert server.metric("twhin_version_info", step=str(step), version="") == 1
    assert server.metric("twhin_errors_total", endpoint="/neighbors") == 0
    before = server.metric("twhin_requests_total", endpoint="other", status="404")
    server.get("/no/such/path")
    assert server.metric("twhin_requests_total", endpoint="other", status="404") == before + 1
