"""moto_server as a subprocess that verifies signatures: the everyday S3 server of the tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import boto3
from botocore.config import Config

_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@dataclass(frozen=True)
class S3Server:
    """Address and credentials of a server."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "results"

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS variables for this server, and none of the machine's own."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "s3", region: str = "us-east-1"):
        """A boto3 client of this server."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=region,
            config=Config(s3={"addressing_style": "path"}),
        )


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen | None = None, seconds: float = 30, host: str = "127.0.0.1") -> None:
    """Wait until a server accepts connections on ``port``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with closing(socket.socket()) as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after {seconds:g} s")


@contextmanager
def moto_server(
    host: str = "127.0.0.1", variables: Mapping[str, str] | None = None, module: str = "moto.server"
) -> Iterator[S3Server]:
    """Start moto_server, create a user, enforce signatures, and create an empty bucket.

    Args:
        host: the address that it listens on.
        variables: settings of moto, ``MOTO_...``.
        module: what is run.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, "-H", host, "-p", str(port)],
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3", **(variables or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process, host=host)
        # moto exempts exactly three calls from signatures: these.
        iam = S3Server(f"http://{host}:{port}", "any", "any").client("iam")
        iam.create_user(UserName="tests")
        key = iam.create_access_key(UserName="tests")["AccessKey"]
        iam.put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=json.dumps(_POLICY))
        server = S3Server(f"http://{host}:{port}", key["AccessKeyId"], key["SecretAccessKey"])
        server.client().create_bucket(Bucket=server.bucket)
        yield server
    finally:
        process.terminate()
        process.wait(10)
