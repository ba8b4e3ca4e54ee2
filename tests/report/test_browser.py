"""The report as a browser shows it: wide and narrow, light and dark, and printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import SmallConfig
from tests.report.browser import Browser, is_missing, started
from tests.report.made_exports import write_exports
from tests.report.made_metrics import made_probe, with_everything
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.report.write import write_report
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

REPORT = "evaluation/report.html"

pytestmark = pytest.mark.skipif(is_missing(), reason="needs a browser: apt-get install chromium chromium-driver")

LOOKS = (Path(__file__).parent / "looks.js").read_text()
VIEWS = [
    (360, "light", "screen"), (360, "dark", "screen"), (768, "dark", "screen"), (1280, "light", "screen"),
    (1600, "dark", "screen"), (718, "light", "print"),
]  # fmt: skip
"""Width, colors and medium; a printed A4 page is 718 CSS pixels wide within its margins."""

NASTY = (
    "<script>document.title='taken'</script>",
    "שלום עולם מימין לשמאל",
    "\u202eturned round",
    "👩‍👩‍👧‍👦🇺🇳" * 12,
    "x" * 300,
    "w o r d s " * 30,
    "{{ 7 * 7 }} & &amp; \"'`",
    "a\nline\tand a tab",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def plain_run(trained: tuple[Config, str]) -> Path:
    """The report of a small run from prepare to export."""
    config, root = trained
    evaluate(config, root)
    export(config, root)
    return Path(root, REPORT)


@pytest.fixture
def nasty_run(small_config: SmallConfig, tmp_path: Path) -> Path:
    """The report of a run with the worst names there can be, and with every part that a report can have."""
    rng = np.random.default_rng(3)
    users, relations = [f"{name}{number}" for name in NASTY for number in range(4)], [*NASTY, "fav"]
    rows = [(str(rng.choice(users)), relations[row % len(relations)], str(rng.choice(users))) for row in range(900)]
    for day, of in (("first", rows[:450]), ("second", rows)):
        columns = dict(zip(("lhs", "relation", "rhs"), map(list, zip(*of, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tmp_path / f"{day}.parquet")
    adagrad = {"rowwise_adagrad": {"lr": 0.1}}
    table = "t" * 100
    cosine = {"learning_rate": 0.1, "final_learning_rate": 0.0, "num_ramp_steps": 2, "final_num_steps": 9}
    first = {"path": str(tmp_path / "first.parquet"), "relation_column": "relation"}
    config = small_config(
        prepare={"sources": [first]},
        model={
            "embeddings": {"tables": [{"name": table, "embedding_dim": 8, "optimizer": adagrad}]},
            "relations": [{"name": name, "lhs": table, "rhs": table} for name in relations],
            "translation_optimizer": {"adagrad": {"lr": 0.1}, "learning_rate": {"linear_ramp_to_cosine": cosine}},
            "comparator": "cos",
            "prior": {},
        },
        training={"eval_log_every_n": 2},
        evaluation={"lists": {"k": [5, 1000]}},
        recommend={name: {} for name in relations},
    )
    root = str(tmp_path / f"{NASTY[3][:9]} {NASTY[1]} {NASTY[4][:150]}")
    before = str(tmp_path / NASTY[4][:200])
    prepare(config, before)
    both = {"sources": [first, {**first, "path": str(tmp_path / "second.parquet")}], "previous": before}
    config = small_config(**config.model_dump(exclude_unset=True, exclude={"prepare"}), prepare=both)
    prepare(config, root)
    train(config, root)
    metrics = with_everything(evaluate(config, root)) | {"candidates": {"count": 1000, "power": 0.75}}
    lists = metrics.pop("lists")  # which are never sampled
    _add_prefix(metrics)
    metrics["lists"] = lists
    metrics["probe"] = made_probe(table, NASTY[3], [*NASTY, "no", "yes", "x", "y"])
    metrics["headline"] = "sampled_mrr_rhs"
    metrics["differences"] = {
        of: {name: [-0.0123, -0.02, 0.001] for name in figures} for of, figures in metrics["test"].items()
    }
    del metrics["baselines"]["previous"]["fav"], metrics["differences"]["fav"]
    bounds = {"min": 0.25, "max": None, "max_drop": 0.01}
    gate = {"metric": f"test.{NASTY[4]}.sampled_mrr", "value": 0.125, "previous": 0.25, "bounds": bounds}
    gates = [
        {**gate, "passed": False, "reason": f"{NASTY[4]} is below"},
        {**gate, "passed": True, "reason": "within its bounds"},
    ]
    decision = {"passed": False, "checkpoint": metrics["checkpoint"], "gates": gates}
    storage.write_json(storage.join(root, "evaluation/gates.json"), decision)
    write_exports(Path(root), metrics["checkpoint"], table, NASTY[5], "sampled_mrr")
    write_report(storage.join(root, REPORT), metrics, config, root)
    return Path(root, REPORT)


def _add_prefix(tree: object) -> None:
    """Makes every figure a sampled one."""
    if isinstance(tree, dict):
        for key in [key for key in tree if str(key).startswith(("mrr", "hits", "recall", "ndcg", "auc", "amri"))]:
            tree[f"sampled_{key}"] = tree.pop(key)
        for child in tree.values():
            _add_prefix(child)


@pytest.mark.parametrize("run", ["plain_run", "nasty_run"])
def test_it_looks_right_at_every_width(
    run: str, browser: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page = request.getfixturevalue(run)
    wrong = {}
    for width, scheme, media in VIEWS:
        view = f"{media}-{width}-{scheme}"
        browser.open(page, width, scheme, media)
        others = [url for url in browser.requests() if not url.startswith(("file://", "chrome://", "data:image/gif"))]
        if found := [*browser.run(LOOKS), *browser.log(), *others]:
            wrong[view] = found
        assert _shades(browser.screenshot(tmp_path / f"{view}.png")) > 30
    assert not wrong, json.dumps(wrong, indent=1, ensure_ascii=False)
    assert browser.run("return document.title").endswith("TwHIN report")


def test_dark_is_dark_and_paper_is_white(plain_run: Path, browser: Browser, tmp_path: Path) -> None:
    corners = {}
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        browser.open(plain_run, 800, scheme, media)
        with Image.open(browser.screenshot(tmp_path / f"{scheme}.png")) as image:
            corners[scheme, media] = image.convert("L").getpixel((2, 2))
    assert corners["light", "screen"] == corners["dark", "print"] == 255
    assert corners["dark", "screen"] < 40


def test_it_prints_on_a4(plain_run: Path, browser: Browser, tmp_path: Path) -> None:
    browser.open(plain_run, 1000)
    printed = browser.pdf(tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in printed  # 210 × 297 mm in points, as Chromium rounds them
    assert 3 <= printed.count(b"/Type /Page\n") <= 12


def _shades(picture: Path) -> int:
    """How many shades of gray are in a picture; a blank one has one."""
    with Image.open(picture) as image:
        return int(np.count_nonzero(np.bincount(np.asarray(image.convert("L")).reshape(-1))))
