"""Make what a fleet's servers must hold before its first round; running it again changes nothing.

python prepare.py --buckets landing mlflow --user worker --deploy

Addresses and credentials come from the environment: AWS_*, MLFLOW_TRACKING_*, NEW_USER_PASSWORD
(the new account's), PREFECT_API_URL, PREFECT_API_AUTH_STRING.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path


def make_buckets(names: list[str]) -> None:
    """Make each bucket that is not there."""
    import boto3

    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for name in set(names) - there:
        store.create_bucket(Bucket=name)


def make_user(name: str) -> None:
    """Make an MLflow account: it may read everything, and edit what it makes itself."""
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    accounts = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    try:
        accounts.create_user(name, os.environ["NEW_USER_PASSWORD"])
    except MlflowException as problem:
        if problem.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def deploy(prefect_file: Path) -> None:
    """Make the work pool, the automation that ends lost rounds, and every deployment."""
    from flows.deployments import ensure_work_pool
    from flows.reaper import ensure_reaper

    ensure_work_pool()
    ensure_reaper()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run([*command, "--prefect-file", str(prefect_file)], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and do what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--buckets", nargs="*", default=[], help="buckets to make")
    parser.add_argument("--user", help="an MLflow account to make")
    parser.add_argument("--deploy", action="store_true", help="deploy every flow")
    parser.add_argument(
        "--prefect-file", type=Path, default=Path(__file__).with_name("prefect.yaml")
    )
    asked = parser.parse_args(arguments)
    if asked.buckets:
        make_buckets(asked.buckets)
    if asked.user:
        make_user(asked.user)
    if asked.deploy:
        deploy(asked.prefect_file)


if __name__ == "__main__":
    main()
