"""The door to S3-compatible stores: address, credentials, and one conditional write.

Credentials come from the environment or the usual files (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`,
`~/.aws/credentials`, a role), never from the stream file, so they cannot end up in a log, a tag or
a repository. `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names a store that is not Amazon's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from bhpeft.errors import LandingError, LandingUnreachable

SCHEME = "s3://"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 5.0, 60.0, 4

# What a store says when it cannot write on condition that nothing is there yet.
_NO_CONDITION = {"NotImplemented", "InvalidArgument", "MethodNotAllowed"}


def path_of(address: str) -> str:
    """Return `bucket/prefix` of an address `s3://bucket/prefix`.

    Raises:
        LandingError: it has no bucket, or something that belongs into the environment.
    """
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc:
        raise LandingError(
            "The address of a bucket holds more than its name",
            found="a user, a password, a query or a fragment",
            expected="s3://bucket/prefix",
            remedy="Endpoint, region and credentials are read from the environment or from files: "
            "AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE.",
        )
    path = f"{parts.netloc}{parts.path}".strip("/")
    if parts.scheme != "s3" or not parts.netloc or ".." in path.split("/"):
        raise LandingError("This is no bucket", found=address, expected="s3://bucket/prefix")
    return path


def endpoint() -> str:
    """Return the store's own address, or nothing for Amazon's."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def region() -> str:
    """Return the region; stores that have none take any."""
    return next((os.environ[name] for name in REGIONS if os.environ.get(name)), "us-east-1")


def filesystem() -> Any:
    """Return `pyarrow.fs.S3FileSystem` as the environment says, made once."""
    return _filesystem(endpoint(), region(), os.environ.get("AWS_ACCESS_KEY_ID", ""))


def table_options() -> dict[str, str]:
    """Return the same settings in deltalake's words; it finds credentials as everybody does."""
    options = {"AWS_REGION": region()}
    if endpoint():
        options["AWS_ENDPOINT_URL"] = endpoint()
    if endpoint().startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def put_if_absent(path: str, content: bytes) -> bool:
    """Write an object if there is none of that name; say whether it was written.

    A store that has no conditional write is asked first and then written to: two writers in the
    same moment can then overwrite each other, which only the store could prevent.

    Raises:
        LandingError: boto3 is not installed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        _client().put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as problem:
        code = problem.response["Error"].get("Code", "")
        if code in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
            return False
        if code not in _NO_CONDITION:
            raise LandingUnreachable(
                f"The store did not take {SCHEME}{path}", found=code, remedy="Try again."
            ) from problem
        return _put_after_a_look(path, content)
    except BotoCoreError as problem:
        raise LandingUnreachable(
            f"The store did not take {SCHEME}{path}",
            found=f"{type(problem).__name__}",
            remedy="See that it runs and that AWS_ENDPOINT_URL and the credentials are right.",
        ) from problem
    return True


def require_bucket(path: str) -> None:
    """Tell a bucket in which nothing has landed from one that is not there.

    Raises:
        LandingError: it is not there.
    """
    from pyarrow.fs import FileType

    bucket = path.partition("/")[0]
    if filesystem().get_file_info(bucket).type == FileType.NotFound:
        raise LandingError(
            f"There is no bucket {bucket!r}",
            expected=f"one at {endpoint() or 'Amazon S3'}, which these credentials may list",
            remedy="Make it, or correct [data] landing or AWS_ENDPOINT_URL.",
        )


def remove(path: str) -> None:
    """Remove one object. Not by pyarrow, which would leave an empty folder of its name."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.partition("/")
    try:
        _client().delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as problem:
        raise LandingUnreachable(
            f"The store did not remove {SCHEME}{path}", found=type(problem).__name__
        ) from problem


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn the store's errors inside into ours; a file that is not there stays what it is.

    Raises:
        LandingUnreachable: the store refused, failed, or did not answer in time.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as problem:
        if problem.errno is not None and "AWS" not in str(problem):
            raise  # this machine's own disk
        raise LandingUnreachable(
            f"{address} cannot be read or written",
            found=" ".join(str(problem).split())[:300],
            remedy="See that the store runs, that the bucket exists, and that AWS_ENDPOINT_URL, "
            "AWS_REGION and the credentials are right; nothing was changed and batches stay "
            "pending.",
        ) from problem


def _put_after_a_look(path: str, content: bytes) -> bool:
    from pyarrow.fs import FileType

    store = filesystem()
    if store.get_file_info(path).type != FileType.NotFound:
        return False
    with store.open_output_stream(path) as stream:
        stream.write(content)
    return True


@cache
def _filesystem(endpoint: str, region: str, key: str) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    address = urlsplit(endpoint)
    where = {"endpoint_override": address.netloc, "scheme": address.scheme} if endpoint else {}
    return S3FileSystem(
        **where,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        # Only what its caller names may come into being.
        allow_bucket_creation=False,
        # Errors are told where they happen, not when the file object is forgotten.
        background_writes=False,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _client() -> Any:
    try:
        import boto3
    except ImportError as problem:
        raise LandingError(
            "Landing in a bucket needs boto3, for the write that cannot overwrite",
            remedy="pip install 'bhpeft[s3]'",
        ) from problem
    return _made_client(endpoint(), region(), os.environ.get("AWS_ACCESS_KEY_ID", ""), boto3)


@cache
def _made_client(endpoint: str, region: str, key: str, boto3: Any) -> Any:
    from botocore.config import Config

    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        retries={"max_attempts": ATTEMPTS, "mode": "standard"},
    )
    return boto3.client("s3", endpoint_url=endpoint or None, region_name=region, config=settings)
