"""The registry remembers: every command about versions, on a real registry and a real gateway."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from click.testing import Result
from typer.testing import CliRunner

from assets.lifecycle import reproduction
from flywheel.settings import ROOT
from jobs.commands import app
from resources.ledger import Ledger
from resources.registry import CHALLENGER
from tests.end_to_end.world import World

pytestmark = pytest.mark.slow

MODEL = "flight_delay"


@pytest.fixture(scope="module")
def crowned(world: World) -> World:
    """Two versions: that of the 14th serves; that of the 15th was compared with it."""
    os.environ["FLYWHEEL_ACTOR"] = "ann"
    assert world.train("2013-01-14").success
    assert world.train("2013-01-15").success
    return world


def flywheel(*words: str) -> Result:
    """Run a command as a person would, with a wide terminal."""
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "250", "TERM": "dumb"})


def said(result: Result) -> str:
    """All that a command printed, on one line."""
    return " ".join(result.output.split())


def ledger_of(world: World) -> Ledger:
    return Ledger(world.resources["lakehouse"], world.resources["registry"])


def served(world: World) -> str:
    return world.resources["serving"].client.models()[0].version


def test_a_version_has_its_whole_story_in_its_bundle_and_in_the_history(crowned: World) -> None:
    ledger = ledger_of(crowned)
    rows = ledger.models(MODEL)
    assert [row["version"] for row in rows] == ["1", "2"]
    story = json.loads(rows[0]["story"])
    bundle = ledger.registry.bundle(ledger.registry.version(MODEL, "1"))
    assert json.loads((bundle / "story.json").read_text()) == story
    assert story["as_of"] == "2013-01-14"
    assert "flights.departures" in story["input_snapshots"]
    assert story["feature_service"].startswith("flight_delay@")
    assert story["hardware"]["cores"] >= 1
    assert story["cpu_seconds"] > 0
    assert story["cost"] == pytest.approx(story["cpu_seconds"] / 3600 * 0.05, abs=1e-6)
    assert story["schema"]["request"]["scheduled_departure"] == "timestamp"
    run = ledger.registry.client.get_run(rows[0]["run_id"])
    assert run.data.metrics["cpu_seconds"] == story["cpu_seconds"]


def test_a_version_has_a_card_in_mlflow_and_in_the_ui(crowned: World) -> None:
    registry = crowned.resources["registry"]
    run = registry.run_of(registry.version(MODEL, "2"))
    import mlflow.artifacts

    folder = registry.client.get_run(run.run_id).info.artifact_uri
    page = mlflow.artifacts.load_text(f"{folder}/card/model_card.html")
    assert "<script" not in page
    assert page.count("data:image/png;base64,") >= 4
    text = mlflow.artifacts.load_text(f"{folder}/card/model_card.md")
    shown = crowned.metadata("evaluation")["card"]
    for told in ("beats_champion(log_loss)", "Not for", "flights.departures", "carrier"):
        assert told in text
        assert told in shown
    assert "Model card" in registry.client.get_model_version(MODEL, "2").description


def test_figures_of_every_kind_are_rows_of_the_evaluations(crowned: World) -> None:
    ledger = ledger_of(crowned)
    evaluated, verdicts = ledger.evaluations(MODEL)[-1]
    assert (evaluated.candidate, evaluated.champion) == ("2", "1")
    rows = ledger.figures(evaluated.evaluation_id)
    about = {row["slice_column"] for row in rows}
    assert about == {"(all)", "carrier", "origin", "hour", "(threshold)", "(calibration bin)"}
    gain = next(r for r in rows if (r["contestant"], r["metric"]) == ("champion", "gain_log_loss"))
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert {v.verdict.gate for v in verdicts} >= {"at_least(auc)", "no_leakage", "parity"}


def test_history_tells_what_happened_in_order(crowned: World) -> None:
    told = flywheel("history", MODEL, "--json")
    assert told.exit_code == 0, told.output
    happened = json.loads(told.stdout)
    first = [(one["what"], one["version"]) for one in happened][:4]
    assert first == [("registered", "1"), ("evaluated", "1"), ("promoted", "1"), ("serves", "1")]
    assert ("evaluated", "2") in [(one["what"], one["version"]) for one in happened]
    assert json.loads(flywheel("history", MODEL, "--limit", "2", "--json").stdout) == happened[-2:]
    assert "promoted" in flywheel("history", MODEL).output
    unknown = flywheel("history", "flight_delays")
    assert unknown.exit_code == 2
    assert "there are flight_delay" in said(unknown)


def test_explain_answers_what_served_then_and_why(crowned: World) -> None:
    now = datetime.now(UTC).isoformat()
    told = flywheel("explain", MODEL, "--at", now, "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["served"].startswith(f"version {served(crowned)}")
    assert any(fact.startswith("snapshot") for fact in facts["data"].values())
    assert facts["data tag"].startswith("flight_delay/2013-01-1")
    assert facts["code"].startswith("commit ")
    assert "pass: auc" in facts["gates"]["at_least(auc)"]
    before = flywheel("explain", MODEL, "--at", "2013-05-04T14:03:00Z")
    assert before.exit_code == 1
    assert "nothing served" in said(before)
    vague = flywheel("explain", MODEL, "--at", "2013-05-04T14:03:00")
    assert vague.exit_code == 2
    assert "has no time zone" in said(vague)


def test_compare_scores_both_on_the_same_cases(crowned: World) -> None:
    told = flywheel("compare", MODEL, "1", "2", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    (recent,) = found["windows"]  # one stable day is too few to resample
    line = recent["metrics"]["log_loss"]
    assert line["gain"] == pytest.approx(line["first"] - line["second"])
    assert found["differences"]["as_of"] == ["2013-01-14", "2013-01-15"]
    assert "only scores on the same cases compare" in found["notes"][0]
    early = flywheel("compare", MODEL, "1", "2", "--as-of", "2013-01-14")
    assert early.exit_code == 1
    assert "Choose a later --as-of" in said(early)


def test_reproduce_gives_the_same_bytes(crowned: World) -> None:
    """In a process of its own, as a person would, a year later or a minute."""
    told = subprocess.run(
        [sys.executable, "-m", "jobs.commands", "reproduce", MODEL, "1", "--here"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "250"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert "is identical" in told.stdout
    assert "differs" not in told.stdout


def test_reproduce_names_the_first_difference(
    crowned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the join had learned to give another value since."""
    real = reproduction.inputs.input_values

    def otherwise(*arguments: Any, **named: Any) -> dict[str, Any]:
        columns = real(*arguments, **named)
        shifted = pa.compute.add(columns["hour"], 1.0)
        return {**columns, "hour": shifted}

    monkeypatch.setattr(reproduction.inputs, "input_values", otherwise)
    told = flywheel("reproduce", MODEL, "1", "--here")
    assert told.exit_code == 1
    assert "first difference: training set" in said(told)
    assert "(hour in " in said(told)


