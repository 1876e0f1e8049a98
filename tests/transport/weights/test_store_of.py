"""What cannot be a weight store is refused with what to write, and without the secrets of a URL."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rollstream.schemas import Keys
from rollstream.transport.weights import StoreProblem, WeightStoreError, store_of, without_secrets


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("", "nothing is named; write a folder, 'redis'"),
        ("/no/such/folder", "no such folder; make it on a file system that trainer and workers share"),
        ("Redis", "do you mean 'redis'?"),
        ("redis", "there is no Redis here"),
        ("redis://user:SECRET@host/0", "another Redis cannot be the store; write 'redis'"),
        ("https://host/weights?token=SECRET", "nothing can be written there"),
        ("wat://host/weights", "Protocol not known: wat"),
        ("memory://", "names no place; add a path"),
        ("s3:/key:SECRET@bucket", "weight store ***@bucket: there is no such folder"),
        ("key:SECRET@host/x", "weight store ***@host/x: there is no such folder"),
        ("key:SECRET@host://x", "it is no URL: a login comes after ://"),
        ("file:///no/such/folder", "no such folder"),
    ],
)
def test_what_is_no_store_says_what_to_write(place: str, told: str) -> None:
    with pytest.raises(WeightStoreError) as caught:
        store_of(place, Keys("p"))

    assert told in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.reason is StoreProblem.PLACE


def test_a_library_that_is_not_installed_is_named() -> None:
    pytest.importorskip("fsspec")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(WeightStoreError, match=r"(?i)install s3fs"):
            store_of("s3://bucket/weights", Keys("p"))


def test_a_quota_is_for_redis_alone(tmp_path: Path) -> None:
    with pytest.raises(WeightStoreError, match="a quota is for the store in Redis"):
        store_of(tmp_path, Keys("p"), quota_bytes=5)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert store_of(tmp_path.as_uri(), Keys("p")).where == tmp_path.as_uri()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/weights", "s3://bucket/weights"),
        ("ftp://user:SECRET@host/w", "ftp://***@host/w"),
        ("ftp://user:SEC/RET@host/w", "ftp://***@host/w"),
        ("abfs://c@account.dfs.core.windows.net/w?sig=SECRET#SECRET", "abfs://***@account.dfs.core.windows.net/w"),
        ("s3:/key:SECRET@bucket/w?token=SECRET", "***@bucket/w"),
        ("//key:SECRET@bucket/w", "***@bucket/w"),
        ("s3:/bucket/w?token=SECRET", "s3:/bucket/w"),
        ("/a/folder", "/a/folder"),
        ("/a/run@2/folder?", "/a/run@2/folder?"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
