"""The files in `deploy/` fit the service: its settings, its times, its names."""

import re
from pathlib import Path
from typing import Any

import yaml

from app.api import admin, health
from app.http.server import END_SECONDS
from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


def haproxy() -> str:
    """Its configuration without comments."""
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    return re.sub(r"(^|\s)#.*", "", text)


def seconds(name: str) -> float:
    [(number, unit)] = re.findall(rf"^\s*{name}\s+(\d+)(m?s)\b", haproxy(), re.MULTILINE)
    return float(number) / (1000 if unit == "ms" else 1)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_the_balancer_finds_the_replicas_of_compose() -> None:
    replica, balancer = services()["replica"], services()["balancer"]
    [(name, port)] = re.findall(r"server-template \S+ \S+ (\w+):(\d+)", haproxy())
    assert services()[name] is not None
    assert name in balancer["depends_on"]
    assert "ports" not in replica, "a port of the machine can be taken by one of them only"
    [bind] = re.findall(r"bind :(\d+)", haproxy())
    [published] = balancer["ports"]
    assert published.startswith("127.0.0.1:")
    assert published.endswith(f":{bind}")
    assert int(port) == DEFAULTS["port"]
    # Two releases of the balancer are two tags.
    assert re.fullmatch(r"haproxy:\d+\.\d+.*", balancer["image"])
    assert replica["profiles"] == balancer["profiles"]
    # What it is otherwise is what the single one is.
    single = services()["penwright"]
    for key in ("build", "image", "volumes", "read_only", "cap_drop"):
        assert replica[key] == single[key]
    own = set(replica["environment"].items()) - set(single["environment"].items())
    assert set(single["environment"].items()) <= set(replica["environment"].items())
    # Longer than from one check of the balancer's to the next.
    [(name, delay)] = own
    assert name == "PENWRIGHT_DRAIN_DELAY"
    [interval] = re.findall(r"check inter (\d+)s", haproxy())
    assert int(delay) > int(interval)


def test_the_balancer_s_times_fit_the_service_s() -> None:
    for name in ("timeout client", "timeout server"):
        assert seconds(name) > DEFAULTS["request_timeout"]
    assert seconds("timeout http-request") == DEFAULTS["body_timeout"]
    ends = DEFAULTS["drain_timeout"] + END_SECONDS
    for name in ("replica", "balancer"):
        assert float(services()[name]["stop_grace_period"].removesuffix("s")) > ends
    assert DEFAULTS["drain_timeout"] < seconds("hard-stop-after") < 40


def test_the_balancer_keeps_to_itself_what_concerns_one_replica() -> None:
    [rule] = re.findall(r"http-request deny .*", haproxy())
    paths = {route.path for route in [*admin.router.routes, *health.router.routes]}
    hidden = {path for path in paths if path == "/metrics" or path.startswith("/admin")}
    assert len(hidden) >= 2
    assert "path /metrics" in rule
    assert "path_beg /admin" in rule
    [probe] = re.findall(r"httpchk GET (\S+)", haproxy())
    assert probe in paths


def test_nothing_is_sent_again_that_may_have_been_begun() -> None:
    [retried] = re.findall(r"retry-on (.*)", haproxy())
    assert set(retried.split()) == {"conn-failure", "503"}


def test_ray_is_given_settings_that_there_are() -> None:
    tree = yaml.safe_load((ROOT / "deploy" / "ray.yaml").read_text())
    [application] = tree["applications"]
    given = application["runtime_env"]["env_vars"]
    for name, value in given.items():
        assert name.removeprefix("PENWRIGHT_").lower() in Settings.model_fields
        assert isinstance(value, str), "Ray takes texts only"
    assert tree["http_options"]["request_timeout_s"] > DEFAULTS["request_timeout"]
    # Without keys: then for this machine alone.
    if given.get("PENWRIGHT_ALLOW_ANONYMOUS") == "1":
        assert tree["http_options"]["host"] == "127.0.0.1"
    module, name = application["import_path"].split(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    assert f"\ndef {name}(" in source
