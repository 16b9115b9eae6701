"""Prometheus and Grafana: files that are valid, and ask only for metrics that really exist, by their real tags.

What needs `promtool` (Debian's package `prometheus`) is skipped without it; expressions are parsed in any case.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from infra_manifests import INFRA

from illada.durable.telemetry import METRICS, STATES

PROMETHEUS = INFRA / "prometheus"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")
OWN = {f"ray_{metric.name}": {"run", "stage", *metric.tags} for metric in METRICS}
TIDY = "otel_scope_.*|SessionName|Version"


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((INFRA / "grafana" / "illada.json").read_text(encoding="utf-8"))
    return loaded


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression there is, with where it stands; a dashboard's variables filled in."""
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$run", ".*").replace("$stage", ".*")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inner = variable["query"]["query"].removeprefix("label_values(").rpartition(",")[0]
            yield variable["name"], inner.replace("$run", ".*")
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Metric and matchers of every selector."""
    found: list[tuple[str, dict[str, str]]] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name: matcher.value for matcher in node.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def test_expressions_ask_for_what_is_exported() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = set()
    for where, expression in expressions():
        for name, matchers in selectors(expression):
            asked.add(name)
            if name not in OWN:
                assert name.removeprefix("ray_") in METRICS_GAUGES, f"{where}: neither illada nor Ray exports {name}"
                continue
            assert matchers.keys() <= OWN[name], f"{where}: {name} has no tags {matchers.keys() - OWN[name]}"
            if "state" in matchers:
                assert matchers["state"] in STATES, where
    assert asked >= set(OWN) - {"ray_illada_stage_units"}, "a metric that nobody looks at"


def test_a_wrong_name_would_be_found() -> None:
    ((name, matchers),) = selectors('rate(ray_illada_stage_unit{runs="a"}[5m])')
    assert name not in OWN and matchers.keys() - {"run", "stage"} == {"runs"}
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (a (x)")


def test_the_issues_figures_have_a_panel() -> None:
    titles = {panel["title"] for panel in dashboard()["panels"]}
    assert titles >= {"Documents a second", "Tokens a second", "Loss", "Goodput", "Stage", "Retries"}


def read_by_grafanas_model(board: dict[str, Any]) -> Any:
    """What Grafana's own data model keeps of a dashboard: fields it does not know are dropped."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def lost(given: Any, kept: Any, where: str = "dashboard") -> Iterator[str]:
    """Where `kept` lacks or changes something of `given`; defaults it has besides are none of that."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (left, right) in enumerate(zip(given, kept, strict=True)):
            yield from lost(left, right, f"{where}[{number}]")
    elif given != kept:
        yield where


def test_dashboard_is_one_by_grafanas_model() -> None:
    assert not list(lost(dashboard(), read_by_grafanas_model(dashboard())))


@pytest.mark.parametrize("name", ["gridPos", "legendFormat", "includeAll", "steps", "reduceOptions", "showLegend"])
def test_a_misspelt_field_of_the_dashboard_is_found(name: str) -> None:
    board = json.loads(json.dumps(dashboard()).replace(f'"{name}"', f'"{name}x"'))
    assert any(where.endswith(f".{name}x") for where in lost(board, read_by_grafanas_model(board)))


def test_dashboard_is_laid_out() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "run", "stage"]


def test_units_that_count_as_documents_are_units_of_stages() -> None:
    """The panel's pattern finds the units that stages really count in, and the other panel finds the rest."""
    text = "\n".join(path.read_text() for path in (INFRA.parent / "pipelines").rglob("*.py"))
    (pattern,) = {
        matchers["unit"]
        for where, expression in expressions()
        if where == "Documents a second"
        for _, matchers in selectors(expression)
    }
    for unit in ("documents", "pages", "conversations"):
        assert f'"{unit}' in text, f"no stage counts {unit}"
        assert re.fullmatch(pattern, unit)
    assert not re.fullmatch(pattern, "MB") and not re.fullmatch(pattern, "files")


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_configuration() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
def test_kubernetes_configuration(tmp_path: Path) -> None:
    """Debian's promtool is built without Kubernetes discovery: that block is checked by hand, all else by the tool."""
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [
        {
            "role": "pod",
            "namespaces": {"names": ["illada"]},
            "selectors": [{"role": "pod", "label": "ray.io/cluster"}],
        }
    ]
    job["static_configs"] = [{"targets": ["localhost:8080"]}]
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "kubernetes.yml")


@needs_promtool
def test_alerts_fire_on_what_they_are_for(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "alerts.yml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yml").write_text(text.replace("RULES", str(PROMETHEUS / "rules.yml")))
    promtool("test", "rules", tmp_path / "alerts.yml")


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    rules = [
        rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
    ]
    tests = yaml.safe_load((Path(__file__).parent / "alerts.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fired == quiet == {rule["alert"] for rule in rules}
    assert all(rule["annotations"]["fix"].startswith("illada ") for rule in rules)


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_labels_that_are_dropped_are_not_asked_for(name: str) -> None:
    (job,) = yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]
    (drop,) = job["metric_relabel_configs"]
    assert drop == {"regex": TIDY, "action": "labeldrop"}


def test_pods_are_scraped_where_they_export() -> None:
    cluster = yaml.safe_load((INFRA / "kubernetes" / "base" / "raycluster.yaml").read_text())["spec"]
    (job,) = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())["scrape_configs"]
    keep = job["relabel_configs"][0]
    assert keep["source_labels"] == ["__meta_kubernetes_pod_container_port_name"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports[keep["regex"]] == int(group["rayStartParams"]["metrics-export-port"])


def test_documentation_lists_every_metric_with_its_tags() -> None:
    text = (INFRA.parent / "docs" / "deploying.md").read_text(encoding="utf-8")
    listed = {
        name: set(re.findall(r"`(\w+)`", tags))
        for name, tags in re.findall(r"^\| `(illada_\w+)` \|([^|]*)\|", text, re.MULTILINE)
    }
    assert listed == {metric.name: set(metric.tags) for metric in METRICS}
