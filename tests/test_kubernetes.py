"""The manifests are what Kubernetes accepts, and fit each other and the service."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate
from pydantic_settings import BaseSettings

from app.engine.service import PROBE_SECONDS
from app.http.server import END_SECONDS
from app.ops.metrics import Metrics
from app.settings import Settings

DIRECTORY = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")
LOOSE = {"kustomization.yaml", "prometheus-adapter.yaml"}
"""Not resources of Kubernetes."""
RESOURCES = sorted(path for path in DIRECTORY.glob("*.yaml") if path.name not in LOOSE)

Tree = dict[str, Any]


def read(name: str) -> Tree:
    tree: Tree = yaml.safe_load((DIRECTORY / name).read_text())
    return tree


def merged(base: Any, patch: Any) -> Any:
    """`patch` over `base`, as `kubectl apply -k` does it: lists by the names of their members."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {k: merged(base[k], v) if k in base else v for k, v in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        found = {member["name"]: member for member in base}
        for member in patch:
            name = member["name"]
            found[name] = merged(found[name], member) if name in found else member
        return list(found.values())
    return patch


def own_models() -> Tree:
    tree: Tree = merged(read("deployment.yaml"), read("own-models/deployment.yaml"))
    return tree


def pod() -> Tree:
    spec: Tree = read("deployment.yaml")["spec"]["template"]["spec"]
    return spec


def container() -> Tree:
    [found] = pod()["containers"]
    return dict(found)


def settings() -> dict[str, str]:
    lines = (DIRECTORY / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.name)
def test_each_file_satisfies_the_schema(path: Path, version: str) -> None:
    validate(yaml.safe_load(path.read_text()), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_so_does_the_deployment_with_models_of_its_own(version: str) -> None:
    tree = own_models()
    validate(tree, version, strict=True)
    spec = tree["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert container["readinessProbe"], "the patch has not taken the place of the container"
    assert {mount["name"] for mount in container["volumeMounts"]} == {"keys", "tmp", "models"}


def test_the_schemas_are_strict() -> None:
    tree = read("deployment.yaml")
    tree["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(ValidationError):
        validate(tree, VERSIONS[-1], strict=True)


def test_every_file_is_used() -> None:
    kustomization = read("kustomization.yaml")
    files = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["envs"]}
    others = {"keys.example.yaml", *LOOSE}
    assert files | others == {path.name for path in DIRECTORY.iterdir() if path.is_file()}
    images = {image["name"] for image in kustomization["images"]}
    assert container()["image"] in images
    own = read("own-models/kustomization.yaml")
    [init] = own_models()["spec"]["template"]["spec"]["initContainers"]
    assert init["image"] in {image["name"] for image in own["images"]}


def test_selectors_find_the_pods() -> None:
    deployment = read("deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        read("service.yaml")["spec"]["selector"],
        read("pdb.yaml")["spec"]["selector"]["matchLabels"],
        read("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in pod()["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    target = read("hpa.yaml")["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], deployment["kind"])
    assert target["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "an apply would undo what the autoscaler did"


def test_ports_and_volumes_are_there() -> None:
    [port] = container()["ports"]
    probes = [container()[name]["httpGet"]["port"] for name in container() if "Probe" in name]
    assert len(probes) == 3
    service = [port["targetPort"] for port in read("service.yaml")["spec"]["ports"]]
    [rule] = read("networkpolicy.yaml")["spec"]["ingress"]
    policy = [port["port"] for port in rule["ports"]]
    assert {*probes, *service, *policy} == {port["name"]}
    # The image's PENWRIGHT_PORT, which only the settings could change.
    annotations = read("deployment.yaml")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"]) == "8000"
    assert "PENWRIGHT_PORT" not in settings()
    assert not pod()["enableServiceLinks"], "would set PENWRIGHT_PORT to an address"

    spec = own_models()["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    for each in [*spec["containers"], *spec["initContainers"]]:
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
    [secret] = [v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v]
    example = read("keys.example.yaml")
    assert secret == example["metadata"]["name"]
    [mount] = [m for m in container()["volumeMounts"] if m["name"] == "keys"]
    [file] = example["stringData"]
    assert settings()["PENWRIGHT_API_KEYS"] == f"{mount['mountPath']}/{file}"
    assert pod()["serviceAccountName"] == read("serviceaccount.yaml")["metadata"]["name"]
    [source] = container()["envFrom"]
    generated = read("kustomization.yaml")["configMapGenerator"][0]["name"]
    assert source["configMapRef"]["name"] == generated


def test_settings_are_settings() -> None:
    class Checked(Settings):
        """As the pod reads them, with nothing else in the environment."""

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
        ) -> tuple[Any, ...]:
            return (init_settings,)

    given = {name.removeprefix("PENWRIGHT_").lower(): v for name, v in settings().items()}
    given |= {  # what is there only in the pod
        "api_keys": str(DIRECTORY / "keys.example.yaml"),
        "host": "0.0.0.0",
    }
    for env in own_models()["spec"]["template"]["spec"]["containers"][0]["env"]:
        name = env["name"].removeprefix("PENWRIGHT_").lower()
        assert name in Settings.model_fields
    read_back = Checked(**given)
    assert read_back.open_metrics
    assert read_back.drain_timeout >= read_back.request_timeout


def test_there_is_time_to_drain() -> None:
    command = container()["lifecycle"]["preStop"]["exec"]["command"]
    waits = float(command[command.index("sleep") + 1])
    drains = float(settings()["PENWRIGHT_DRAIN_TIMEOUT"])
    assert pod()["terminationGracePeriodSeconds"] > waits + drains + END_SECONDS


def test_probes_wait_long_enough() -> None:
    ready, alive = container()["readinessProbe"], container()["livenessProbe"]
    assert ready["httpGet"]["path"] == container()["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert ready["timeoutSeconds"] > PROBE_SECONDS
    # What /readyz notices must not end a pod: a busy one lives, and a dead engine ends it itself.
    assert alive["httpGet"]["path"] == "/healthz"
    stuck = Settings.model_fields["stuck_timeout"].default
    assert alive["periodSeconds"] * alive["failureThreshold"] > stuck


def test_nothing_is_allowed_that_is_not_needed() -> None:
    spec = own_models()["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for each in [*spec["containers"], *spec["initContainers"]]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert each["resources"]["limits"]["cpu"]
        assert each["resources"]["limits"]["memory"]
    assert read("networkpolicy.yaml")["spec"]["egress"] == []


def test_the_autoscaler_reads_figures_that_there_are() -> None:
    scraped = Metrics().render().decode()
    [rule] = read("prometheus-adapter.yaml")["rules"]["custom"]
    [selected] = re.findall(r'__name__=~"([^"]*)"', rule["seriesQuery"])
    metrics = [metric["pods"]["metric"]["name"] for metric in read("hpa.yaml")["spec"]["metrics"]]
    assert "penwright_requests_waiting" in metrics
    for name in metrics:
        assert re.search(rf"^{name} ", scraped, re.MULTILINE), f"/metrics has no {name}"
        assert re.fullmatch(selected, name)
        assert re.fullmatch(rule["name"]["matches"], name)


def test_the_autoscaler_s_targets_follow_from_the_slots() -> None:
    slots = int(settings()["PENWRIGHT_SLOTS"])
    targets = {
        metric["pods"]["metric"]["name"]: int(metric["pods"]["target"]["averageValue"])
        for metric in read("hpa.yaml")["spec"]["metrics"]
    }
    assert targets == {
        "penwright_requests_waiting": slots // 4,
        "penwright_requests_running": slots * 3 // 4,
    }
