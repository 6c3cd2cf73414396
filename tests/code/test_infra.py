"""infra/: every file is what its scheduler's own checker takes, and keeps the project's policies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from workspace import ROOT

INFRA = ROOT / "infra"
SCHEDULE, KUBERNETES = INFRA / "schedule", INFRA / "ray/kubernetes"
UNITS = ("vaeline-retrain.service", "vaeline-retrain.timer")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted([*SCHEDULE.glob("*.yaml"), *KUBERNETES.glob("*.yaml")]):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            if "apiVersion" in document:
                yield f"{path.name}-{number}", document


DOCUMENTS = dict(documents())
NOT_OURS = ("ray.io", "kustomize.config.k8s.io")  # kinds whose schemas no package has
OF_KUBERNETES = {name: each for name, each in DOCUMENTS.items() if each["apiVersion"].split("/")[0] not in NOT_OURS}


def kind(wanted: str) -> dict[str, Any]:
    (found,) = [each for each in DOCUMENTS.values() if each["kind"] == wanted]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The spec of every pod that the manifests make."""
    found = {"cronjob": kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]}
    for name, cluster in (("cluster", kind("RayCluster")["spec"]), ("job", kind("RayJob")["spec"]["rayClusterSpec"])):
        found[f"{name}-head"] = cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            found[f"{name}-{group['groupName']}"] = group["template"]["spec"]
    return found


PODS = pods()


@pytest.mark.parametrize("name", OF_KUBERNETES)
def test_manifest_is_what_the_published_schemas_take(name):
    kubernetes_validate.validate(OF_KUBERNETES[name], "1.34", strict=True)


def test_checker_would_see_a_planted_fault():
    broken = json.loads(json.dumps(kind("CronJob")))
    broken["spec"]["concurencyPolicy"] = broken["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_pod_is_of_the_restricted_kind(name):
    """The rules of Kubernetes' Pod Security Standard `restricted`, and a root file system that is only read."""
    pod = PODS[name]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        if "emptyDir" in volume:
            assert "sizeLimit" in volume["emptyDir"]
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True and not context.get("privileged")
        assert "memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"]
        assert not container["image"].endswith(":latest") and ":" in container["image"]
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("name", [name for name in PODS if name != "cronjob"])
def test_pod_of_ray_has_its_token_probes_and_no_account(name):
    pod, (container,) = PODS[name], PODS[name]["containers"]
    assert pod["automountServiceAccountToken"] is False and pod["terminationGracePeriodSeconds"] >= 60
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    assert {"readinessProbe", "livenessProbe"} <= set(container)
    secret = [each for each in container["env"] if "value" not in each]
    assert len(secret) == 3 and all("secretKeyRef" in each["valueFrom"] for each in secret)
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/workspace", "/tmp", "/dev/shm"}


def test_both_ray_manifests_have_the_same_cluster_and_the_version_that_is_pinned():
    cluster = kind("RayCluster")["spec"]
    assert cluster == kind("RayJob")["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert cluster["authOptions"] == {"mode": "token"}
    profile = yaml.safe_load((INFRA / "ray/gpus.yaml").read_text())
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) * group["replicas"] == profile["workers"] * profile["gpus_per_worker"]
    assert int(limits["cpu"]) * group["replicas"] >= profile["workers"] * profile["cpus_per_worker"]


def test_ray_job_ends_its_cluster_and_is_bounded():
    job = kind("RayJob")["spec"]
    assert job["shutdownAfterJobFinishes"] is True and job["backoffLimit"] == 0
    assert 0 < job["activeDeadlineSeconds"] <= 86400 and job["ttlSecondsAfterFinished"] > 0
    assert job["entrypoint"].endswith("python -m pipeline.retrain")
    settings = yaml.safe_load(job["runtimeEnvYAML"])
    assert settings == {"env_vars": {"VAELINE_CLUSTER": "infra/ray/gpus.yaml"}}  # no secret may stand in a runtime environment


