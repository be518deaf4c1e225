"""Copies in S3: a real server (moto) on this machine, the real client."""

import os
import socket
import subprocess
import sys
import time

import boto3
import pytest
from s3fs import S3FileSystem

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import write_bytes
from dsmoe_eval.storage import copies
from dsmoe_eval.storage.copies import local_copy, receive, send

from .conftest import FILES, QUIET, contents, originals

HIDDEN = "wJalrXUtnFEMI"
LARGE = 6 * 2**20
"""More than the smallest part of a file that is sent in parts."""


@pytest.fixture(scope="module")
def server():
    """The address of a server of S3 that only this machine can reach; it ends with the tests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server has ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def bucket(server, monkeypatch):
    """The name of a new bucket, as its client finds it by the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": HIDDEN,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_MAX_ATTEMPTS": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    name = f"bucket-{time.monotonic_ns()}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield name
    S3FileSystem.clear_instance_cache()


def test_out_and_back_and_nothing_twice(folder, bucket, tmp_path):
    url = f"s3://{bucket}/out/run"
    assert send(originals(folder), url, QUIET).moved == len(FILES)
    assert send(originals(folder), url, QUIET).moved == 0
    assert receive(url, tmp_path / "back", QUIET).moved == len(FILES)
    assert contents(tmp_path / "back") == FILES
    assert contents(local_copy(url, QUIET)) == FILES
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="out/run/cells/a/cell.json", Body=b"2")
    with pytest.raises(UserError, match=rf"^{url}/cells/a/cell.json: is not the file that was"):
        receive(url, tmp_path / "again", QUIET)
    client.delete_object(Bucket=bucket, Key="out/run/cells/a/cell.json")
    assert send(originals(folder), url, QUIET).moved == 1
    receive(url, tmp_path / "again", QUIET)
    assert contents(tmp_path / "again") == FILES


def test_a_large_file_is_sent_in_parts_and_appears_whole_or_not(
    folder, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(copies, "BLOCK", 2**20)
    monkeypatch.setattr("dsmoe_eval.storage.remote.BLOCK", 5 * 2**20)
    large = folder / "adapters" / "x" / "adapter_model.safetensors"
    write_bytes(large, b"1" * LARGE)
    before = originals(folder)
    large.write_bytes(b"1" * (LARGE - 1) + b"2")
    client, url = boto3.client("s3"), f"s3://{bucket}/run"
    with pytest.raises(UserError, match=r"adapter_model.safetensors: was changed while"):
        send(before, url, QUIET)
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert not [one for one in listed if "adapters" in one["Key"]]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    send(originals(folder), url, QUIET)
    about = client.head_object(Bucket=bucket, Key="run/adapters/x/adapter_model.safetensors")
    assert about["ETag"].strip('"').endswith("-2")  # of two parts
    receive(url, tmp_path / "back", QUIET)
    assert contents(tmp_path / "back") == contents(folder)


def test_no_bucket_no_credentials_no_server(folder, bucket, monkeypatch):
    with pytest.raises(UserError, match=r"s3://no-such/run: .*does not exist\); check its name"):
        send(originals(folder), "s3://no-such/run", QUIET)
    with pytest.raises(UserError, match=r"s3://no-such/run: there is no copy .*check bucket"):
        local_copy("s3://no-such/run", QUIET)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"Could not connect to the endpoint .* the network") as no:
        send(originals(folder), f"s3://{bucket}/run", QUIET)
    assert HIDDEN not in str(no.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"locate credentials\); give credentials as the provider"):
        send(originals(folder), f"s3://{bucket}/run", QUIET)
