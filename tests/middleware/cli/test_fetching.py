"""Claims about bundles that are fetched: from real registries and stores, and only the one that was meant."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.harness.parts import free_port, quick_bundle
from tests.oci_registry import registry
from typer.testing import CliRunner

from tocsin.cli.main import app
from tocsin.errors import ConfigError
from tocsin.fetching import fetch
from tocsin_calibration import Bundle, BundleError


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "digits.tocsin"
    quick_bundle(path)
    return path


@contextmanager
def web(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_from_the_web_only_the_bundle_that_was_meant(bundle_path: Path, tmp_path: Path) -> None:
    digest, target = Bundle.read(bundle_path).digest, tmp_path / "here.tocsin"
    with web(bundle_path.parent) as address:
        with pytest.raises(BundleError, match="not sha256:0000; nothing was taken"):
            fetch(f"{address}/digits.tocsin", target, "sha256:0000")
        assert list(tmp_path.iterdir()) == []
        assert fetch(f"{address}/digits.tocsin", target, digest).digest == digest
        with pytest.raises(ConfigError, match="404"):
            fetch(f"{address}/other.tocsin?secret=1", tmp_path / "other.tocsin", digest)
    fetch(f"{address}/digits.tocsin", target, digest)  # it is there, so nobody is asked
    target.write_bytes(b"spoilt")
    with pytest.raises(ConfigError, match="cannot be fetched"):
        fetch(f"{address}/digits.tocsin", target, digest)
    assert target.read_bytes() == b"spoilt"


def test_what_is_no_bundle_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "page.html").write_text("<html>")
    with web(tmp_path / "web") as address, pytest.raises(BundleError, match=r"page.html: is not a bundle"):
        fetch(f"{address}/page.html", tmp_path / "b.tocsin", "sha256:0")


def test_from_a_registry_as_an_oci_artefact(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oras.client import OrasClient

    digest = Bundle.read(bundle_path).digest
    with registry(tmp_path) as address:
        monkeypatch.chdir(bundle_path.parent)
        OrasClient(insecure=True).push(target=f"{address}/models/digits:v1", files=["digits.tocsin"])
        target, source = tmp_path / "here.tocsin", f"oci://{address}/models/digits:v1"
        done = CliRunner().invoke(
            app, ["bundle", "fetch", source, str(target), "--digest", digest, "--plain-http"], catch_exceptions=False
        )
        assert done.exit_code == 0 and digest in done.output
        assert target.read_bytes() == bundle_path.read_bytes()
        with pytest.raises(ConfigError, match="cannot be fetched"):
            fetch(f"oci://{address}/models/none:v1", tmp_path / "none.tocsin", digest, plain_http=True)


def test_from_an_object_store(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="eu-west-1")
    client.create_bucket(Bucket="bundles", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.put_object(Bucket="bundles", Key="team/digits.tocsin", Body=bundle_path.read_bytes())
    digest, target = Bundle.read(bundle_path).digest, tmp_path / "here.tocsin"
    assert fetch("s3://bundles/team/digits.tocsin", target, digest).digest == digest
    with pytest.raises(ConfigError, match="cannot be fetched"):
        fetch("s3://bundles/team/none.tocsin", tmp_path / "none.tocsin", digest)
    server.stop()


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no place to fetch from: https"):
        fetch("ftp://example/x", tmp_path / "b.tocsin", "sha256:0")


@pytest.mark.parametrize("scheme", ["http", "s3", "ftp"])
def test_what_signs_an_address_is_not_told(tmp_path: Path, scheme: str) -> None:
    source = f"{scheme}://us3r:passw0rd@127.0.0.1:{free_port()}/bundles/digits.tocsin?X-Signature=s1gned"
    with pytest.raises((ConfigError, BundleError)) as caught:
        fetch(source, tmp_path / "b.tocsin", "sha256:0")
    assert not any(secret in str(caught.value) for secret in ("us3r", "passw0rd", "s1gned"))
