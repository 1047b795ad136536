"""Fetches a bundle from where it is stored: the one with the given digest, whatever is stored there by now."""

from __future__ import annotations

import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tocsin.addresses import redacted_source
from tocsin.errors import ConfigError
from tocsin_calibration import Bundle, BundleError

MAX_DOWNLOAD = 1 << 30  # bytes
READ_TIMEOUT = 30.0  # without a byte
SOURCES = "https://HOST/FILE, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or oci://REGISTRY/REPOSITORY:TAG"


def fetch(source: str, target: Path, digest: str, *, plain_http: bool = False) -> Bundle:
    """Fetch the bundle with that digest from `source` into the file `target`, atomically; on an error the file stays as
    it was.

    Credentials come from the environment: AWS_*, GOOGLE_* and AZURE_* variables, and Docker's configuration for
    registries. `plain_http`: a registry without TLS. Raises ConfigError on a source that is invalid, cannot be reached,
    or needs a package that is not installed; BundleError when the file there is not a bundle, or another one.
    """
    if target.exists() and _has_digest(target, digest):
        return Bundle.read(target)
    brought: dict[str, Callable[[str, Path], None]] = {
        "http": _http, "https": _http, "s3": _object, "gs": _object, "az": _object,
        "oci": partial(_artefact, plain_http=plain_http),
    }  # fmt: skip
    bring = brought.get(urlsplit(source).scheme)
    if bring is None:
        raise ConfigError(f"'{redacted_source(source)}' is no place to fetch from: {SOURCES}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        staged = Path(folder) / target.name
        bring(source, staged)
        if staged.stat().st_size > MAX_DOWNLOAD:
            raise BundleError(
                f"{redacted_source(source)}: has {staged.stat().st_size:,} bytes, more than {MAX_DOWNLOAD:,}"
            )
        try:
            bundle = Bundle.read(staged)
        except BundleError as error:
            raise BundleError(f"{redacted_source(source)}: {str(error).partition(': ')[2]}") from error
        if bundle.digest != digest:
            raise BundleError(
                f"{redacted_source(source)}: holds the bundle {bundle.digest}, not {digest}; nothing was taken"
            )
        staged.replace(target)
    return bundle


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return Bundle.read(path).digest == digest
    except BundleError:
        return False


def _http(source: str, staged: Path) -> None:
    try:
        with urllib.request.urlopen(source, timeout=READ_TIMEOUT) as answer, staged.open("wb") as file:
            remaining = MAX_DOWNLOAD + 1
            while remaining and (part := answer.read(min(1 << 20, remaining))):
                remaining -= file.write(part)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ConfigError(f"{redacted_source(source)}: cannot be fetched ({error})") from error


def _object(source: str, staged: Path) -> None:
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise ConfigError(
            f"{redacted_source(source)}: fetching from object stores needs obstore: pip install 'tocsin[fetch]'"
        ) from None
    place = urlsplit(source)
    try:
        store = from_url(f"{place.scheme}://{place.netloc}")
        response = obstore.get(store, place.path.lstrip("/"))
        if response.meta["size"] > MAX_DOWNLOAD:
            raise BundleError(
                f"{redacted_source(source)}: has {response.meta['size']:,} bytes, more than {MAX_DOWNLOAD:,}"
            )
        with staged.open("wb") as file:
            for part in response.stream():
                file.write(part)
    except (BaseError, OSError) as error:
        raise ConfigError(f"{redacted_source(source)}: cannot be fetched ({str(error).splitlines()[0]})") from error


def _artefact(source: str, staged: Path, plain_http: bool) -> None:
    try:
        from oras.client import OrasClient
    except ImportError:
        raise ConfigError(
            f"{redacted_source(source)}: fetching from registries needs oras: pip install 'tocsin[fetch]'"
        ) from None
    try:
        client = OrasClient(insecure=plain_http)
        files = client.pull(target=source.removeprefix("oci://"), outdir=str(staged.parent / "artefact"))
    except Exception as error:  # oras raises ValueError, requests' errors and its own
        raise ConfigError(f"{redacted_source(source)}: cannot be fetched ({type(error).__name__}: {error})") from error
    if len(files) != 1:
        raise BundleError(f"{redacted_source(source)}: holds {len(files)} files; push one bundle an artefact")
    Path(files[0]).replace(staged)
