"""What docs/scaling.md shows: manifests that are well formed, say what the text says, and ask for figures there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from api.metrics import RequestMetrics, metrics_text
from infra.scaling import Policy
from infra.supervisor import STOP_TIMEOUT_S
from shared.job_store import JobStore
from workers.stopping import GRACE_S

TEXT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
POLICY = Policy(1, 1)


def manifests() -> dict[str, Any]:
    """The page's YAML blocks by kind."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
    return {block["kind"]: block for block in blocks}


def test_the_cluster_scales_the_deployment_by_the_policy_of_one_machine() -> None:
    """Same target seconds, up at once, down one at a time."""
    scaled, deployment = manifests()["ScaledObject"]["spec"], manifests()["Deployment"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    (policy,) = behavior["scaleDown"]["policies"]
    assert (policy["value"], policy["periodSeconds"]) == (1, POLICY.quiet_s)
    (trigger,) = scaled["triggers"]
    assert f"/ {POLICY.target_s:g}," in trigger["metadata"]["query"]
    assert trigger["metadata"]["query"].count("(") == trigger["metadata"]["query"].count(")")
    # KEDA takes texts alone.
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_every_figure_that_the_page_names_is_exported(job_store: JobStore) -> None:
    """By its very name."""
    text = metrics_text(job_store, RequestMetrics()).decode()
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    named = set(re.findall(r"riffarm_[a-z]+_[a-z]+", TEXT))
    assert named == {"riffarm_backlog_seconds", "riffarm_backlog_items"}
    assert named <= exported


def test_whoever_ends_a_worker_waits_longer_than_it_takes() -> None:
    """The supervisor on one machine, and the cluster."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert GRACE_S + 3 < STOP_TIMEOUT_S <= pod["terminationGracePeriodSeconds"]
    assert "RIFFARM_SCALE_TARGET_S" in TEXT
    assert f"{POLICY.target_s:g} s of backlog" in TEXT