def test_a_damaged_bundle_is_refused_before_anything_is_compared(crowned: World) -> None:
    registry = crowned.resources["registry"]
    bundle = registry.bundle(registry.version(MODEL, "1"))
    kept = bundle.with_name("kept")
    shutil.copytree(bundle, kept)
    try:
        content = bytearray((bundle / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / "model.onnx").write_bytes(content)
        told = flywheel("reproduce", MODEL, "1", "--here")
        assert told.exit_code == 1
        assert "differs from its hash in the manifest" in said(told)
    finally:
        shutil.rmtree(bundle)
        kept.rename(bundle)


def test_promoting_against_the_gates_needs_an_override_and_both_are_kept(crowned: World) -> None:
    ledger = ledger_of(crowned)
    champion = ledger.champion(MODEL)
    assert champion is not None
    if champion.number == "2":  # it won by itself: go back, so that there is something to overrule
        assert flywheel("rollback", MODEL, "--reason", "to try").exit_code == 0
    refused = flywheel("promote", MODEL, "2", "--reason", "I like it")
    assert refused.exit_code == 1
    assert "--override" in said(refused)
    blank = flywheel("promote", MODEL, "2", "--override", "--reason", " ")
    assert blank.exit_code == 1
    assert "needs an actor and a reason" in said(blank)
    done = flywheel("promote", MODEL, "2", "--override", "--reason", "winter weeks look better")
    assert done.exit_code == 0, done.output
    assert served(crowned) == "2"
    event = [e for e in ledger.events(MODEL) if e.kind == "decision"][-1]
    assert (event.action, event.version, event.override) == ("promoted", "2", True)
    assert (event.actor, event.reason) == ("ann", "winter weeks look better")
    assert ledger.registry.alias(MODEL, CHALLENGER) is None
    again = flywheel("promote", MODEL, "2", "--override", "--reason", "again")
    assert "is champion already" in said(again)
    materialized = crowned.instance.get_latest_materialization_event(crowned.life.key("champion"))
    assert materialized is not None


def test_rollback_gives_the_traffic_back_and_bars_the_version(crowned: World) -> None:
    ledger = ledger_of(crowned)
    done = flywheel("rollback", MODEL, "--reason", "late answers")
    assert done.exit_code == 0, done.output
    assert "version 1 of flight_delay serves again" in said(done)
    assert served(crowned) == "1"
    champion = ledger.champion(MODEL)
    assert champion is not None
    assert champion.number == "1"
    assert crowned.run("flight_delay_training", "2013-01-15").success
    assert served(crowned) == "1"  # the gates may not bring it back
    happened = [(e.kind, e.action, e.version) for e in ledger.events(MODEL)]
    assert ("decision", "rolled_back", "1") in happened
    assert ("traffic", "rolled_back", "1") in happened
    refused = flywheel("promote", MODEL, "2", "--reason", "again")
    assert refused.exit_code == 1


def test_a_rejected_version_stays_out_and_a_champion_cannot_be_rejected(crowned: World) -> None:
    no = flywheel("reject", MODEL, "1", "--reason", "no")
    assert no.exit_code == 1
    assert "roll back first" in said(no)
    missing = flywheel("reject", MODEL, "9", "--reason", "no")
    assert missing.exit_code == 1
    assert "has no version 9" in said(missing)
    assert "is rejected already" in said(flywheel("reject", MODEL, "2", "--reason", "no"))


def test_every_command_of_the_page_about_versions_runs(crowned: World) -> None:
    page = (ROOT / "docs" / "registry.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        command = shlex.split(line, comments=True)
        assert command[0] == "flywheel"
        result = flywheel(*command[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
    assert served(crowned) == "1"
