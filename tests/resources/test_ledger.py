"""The registry's memory is exact whoever writes to it at once, and the alias follows it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from flywheel.contest import Verdict
from flywheel.evidence import Figure, StoredVerdict
from flywheel.history import Decision, DecisionError, champion_of, traffic
from flywheel.settings import ROOT
from resources.lakehouse import Lakehouse
from resources.ledger import Evaluation, Ledger, newest
from resources.registry import CHALLENGER, CHAMPION, Registry, Version

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
STORY = {
    "git_commit": "c", "environment": "e", "onnx_sha256": "o", "wall_seconds": 2.5,
    "cpu_seconds": 2.0, "cost": 0.1, "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """MLflow on SQLite; made once, because its schema takes seconds. Tests use their own models."""
    folder = tmp_path_factory.mktemp("mlflow")
    return Registry(
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        artifact_root=f"file://{folder}/artifacts",
        ui_url="http://127.0.0.1:5050",
        bundle_cache=str(folder / "bundles"),
    )


@pytest.fixture
def ledger(registry: Registry, tmp_path: Path) -> Ledger:
    lake = Lakehouse(
        catalog_uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse"
    )
    return Ledger(lake, registry)


def registered(registry: Registry, model: str, count: int, folder: Path) -> list[Version]:
    """Some versions of a model."""
    (folder / "content").mkdir(exist_ok=True)
    (folder / "content" / "model.onnx").write_bytes(b"weights")
    made = []
    for n in range(count):
        with registry.run(model, f"run {n}", {"dagster_run_id": str(n), "asset": model}) as run:
            source = run.log_directory(folder / "content", "bundle")
            tags = {
                "fingerprint": f"f{n}", "as_of": f"2013-03-0{n + 1}",
                "registered_at": NOW.isoformat(),
            }  # fmt: skip
            number = registry.next_number(model)
            made.append(registry.register(model, number, run, source, tags))
    return made


def promote(version: str, expected: str | None) -> Decision:
    return Decision("promoted", version, "gates", "better", expected)


def test_the_alias_follows_every_decision(ledger: Ledger, tmp_path: Path) -> None:
    first, second = registered(ledger.registry, "follows", 2, tmp_path)
    assert ledger.champion("follows") is None
    ledger.decide("follows", promote("1", None))
    assert ledger.champion("follows") == first
    ledger.registry.set_alias(second, CHALLENGER)
    ledger.decide("follows", promote("2", "1"))
    assert ledger.registry.alias("follows", CHAMPION) == second
    assert ledger.registry.alias("follows", CHALLENGER) is None
    ledger.decide("follows", Decision("rolled_back", "1", "ann", "late", "2"))
    assert ledger.registry.alias("follows", CHAMPION) == first
    assert ledger.decide("follows", promote("1", "2")) is None


def test_an_alias_that_says_otherwise_is_put_right(ledger: Ledger, tmp_path: Path) -> None:
    """As after a kill between the event and the alias, or a hand in the MLflow UI."""
    first, second = registered(ledger.registry, "right", 2, tmp_path)
    ledger.registry.set_alias(second, CHAMPION)
    assert ledger.champion("right") is None  # nobody has decided it
    ledger.decide("right", promote("1", None))
    ledger.registry.set_alias(second, CHAMPION)
    assert ledger.champion("right") == first
    assert ledger.registry.alias("right", CHAMPION) == first


def test_a_version_that_does_not_exist_is_not_decided_about(ledger: Ledger) -> None:
    with pytest.raises(LookupError, match="has no version 9"):
        ledger.decide("nobody", promote("9", None))


PROMOTE = """
import sys
from flywheel.history import Decision, DecisionError
from resources.lakehouse import Lakehouse
from resources.ledger import Ledger
from resources.registry import Registry
tracking, artifacts, catalog, warehouse, version = sys.argv[1:]
registry = Registry(tracking_uri=tracking, artifact_root=artifacts, ui_url="", bundle_cache="")
ledger = Ledger(Lakehouse(catalog_uri=catalog, warehouse=warehouse), registry)
ledger.registry.version("race", version)  # everything is imported and connected
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.decide("race", Decision("promoted", version, "racer " + version, "first", "1"))
    print("won")
