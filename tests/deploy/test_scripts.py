"""The deploy set's scripts, run for real: secrets, roles, buckets, backup and restore."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhpeft.registry import Registry
from flows.processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False,
        env=os.environ | (env or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "secrets"
    done = run(DEPLOY / "make-secrets.sh", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_secret_of_the_compose_file_is_made_once_and_none_is_shown(secrets: Path) -> None:
    compose = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    wanted = {path.name for path in secrets.iterdir()}
    for name in wanted - {"aws_producer"}:
        assert f"./secrets/{name}" in compose
    assert len({path.read_text() for path in secrets.iterdir()}) == len(wanted)
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    done = run(DEPLOY / "make-secrets.sh", secrets)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert not [name for name, text in before.items() if text in done.stdout + done.stderr]
    assert secrets.stat().st_mode & 0o077 == 0
    identities = json.loads(before["s3.json"])["identities"]
    rights = {one["name"]: one["actions"] for one in identities}
    assert not [action for action in rights["worker"] if "Write" in action or "Admin" in action]


def test_a_command_gets_its_secrets_from_files_and_a_missing_one_ends_it(secrets: Path) -> None:
    program = ["sh", "-c", 'printf %s "$PGPASSWORD|$AWS_SHARED_CREDENTIALS"']
    given = {
        "SECRETS_FOLDER": str(secrets),
        "SSL_CERT_FILE": "/somebody/else",
        "PGPASSWORD_FILE": str(secrets / "mlflow_db_password"),
        "AWS_SHARED_CREDENTIALS_FILE": str(secrets / "aws_worker"),
    }
    done = run(DEPLOY / "with-secrets.sh", *program, env=given)
    assert done.stdout == (secrets / "mlflow_db_password").read_text() + "|"
    lost = run(
        DEPLOY / "with-secrets.sh", *program, env=given | {"PGPASSWORD_FILE": f"{secrets}/x"}
    )
    assert lost.returncode == 78
    assert f"cannot read {secrets}/x, named by PGPASSWORD_FILE" in lost.stderr


def test_buckets_are_made_once(bucket: str) -> None:
    prepare = runpy.run_path(str(DEPLOY / "prepare.py"))["main"]
    import boto3

    name = f"{bucket}-landing"
    for _ in range(2):
        prepare(["--buckets", bucket, name])
    assert name in {b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]}


POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Iterator[dict[str, str]]:
    """Run a PostgreSQL of the test's own, and the set's roles in it."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL here")
    folder, port = Path("/tmp") / f"bhpeft-postgres-{os.getpid()}", free_port()
    folder.mkdir(mode=0o700)
    # PostgreSQL refuses to run as root.
    nobody = {"user": "nobody"} if os.geteuid() == 0 else {}
    if nobody:
        shutil.chown(folder, "nobody")
    programs = POSTGRES.parent
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    (folder / "super").write_text("super")
    (folder / "super").chmod(0o644)
    subprocess.run(
        [str(POSTGRES), "-D", str(folder / "data"), "-U", "postgres", "--no-sync",
         "--auth=scram-sha-256", f"--pwfile={folder / 'super'}"], check=True, **quiet, **nobody,
    )  # fmt: skip
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
    server = subprocess.Popen([*command, "-k", str(folder), "-h", "127.0.0.1"], **quiet, **nobody)
    there = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}
    there |= {"PGPASSWORD": "super", "PGDATABASE": "postgres", "PROGRAMS": str(programs)}
    try:
        for _ in range(100):
            if run(programs / "pg_isready", env=there).returncode == 0:
                break
            time.sleep(0.2)
        roles = [programs / "psql", "-q", "-v", f"secrets={secrets}"]
        done = run(*roles, "-f", DEPLOY / "postgres" / "roles.sql", env=there)
        assert done.returncode == 0, done.stderr
        yield there
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_each_role_reaches_its_own_database_and_nothing_else(
    postgres: dict[str, str], secrets: Path, tmp_path: Path
) -> None:
    """What breaks into MLflow's server must not read Prefect's runs, and the other way round."""
    programs = Path(postgres["PROGRAMS"])

    def ask(role: str, database: str, question: str) -> subprocess.CompletedProcess[str]:
        password = (secrets / f"{role}_db_password").read_text()
        who = postgres | {"PGUSER": role, "PGPASSWORD": password, "PGDATABASE": database}
        return run(programs / "psql", "-qAt", "-c", question, env=who)

    for role, own in (("mlflow", "mlflow"), ("mlflow", "mlflow_auth"), ("prefect", "prefect")):
        done = ask(role, own, "create table mine (x int); insert into mine values (7)")
        assert done.returncode == 0, done.stderr
    for role, other in (("mlflow", "prefect"), ("prefect", "mlflow"), ("prefect", "postgres")):
        assert "permission denied" in ask(role, other, "select 1").stderr
    for role in ("mlflow", "prefect", "backup"):
        refused = ask(role, {"backup": "mlflow"}.get(role, role), "create database more")
        assert "permission denied" in refused.stderr
    assert ask("backup", "prefect", "select x from mine").stdout == "7\n"
    assert "permission denied" in ask("backup", "prefect", "delete from mine").stderr
    assert ask("prefect", "prefect", "create extension if not exists pg_trgm").returncode == 0

    password = (secrets / "backup_db_password").read_text()
    who = postgres | {"PGUSER": "backup", "PGPASSWORD": password}
    dump = tmp_path / "mlflow.dump"
    done = run(programs / "pg_dump", "-Fc", "-f", dump, "mlflow", env=who)
    assert done.returncode == 0, done.stderr
    ask("mlflow", "mlflow", "drop table mine")
    back = [programs / "pg_restore", "--clean", "--if-exists", "-d", "mlflow", dump]
    assert run(*back, env=postgres).returncode == 0
    assert ask("mlflow", "mlflow", "select x from mine").stdout == "7\n"


