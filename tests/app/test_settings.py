"""Settings: from flags and from the environment, with errors that name them."""

from pathlib import Path

import pytest

from app.cli import parser
from app.engine.device import default_threads
from app.settings import SECRETS, Settings, load_settings
from model.errors import UsageError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PENWRIGHT_"):
            monkeypatch.delenv(name)


def test_every_setting_is_a_flag_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {action.dest for action in parser()._actions} - {"help"}
    assert flags == set(Settings.model_fields) - SECRETS
    monkeypatch.setenv("PENWRIGHT_MAX_WAITING", "77")
    monkeypatch.setenv("PENWRIGHT_LOG_FORMAT", "text")
    monkeypatch.setenv("PENWRIGHT_REQUEST_TIMEOUT", "")  # as compose files pass unset ones
    settings = load_settings()
    assert settings.max_waiting == 77
    assert settings.log_format == "text"
    assert settings.request_timeout == 120
    flags_given = vars(parser().parse_args(["--max-waiting", "88"]))
    assert load_settings(**flags_given).max_waiting == 88


def test_a_flag_that_names_models_displaces_the_variables_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENWRIGHT_MODELS", str(tmp_path))
    settings = load_settings(base=str(tmp_path))
    assert settings.base == tmp_path
    assert settings.models is None
    monkeypatch.delenv("PENWRIGHT_MODELS")
    monkeypatch.setenv("PENWRIGHT_BASE", str(tmp_path))
    monkeypatch.setenv("PENWRIGHT_CLASSIFY", str(tmp_path))
    settings = load_settings(models=str(tmp_path))
    assert settings.base is None
    assert settings.classify is None


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("port", "70000", "less than or equal to 65535"),
        ("slots", "0", "greater than or equal to 1"),
        ("slots", "many", "valid integer"),
        ("request_timeout", "nan", "finite"),
        ("dtype", "int8", "'auto', 'fp32' or 'bf16'"),
        ("step_tokens", "8", "--slots (32)"),
        ("max_batch", "500", "--max-waiting (256)"),
        ("root_path", "models", "must be a path like /models"),
        ("root_path", "https://evil.example", "must be a path like /models"),
    ],
)
def test_a_wrong_value_names_its_flag_and_what_is_allowed(
    name: str, value: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PENWRIGHT_{name.upper()}", value)
    with pytest.raises(UsageError) as caught:
        load_settings()
    message = str(caught.value)
    assert f"--{name.replace('_', '-')}" in message
    assert value in message
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_compute_in_fp32(quantize: str) -> None:
    with pytest.raises(UsageError, match=f"--quantize {quantize} computes in fp32"):
        load_settings(quantize=quantize, dtype="bf16")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "rubbish"}, None),
        ({}, None),
    ],
)
def test_threads_follow_the_quota(
    files: dict[str, str], quota: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert default_threads(tmp_path) == (8 if quota is None else quota)
