"""What can be known of the deploy set without an engine: it fits schemas, what it names exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
BIN = Path(sys.executable).parent
# Of images others make.
THEIRS = {"postgres", "objects", "proxy"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command line of ours in the set, with where it stands."""
    for name, service in COMPOSE["services"].items():
        if name not in THEIRS:
            yield f"compose {name}", [str(word) for word in service["command"]]
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        [line] = re.findall(r"^ExecStart=(.+)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
        yield unit.name, [line.split()[0].rpartition("/")[2], *line.split()[1:]]
    for name in ("worker", "machines"):
        for document in documents(DEPLOY / "kubernetes" / f"{name}.yaml"):
            if document["kind"] in ("Deployment", "StatefulSet"):
                [container] = document["spec"]["template"]["spec"]["containers"]
                script = re.findall(r"exec (bhpeft .+)", container["args"][-1])
                lines = [line.replace('"', "").split() for line in script] or [container["args"]]
                yield from ((f"kubernetes {name}", words) for words in lines)


def test_the_compose_file_fits_the_compose_specification() -> None:
    import jsonschema

    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validate(COMPOSE, schema)


def test_the_compose_file_names_only_what_it_declares_and_what_is_there() -> None:
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys(), name
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        assert set(service.get("depends_on", {})) <= COMPOSE["services"].keys(), name
        named = {v for k, v in service.get("environment", {}).items() if k.endswith("_FILE")}
        given = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        assert named <= given, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                made = source in ("./tls",)
                assert made or (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], name


def test_only_the_proxy_is_reachable_from_outside() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert [n for n, s in services.items() if "outside" in s["networks"]] == ["proxy"]


def test_every_image_is_pinned_and_ours_run_without_rights() -> None:
    for name, service in COMPOSE["services"].items():
        assert re.search(r":[\w.-]*\d|:-bhpeft:", service["image"]), name
        assert "latest" not in service["image"], name
        if name not in THEIRS:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


@pytest.mark.parametrize(
    ("where", "words"), list(commands()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_command_and_option_exists(where: str, words: list[str]) -> None:
    """A flag that was renamed would be found by the next person on call, at night."""
    if words[0] == "backup.sh":
        assert os.access(DEPLOY / words[0], os.X_OK)
        return
    if words[0] == "python":
        program, words = [sys.executable, str(DEPLOY / Path(words[1]).name)], words[1:]
    else:
        program = [str(BIN / words[0])]
    subcommands: list[str] = []
    for word in words[1:]:
        if word.startswith("-"):
            break
        subcommands.append(word)
    shown = help_of(*program, *subcommands)
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert option in shown, f"{where}: {option}"


@cache
def help_of(*command: str) -> str:
    wide = os.environ | {"COLUMNS": "250", "TERM": "dumb"}
    asked = [*command, "--help"]
    return subprocess.run(asked, capture_output=True, text=True, env=wide, check=True).stdout


def test_every_variable_of_prefect_and_mlflow_is_one_they_read() -> None:
    """A misspelt variable is silently no setting at all."""
    import mlflow.environment_variables as known_to_mlflow

    server = Path(known_to_mlflow.__file__).parent / "server" / "auth" / "__init__.py"
    source = server.read_text(encoding="utf-8")
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in DEPLOY.rglob("*")
        if path.is_file() and path.suffix in {".yaml", ".service", ".json", ""}
    )
    for name in set(re.findall(r"\bMLFLOW_[A-Z0-9_]+", text)) - {"MLFLOW_HOST"}:
        name = name.removesuffix("_FILE")
        ours = name in {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"}
        assert ours or hasattr(known_to_mlflow, name) or name in source, name
    for name in set(re.findall(r"\bPREFECT_[A-Z0-9_]+", text)) - {"PREFECT_HOST"}:
        name = name.removesuffix("_FILE")
        assert _read_by_prefect(name), name


def _read_by_prefect(name: str) -> bool:
    """Say whether Prefect has a setting of this name, by whichever of its names."""
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    return name in _get_settings_fields(Settings)


def test_the_image_is_pinned_multi_stage_without_root_and_without_secrets() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages = [line for line in lines if line.startswith("FROM ")]
    assert len(stages) == 2
    assert all("${PYTHON}" in stage for stage in stages)
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-", text, re.MULTILINE)
    assert "--constraint constraints.txt" in text
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    assert not re.search(r"(?i)(password|secret|token|key)\s*=", text)
    assert "ADD " not in text
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in [w for w in line.split()[1:-1] if not w.startswith("--")]:
                assert (ROOT / source).exists(), source
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in kept
    assert "deploy/secrets" in kept


def test_the_manifests_fit_kubernetes_own_schemas() -> None:
    import kubernetes_validate

    manifests = documents(DEPLOY / "kubernetes" / "worker.yaml")
    manifests += documents(DEPLOY / "kubernetes" / "machines.yaml")
    manifests += documents(DEPLOY / "kubernetes" / "secrets.example.yaml")
    manifests.append(job_of_a_round())
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_the_charts_values_say_what_a_container_takes() -> None:
    """The chart itself is Prefect's; what it hands on to Kubernetes has to fit there."""
    import kubernetes_validate

    [values] = documents(DEPLOY / "kubernetes" / "values.yaml")
    server = values["server"]
    container = {"name": "server", "image": "prefect", "env": server["env"],
                 "resources": server["resources"]}  # fmt: skip
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"},
           "spec": {"containers": [container]}}  # fmt: skip
    kubernetes_validate.validate(pod, "1.31", strict=True)
    secret = documents(DEPLOY / "kubernetes" / "secrets.example.yaml")[0]
    asked = [one["valueFrom"]["secretKeyRef"] for one in server["env"] if "valueFrom" in one]
    assert [one["name"] for one in asked] == [secret["metadata"]["name"]]
    assert {one["key"] for one in asked} <= secret["stringData"].keys()


def test_a_rounds_threads_are_counted_by_a_limit_that_is_what_it_asks_for() -> None:
    """A request alone is no quota: torch would see every core of the node."""
    [job] = job_of_a_round()["spec"]["template"]["spec"]["containers"]
    _, pods, _ = documents(DEPLOY / "kubernetes" / "machines.yaml")
    [machine] = pods["spec"]["template"]["spec"]["containers"]
    for container in (job, machine):
        asked = container["resources"]
        assert asked["limits"]["cpu"] == asked["requests"]["cpu"], container["name"]


def test_machines_that_train_together_are_met_where_and_by_whom_they_may_be() -> None:
    """At pod 0 of the set, on the port that is opened, by as many as are told, by nobody else."""
    service, pods, policy = documents(DEPLOY / "kubernetes" / "machines.yaml")
    [container] = pods["spec"]["template"]["spec"]["containers"]
    address = {one["name"]: one.get("value") for one in container["env"]}["BHPEFT_RENDEZVOUS"]
    name, port = pods["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert address == f"{name}-0.{service['metadata']['name']}:{port}"
    assert pods["spec"]["serviceName"] == service["metadata"]["name"]
    assert f"--machines {pods['spec']['replicas']} " in container["args"][-1]
    mine = pods["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == mine
    [rule] = policy["spec"]["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [mine]


def job_of_a_round() -> dict[str, Any]:
    """Fill the pool's template as Prefect's worker does, with every variable's default."""
    template = json.loads((DEPLOY / "kubernetes" / "pool.json").read_text(encoding="utf-8"))
    given = {"name": "round", "command": ["prefect", "flow-run", "execute"], "labels": {},
             "env": [{"name": "A", "value": "b"}]}  # fmt: skip
    known = {
        n: p.get("default", given.get(n)) for n, p in template["variables"]["properties"].items()
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        name = re.fullmatch(r"\{\{ (\w+) \}\}", value) if isinstance(value, str) else None
        if name:
            return known[name[1]]
        return (
            re.sub(r"\{\{ (\w+) \}\}", lambda m: str(known[m[1]]), value)
            if isinstance(value, str)
            else value
        )

    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(known), "a variable that no field refers to has no effect"
    manifest: dict[str, Any] = filled(template["job_configuration"]["job_manifest"])
    return manifest


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With this environment's programs in place of /opt/bhpeft, which need not exist here."""
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/bhpeft/bin", str(BIN))
        text = text.replace("/opt/bhpeft/share", str(DEPLOY))
        (tmp_path / unit.name.replace("@.", "@default.")).write_text(text, encoding="utf-8")
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "bhpeft" in line]
    assert ours == [], done.stderr


NGINX = os.environ.get("BHPEFT_NGINX") or shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


@pytest.mark.skipif(not NGINX, reason="no nginx here; name one with $BHPEFT_NGINX")
def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test",
         "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True,
    )  # fmt: skip
    text = (DEPLOY / "nginx" / "bhpeft.conf").read_text(encoding="utf-8")
    (tmp_path / "site.conf").write_text(text.replace("/etc/nginx/tls", str(tmp_path)))
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    http = f"http {{ access_log off; {paths} include {tmp_path}/site.conf; }}"
    whole = f"pid {tmp_path}/pid; error_log stderr; events {{}}\n{http}\n"
    (tmp_path / "nginx.conf").write_text(whole)
    done = subprocess.run(
        [str(NGINX), "-t", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_secret_is_in_the_set() -> None:
    """Examples say CHANGE-ME; everything else names a file."""
    wrong = []
    for path in DEPLOY.rglob("*"):
        if (
            not path.is_file()
            or path.suffix in {".py", ".sh", ".sql", ".md"}
            or "secrets" in path.parts
        ):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.search(r"(?i)(password|secret_access_key|auth_string)\s*[:=]\s*(\S+)", line)
            harmless = line.lstrip().startswith(("#", "-")) or "CHANGE-ME" in line
            if found and not harmless and "/secrets/" not in line:
                wrong.append(f"{path.name}: {line.strip()}")
    assert wrong == []