def test_a_restored_home_has_its_champion_again(tmp_path: Path) -> None:
    """Backed up while the database is open; restored to where it lay, and every file verified."""
    home, backups = tmp_path / "home", tmp_path / "backups"
    home.mkdir()
    champion = with_champion(home)
    done = run(DEPLOY / "backup.sh", home, backups, env=with_our_python())
    assert done.returncode == 0, done.stderr
    backup = Path(done.stdout.strip())
    shutil.rmtree(home)
    done = run(DEPLOY / "restore.sh", backup, home)
    assert done.returncode == 0, done.stderr
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}")
    found = registry.champion("reviews")
    assert found is not None
    assert (found.number, found.batches) == champion
    assert registry.download(found, tmp_path / "state").joinpath("spec.json").exists()
    again = run(DEPLOY / "restore.sh", backup, home)
    assert again.returncode == 73
    assert "is not empty" in again.stderr


def test_a_backup_that_lost_a_bit_is_not_restored(tmp_path: Path) -> None:
    home, backups = tmp_path / "home", tmp_path / "backups"
    (home / "streams").mkdir(parents=True)
    (home / "streams" / "reviews.toml").write_text("name = 'reviews'")
    backup = Path(run(DEPLOY / "backup.sh", home, backups).stdout.strip())
    (backup / "streams" / "reviews.toml").write_text("name = 'reviewz'")
    done = run(DEPLOY / "restore.sh", backup, tmp_path / "other")
    assert (done.returncode, (tmp_path / "other").exists()) == (65, False)


def with_our_python() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def with_champion(home: Path) -> tuple[int, tuple[str, ...]]:
    """Register a tiny state in the home's own database and promote it."""
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}")
    state = home / "desk"
    state.mkdir()
    (state / "spec.json").write_text("{}")
    with registry.round_run("reviews", "b1", digest="d" * 64, parent=None) as page:
        version = registry.register(page, state, decision="promoted")
    registry.promote("reviews", version.number, expected_parent=None, by="a test", reason="good")
    return version.number, version.batches
