"""The registry numbers versions, finds them again, and continues what was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.registry import CHAMPION, LONGEST_PARAMETER, Registry, Run, Version


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
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    (folder / "data" / "more").write_text("deeper")
    return folder


def made(
    registry: Registry, model: str, content: Path, fingerprint: str, run_name: str = "r"
) -> Version:
    """A registered version, made the way the model asset makes one."""
    with registry.run(model, run_name, {"dagster_run_id": run_name, "asset": model}) as run:
        source = run.log_directory(content, "bundle")
        number = registry.next_number(model)
        return registry.register(model, number, run, source, {"fingerprint": fingerprint})


def test_versions_are_numbered_from_one_and_listed_newest_first(
    registry: Registry, content: Path
) -> None:
    assert registry.versions("numbers") == []
    assert registry.next_number("numbers") == "1"
    for n in range(11):  # past 9: text would be sorted wrongly
        made(registry, "numbers", content, f"f{n}", f"run {n}")
    assert [v.number for v in registry.versions("numbers")] == [str(n) for n in range(11, 0, -1)]
    assert registry.next_number("numbers") == "12"


def test_a_version_is_found_by_what_it_was_made_from(registry: Registry, content: Path) -> None:
    version = made(registry, "found", content, "abc")
    assert registry.find("found", "abc") == version
    assert registry.find("found", "other") is None
    assert registry.find("nobody", "abc") is None
    assert version.tags["fingerprint"] == "abc"


def test_an_alias_is_on_one_version_at_a_time(registry: Registry, content: Path) -> None:
    assert registry.alias("kings", CHAMPION) is None
    first = made(registry, "kings", content, "1", "a")
    assert registry.alias("kings", CHAMPION) is None
    second = made(registry, "kings", content, "2", "b")
    registry.set_alias(first, CHAMPION)
    assert registry.alias("kings", CHAMPION) == first
    registry.set_alias(second, CHAMPION)
    registry.set_alias(second, CHAMPION)
    assert registry.alias("kings", CHAMPION) == second
    registry.drop_alias("kings", CHAMPION)
    assert registry.alias("kings", CHAMPION) is None


def test_a_version_that_is_not_there_is_refused_with_those_that_are(
    registry: Registry, content: Path
) -> None:
    first = made(registry, "few", content, "1")
    assert registry.version("few", "1") == first
    with pytest.raises(LookupError, match="few has no version 7: there are 1"):
        registry.version("few", "7")


def test_a_bundle_is_fetched_once_and_whole(registry: Registry, content: Path) -> None:
    version = made(registry, "bundles", content, "1")
    bundle = registry.bundle(version)
    assert (bundle / "model.onnx").read_bytes() == b"weights"
    assert (bundle / "data" / "more").read_text() == "deeper"
    assert [p.name for p in bundle.parent.iterdir()] == [version.run_id]
    (bundle / "mark").touch()
    assert registry.bundle(version) == bundle
    assert (bundle / "mark").exists()


def test_a_number_that_another_run_took_is_not_registered_under_another(
    registry: Registry, content: Path
) -> None:
    number = registry.next_number("race")
    made(registry, "race", content, "quicker", "quick")
    with (
        registry.run("race", "slow", {"dagster_run_id": "slow"}) as run,
        pytest.raises(RuntimeError, match="version 1 was taken by another run"),
    ):
        registry.register("race", number, run, "runs:/x/bundle", {"fingerprint": "slower"})
    assert [v.tags["fingerprint"] for v in registry.versions("race")] == ["quicker"]


def status(run: Run) -> str:
    return run.client.get_run(run.run_id).info.status


def test_a_retry_continues_the_run_that_failed(registry: Registry) -> None:
    tags = {"dagster_run_id": "4711", "asset": "flights/flight_delay_model", "partition": "p"}

    def interrupted() -> None:
        with registry.run("retries", "model", tags) as run:
            run.log(parameters={"seed": 1}, metrics={"auc": 0.7}, curves={"loss": [0.5, 0.4]})
            opened.append(run)
            raise KeyboardInterrupt

    opened: list[Run] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert status(opened[0]) == "FAILED"

    with registry.run("retries", "model", tags) as again:
        assert again.run_id == opened[0].run_id
        again.log(parameters={"seed": 1}, metrics={"auc": 0.7}, tags={"model_version": "3"})
    assert status(again) == "FINISHED"
    with registry.run("retries", "model", {**tags, "partition": "q"}) as other:
        assert other.run_id != again.run_id

    logged = again.client.get_run(again.run_id).data
    assert logged.params == {"seed": "1"}
    assert logged.metrics["auc"] == 0.7
    assert logged.tags["model_version"] == "3"
    assert logged.tags["git_commit"]
    history = again.client.get_metric_history(again.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.4)]


def test_a_parameter_that_would_be_cut_is_refused(registry: Registry) -> None:
    with (
        registry.run("long", "model", {"dagster_run_id": "1"}) as run,
        pytest.raises(ValueError, match=r"parameters \['notes'\] are longer"),
    ):
        run.log(parameters={"notes": "x" * (LONGEST_PARAMETER + 1)})


def test_a_run_has_a_page_in_the_ui(registry: Registry) -> None:
    with registry.run("pages", "model", {"dagster_run_id": "1"}) as run:
        url = registry.run_url(run)
    assert url == f"http://127.0.0.1:5050/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def test_a_run_under_another_is_found_again_by_a_retry_and_not_taken_for_it(
    registry: Registry,
) -> None:
    tags = {"dagster_run_id": "1", "asset": "flights/flight_delay_sweep"}

    def search() -> tuple[str, list[str]]:
        with registry.run("nested", "sweep", tags) as run:
            children = []
            for trial in ("0", "1"):
                with registry.run("nested", f"trial {trial}", {"trial": trial}, run) as child:
                    child.log(parameters={"trees": 3})
                    children.append(child.run_id)
            return run.run_id, children

    parent, children = search()
    assert search() == (parent, children)
    assert len({parent, *children}) == 3
    with registry.run("nested", "sweep", {**tags, "dagster_run_id": "2"}) as other:
        assert other.run_id != parent
        with registry.run("nested", "trial 0", {"trial": "0"}, other) as child:
            assert child.run_id not in children
    under = registry.client.search_runs(
        [other.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert {run.info.run_id for run in under} == set(children)
