"""Settings: safe by default, each from its variable, and no door left open."""

import os

import pytest
from pydantic import ValidationError

from app.domain.hosts import AllowedHosts, is_origin_allowed, is_same_site
from app.server.listening import local_url
from app.settings import TRAINERS, Settings, find_misspelt

TOKEN = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LLM_TRAIN_")]:
        monkeypatch.delenv(name)


def test_the_defaults_serve_this_machine_only() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.api_token) == ("127.0.0.1", 8000, None)
    assert settings.database_url == "sqlite:///app.db" and str(settings.data_dir) == "data"
    assert settings.hosts == {"127.0.0.1", "localhost", "[::1]"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert Settings(host=host).loopback


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "fe80::1", "gpu.example.com", "0", "127.1",
     "localhost.example.com", "::ffff:0.0.0.0", "*"],
)  # fmt: skip
def test_any_other_address_needs_one(host: str) -> None:
    with pytest.raises(ValidationError, match="LLM_TRAIN_API_TOKEN"):
        Settings(host=host)
    assert Settings(host=host, api_token=TOKEN).host == host


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with some spaces", "pässwörter-lang", "a\nb" * 9]
)
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(ValidationError):
        Settings(api_token=token)


def test_each_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_TRAIN_ALLOWED_HOSTS", " GPU.example.com, [FD00::1]:8443 ,,")
    monkeypatch.setenv("LLM_TRAIN_MAX_LOCAL_RUNS", "7")
    settings = Settings()
    assert settings.max_local_runs == 7
    assert settings.hosts > {"gpu.example.com", "[fd00::1]:8443"}


def test_gpus_are_listed_with_spaces_or_without(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, types in (("A100,A100", ["A100"] * 2), (" A100, H100 ,", ["A100", "H100"]), ("", [])):
        monkeypatch.setenv("LLM_TRAIN_GPUS", text)
        assert Settings().gpus == types


def test_settings_and_what_a_trainer_gets_are_no_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*TRAINERS, *(each.upper() for each in Settings.model_fields)]:
        monkeypatch.setenv(f"LLM_TRAIN_{name}", "x")
    monkeypatch.setenv("llm_train_port", "1")  # is taken, and so is no mistake
    assert find_misspelt() is None
    monkeypatch.setenv("LLM_TRAIN_RUN_IDS", "x")
    assert "LLM_TRAIN_RUN_IDS" in (find_misspelt() or "")


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "a/b",
        "http://a",
        "a:b",
        "fd00::1",
        "a b",
        "a..",
        "@",
        "*.",
        "*.*.a",
        "a.*",
        "10.0.0.0/33",
        "10.0.0/8",
    ],
)
def test_a_name_that_is_no_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LLM_TRAIN_ALLOWED_HOSTS", name)
    with pytest.raises(ValidationError, match="is not a name"):
        Settings()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("fd00::5", "http://[fd00::5]:1"),
        ("gpu.lan", "http://gpu.lan:1"),
    ],
)
def test_trainers_of_this_machine_always_get_in(host: str, address: str) -> None:
    settings = Settings(host=host, api_token=TOKEN, allowed_hosts=["far.example.com"])
    assert local_url(host, 1) == address
    assert AllowedHosts(settings.hosts).allows(address.removeprefix("http://"))


def test_another_port_of_this_machine_is_another_site() -> None:
    assert is_same_site("http://localhost:8000", "localhost:8000")
    assert not is_same_site("http://localhost:8888", "localhost:8000")
    settings = Settings(allowed_hosts=["dev.example", "*.example", "10.0.0.0/8"])
    known = AllowedHosts(settings.origins)
    assert is_origin_allowed("https://dev.example:5173", known)
    # A pattern names hosts for clients and probes, and no pages.
    for origin in ("http://localhost:8888", "http://other.example", "http://10.0.0.1"):
        assert not is_origin_allowed(origin, known)


@pytest.mark.parametrize("path", ["", "/", "/training", "/a/b-c_d.e/", "/v1"])
def test_a_path_under_which_a_proxy_serves(path: str) -> None:
    assert Settings(root_path=path).root_path == path.rstrip("/")


@pytest.mark.parametrize(
    "path", ["training", "//evil.example", "/a//b", "http://a", "/a b", "/%2f"]
)
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a path like /training"):
        Settings(root_path=path)