def test_schedule_runs_one_at_a_time_and_catches_nothing_up():
    spec = kind("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid" and spec["startingDeadlineSeconds"] <= 3600 and spec["timeZone"] == "Etc/UTC"
    job = spec["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > kind("RayJob")["spec"]["activeDeadlineSeconds"] and job["backoffLimit"] <= 3
    fail, ignore = job["podFailurePolicy"]["rules"]
    assert fail == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [70]}}
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or no pod failure policy holds


def test_schedule_may_create_ray_jobs_and_nothing_else():
    assert kind("Role")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "watch"]}
    ]
    assert kind("RoleBinding")["subjects"] == [{"kind": "ServiceAccount", "name": "vaeline-schedule"}]
    assert PODS["cronjob"]["serviceAccountName"] == kind("ServiceAccount")["metadata"]["name"]


def test_network_is_closed_but_for_what_is_named():
    policies = {each["metadata"]["name"]: each["spec"] for each in DOCUMENTS.values() if each["kind"] == "NetworkPolicy"}
    labels = {
        "vaeline-ray": kind("RayCluster")["spec"]["headGroupSpec"]["template"]["metadata"]["labels"],
        "vaeline-schedule": kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"],
    }
    for name, policy in policies.items():
        assert policy["podSelector"]["matchLabels"].items() <= labels[name].items()
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        assert all("from" in rule for rule in policy["ingress"])  # nobody unnamed comes in
    assert policies["vaeline-schedule"]["ingress"] == []
    assert kind("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def _pod_script(tmp_path: Path, states: list[str], reason: str, existing: str = "") -> tuple[int, list[str]]:
    """Run the CronJob's script with a kubectl that answers from ``states``; returns its exit code and what it asked for."""
    (script,) = [each for each in PODS["cronjob"]["containers"][0]["command"] if "kubectl" in each]
    for number, state in enumerate(states):
        (tmp_path / f"state-{number:03d}").write_text(state)
    (tmp_path / "kubectl").write_text(f"""#!/bin/sh
echo "$*" >> {tmp_path}/asked
case "$*" in
  "get rayjobs"*) echo "{existing}" ;;
  create*) cat > {tmp_path}/created; echo rayjob.ray.io/made ;;
  *status.jobDeploymentStatus*)
    next=$(ls {tmp_path}/state-* | head -1); cat "$next"; [ $(ls {tmp_path}/state-* | wc -l) = 1 ] || rm "$next" ;;
  *status.reason*) echo {reason} ;;
esac
""")
    (tmp_path / "kubectl").chmod(0o755)
    rayjob = tmp_path / "rayjob.yaml"
    shutil.copy(KUBERNETES / "rayjob.yaml", rayjob)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MADE_BY": "night-7", "POLL_SECONDS": "0"}
    script = script.replace("/etc/vaeline/rayjob.yaml", str(rayjob))
    done = subprocess.run(["/bin/sh", "-ec", script], env=environment, timeout=30, check=False, capture_output=True)
    return done.returncode, (tmp_path / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("states", "reason", "code"),
    [
        (["", "Initializing", "Running", "Complete"], "", 0),
        (["Running", "Failed"], "AppFailed", 70),
        (["Running", "Failed"], "SubmissionFailed", 75),
        (["Failed"], "DeadlineExceeded", 75),
    ],
)
def test_pod_of_the_schedule_waits_for_its_ray_job_and_ends_as_it_does(tmp_path, states, reason, code):
    got, asked = _pod_script(tmp_path, states, reason)
    assert got == code and sum("create" in line for line in asked) == 1
    made = yaml.safe_load((tmp_path / "created").read_text())
    assert made["kind"] == "RayJob" and made["metadata"]["labels"]["vaeline.dev/made-by"] == "night-7"


def test_pod_that_replaces_another_waits_for_the_job_that_there_is(tmp_path):
    code, asked = _pod_script(tmp_path, ["Running", "Running", "Complete"], "", existing="rayjob.ray.io/first")
    assert code == 0 and not any("create" in line for line in asked)
    lost = tmp_path / "lost"
    lost.mkdir()
    code, asked = _pod_script(lost, ["Failed", "Running", "Complete"], "SubmissionFailed", existing="rayjob.ray.io/first")
    assert code == 0 and sum("create" in line for line in asked) == 1


@pytest.mark.parametrize(("codes", "ends", "calls"), [([0], 0, 1), ([65], 65, 1), ([70], 70, 1), ([78], 78, 1), ([143], 143, 1),
                                                      ([75, 75, 0], 0, 3), ([75, 70], 70, 2), ([75] * 9, 75, 4)])  # fmt: skip
def test_entrypoint_repeats_what_is_temporary_and_nothing_else(tmp_path, codes, ends, calls):
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    (tmp_path / "work").write_text(f"""#!/bin/sh
echo >> {tmp_path}/calls
code=$(head -1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes
exit "$code"
""")
    command = ["sh", str(KUBERNETES / "entrypoint.sh"), "sh", str(tmp_path / "work")]
    done = subprocess.run(command, env=os.environ | {"RETRY_SECONDS": "0"}, timeout=30, check=False)
    assert (done.returncode, len((tmp_path / "calls").read_text().splitlines())) == (ends, calls)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is no package of Debian's")
def test_schedule_is_one_command():
    done = subprocess.run(["kubectl", "kustomize", str(SCHEDULE)], capture_output=True, text=True, timeout=60, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    assert {each["kind"] for each in made} >= {"CronJob", "ConfigMap", "Role", "RoleBinding", "ServiceAccount", "NetworkPolicy"}
    assert {each["metadata"].get("namespace", "vaeline") for each in made} == {"vaeline"}
    (configured,) = [each for each in made if each["kind"] == "ConfigMap"]
    assert (
        yaml.safe_load(configured["data"]["rayjob.yaml"]) == kind("RayJob") and configured["metadata"]["name"] == "vaeline-rayjob"
    )


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_what_systemd_takes(tmp_path, unit):
    for name in UNITS:  # the program and the user of the unit do not exist here
        text = (
            (SCHEDULE / name)
            .read_text()
            .replace("/srv/vaeline/.venv/bin/python", sys.executable)
            .replace("User=vaeline", "User=root")
        )
        (tmp_path / name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run([*verify, str(tmp_path / unit)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    (tmp_path / unit).write_text((tmp_path / unit).read_text().replace("[Unit]", "[Unit]\nOnCalender=daily"))
    planted = subprocess.run([*verify, str(tmp_path / unit)], capture_output=True, text=True, timeout=60, check=False)
    assert "Unknown key" in planted.stderr


def test_timer_means_every_night():
    (when,) = re.findall(r"OnCalendar=(.*)", (SCHEDULE / "vaeline-retrain.timer").read_text())
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, text=True, timeout=60, check=True)
    assert "Normalized form: *-*-* 03:00:00" in done.stdout


def test_workflow_is_what_github_takes(tmp_path):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    path = SCHEDULE / "github-actions.yaml"
    done = subprocess.run([*check, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "broken.yaml").write_text(path.read_text().replace("runs-on:", "run-on:"))
    assert subprocess.run([*check, str(tmp_path / "broken.yaml")], capture_output=True, timeout=60, check=False).returncode != 0


def test_workflow_has_a_button_one_run_at_a_time_and_no_secret_in_a_command():
    told = yaml.safe_load((SCHEDULE / "github-actions.yaml").read_text())
    assert {"schedule", "workflow_dispatch"} == set(told[True])  # YAML 1.1 reads `on` so
    assert told["concurrency"] == {"group": "retrain", "cancel-in-progress": False} and told["permissions"] == {
        "contents": "read"
    }
    (job,) = told["jobs"].values()
    assert job["timeout-minutes"] <= 720
    for step in job["steps"]:
        assert "${{" not in step.get("run", "")  # an input would be a command
        assert "@" in step.get("uses", "@")


def test_cron_line_is_one_call_in_the_workspace():
    (line,) = [line for line in (SCHEDULE / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    minute, hour, *rest, command = line.split(None, 5)
    assert 0 <= int(minute) < 60 and 0 <= int(hour) < 24 and rest == ["*", "*", "*"]
    assert "umask 077" in command and "-m pipeline.retrain" in command and "%" not in command  # cron makes lines of %