except DecisionError as error:
    print(error)
"""


def test_of_promotions_at_once_one_wins_and_the_others_are_told(
    ledger: Ledger, tmp_path: Path
) -> None:
    registered(ledger.registry, "race", 4, tmp_path)
    ledger.decide("race", promote("1", None))
    racers = [
        subprocess.Popen(
            [
                sys.executable, "-W", "ignore", "-c", PROMOTE, ledger.registry.tracking_uri,
                ledger.registry.artifact_root, ledger.lakehouse.catalog_uri,
                ledger.lakehouse.warehouse, version,
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for version in "234"
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    told = {}
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for version, racer in zip("234", racers, strict=True):
        told[version] = racer.communicate(timeout=120)[0].strip()
    won = [version for version, words in told.items() if words == "won"]
    assert len(won) == 1
    for version in set(told) - set(won):
        assert f"version {won[0]} is champion now" in told[version]
    events = ledger.events("race")
    assert [e.sequence for e in events] == [1, 2]
    assert champion_of(events) == won[0]
    champion = ledger.champion("race")
    assert champion is not None
    assert ledger.registry.alias("race", CHAMPION) == champion
    assert champion.number == won[0]


def test_a_version_is_remembered_once_with_its_whole_story(ledger: Ledger, tmp_path: Path) -> None:
    (version,) = registered(ledger.registry, "memory", 1, tmp_path)
    assert ledger.remember(version, STORY)
    assert not ledger.remember(version, STORY)
    (row,) = ledger.models("memory")
    assert (row["version"], row["as_of"], row["at"]) == ("1", date(2013, 3, 1), NOW)
    assert (row["cost"], json.loads(row["story"])) == (0.1, STORY)
    assert ledger.models("nobody") == []


def evaluation(number: int) -> Evaluation:
    return Evaluation(f"e{number}", "judged", date(2013, 3, 1), "2", "1", "h", NOW)


def test_an_evaluation_is_entered_once_even_if_it_was_interrupted(ledger: Ledger) -> None:
    figures = {
        "recent": [Figure("candidate", "(all)", "(all)", "auc", 100, 0.8, 0.7, 0.9)],
        "stable": [Figure("candidate", "(all)", "(all)", "auc", 50, None)],
    }
    verdict = StoredVerdict("Gate()", Verdict("gate", True, "good", {"auc": 0.8}))
    ledger.enter(evaluation(1), figures, [])  # killed before the verdicts
    assert ledger.evaluations("judged") == []
    for _ in range(2):
        ledger.enter(evaluation(1), figures, [verdict])
    ((held, verdicts),) = ledger.evaluations("judged")
    assert held == evaluation(1)
    assert verdicts == [verdict]
    assert [(r["window"], r["value"]) for r in ledger.figures("e1")] == [
        ("recent", 0.8),
        ("stable", None),
    ]
    later = dataclasses.replace(evaluation(2), at=datetime(2026, 5, 5, tzinfo=UTC))
    ledger.enter(later, figures, [verdict])
    found = newest(ledger.evaluations("judged"), "2")
    assert found is not None
    assert found[0] == later
    assert newest(ledger.evaluations("judged"), "7") is None


def test_traffic_is_entered_once_however_often_the_gateway_is_asked(ledger: Ledger) -> None:
    changes = [
        {
            "at": f"2026-05-04T1{n}:00:00+00:00", "action": "deploy", "version": str(n),
            "previous": None, "actor": "ann", "reason": "r",
        }
        for n in range(3)
    ]  # fmt: skip
    assert ledger.follow_traffic(traffic("routed", changes[:2])) == 2
    assert ledger.follow_traffic(traffic("routed", changes)) == 1
    assert ledger.follow_traffic([]) == 0
    assert [e.version for e in ledger.events("routed")] == ["0", "1", "2"]


def test_a_decision_that_contradicts_is_refused_and_leaves_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    registered(ledger.registry, "contra", 2, tmp_path)
    ledger.decide("contra", promote("1", None))
    with pytest.raises(DecisionError, match="roll back first"):
        ledger.decide("contra", Decision("rejected", "1", "ann", "no", "1"))
    assert len(ledger.events("contra")) == 1
