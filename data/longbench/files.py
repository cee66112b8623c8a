"""LongBench's rows: from the hub's data archive, or from local files.

The hub repository holds a dataset script, which `datasets` no longer runs; the archive beside it holds the same rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from pathlib import Path

HUB_REPOSITORY, HUB_FILE = "THUDM/LongBench", "data.zip"
_FIELDS = {"context": str, "input": str, "answers": list}


class DataError(RuntimeError):
    """Rows are missing or not what they should be; the message says what to put where."""


def check_files(data_files: str, stem: str) -> None:
    """Refuse a `data_files` that cannot hold `<stem>.jsonl`. Raises ValueError that begins with the key."""
    path = Path(data_files)
    if path.is_dir() and not (path / f"{stem}.jsonl").is_file():
        raise ValueError(f"dataset.data_files: the folder {data_files} has no {stem}.jsonl")
    if not path.exists():
        text = f"no such file or folder: {data_files}. Give a .jsonl file of the task, a folder of them, or {HUB_FILE}"
        raise ValueError(f"dataset.data_files: {text}")


@functools.cache
def digest(data_files: str, stem: str) -> str:
    """Tells one content of a local file from another: 16 hexadecimal digits. Raises DataError."""
    path = Path(data_files)
    if path.suffix == ".zip":
        with _opened(path) as archive:
            return f"crc32 {_member(archive, path, stem).CRC:08x}"
    return hashlib.sha256(_jsonl(path, stem).read_bytes()).hexdigest()[:16]


def read_rows(data_files: str | None, stem: str) -> list[dict]:
    """All rows of `<stem>.jsonl`, in order; from the hub's archive where `data_files` is None. Raises DataError."""
    path = Path(data_files) if data_files else _from_hub()
    if path.suffix == ".zip":
        with _opened(path) as archive:
            text = archive.read(_member(archive, path, stem))
        where = f"{path}: {stem}.jsonl"
    else:
        text = _jsonl(path, stem).read_bytes()
        where = str(_jsonl(path, stem))
    # not splitlines(): texts may hold U+2028 and its like
    lines = enumerate(text.decode("utf-8").split("\n"), start=1)
    rows = [_row(line, f"{where}: line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise DataError(f"{where}: holds no rows")
    return rows


def _row(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}). The file must hold one of LongBench's rows a line") from error
    for field, kind in _FIELDS.items():
        if not isinstance(row, dict) or not isinstance(row.get(field), kind):
            raise DataError(f"{where}: `{field}` is missing or not a {kind.__name__}. LongBench's rows have it")
    if not row["answers"] or not all(isinstance(answer, str) for answer in row["answers"]):
        raise DataError(f"{where}: `answers` must be a list of at least one string")
    return row


def _jsonl(path: Path, stem: str) -> Path:
    return path / f"{stem}.jsonl" if path.is_dir() else path


def _from_hub() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB_REPOSITORY, HUB_FILE, repo_type="dataset"))
    except Exception as error:  # the hub's client raises many kinds
        raise DataError(
            f"LongBench's archive ({HUB_FILE} of the hub's data set {HUB_REPOSITORY}) is not in the cache and cannot "
            f"be downloaded: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}. Where there "
            f"is a network, run `hf download {HUB_REPOSITORY} {HUB_FILE} --repo-type dataset`; without one, copy the "
            "archive here and set dataset.data_files to it (or to a folder with the tasks' .jsonl files)"
        ) from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip archive: {error}. Download it again") from error


def _member(archive: zipfile.ZipFile, path: Path, stem: str) -> zipfile.ZipInfo:
    for member in archive.infolist():
        if Path(member.filename).name == f"{stem}.jsonl":
            return member
    raise DataError(f"{path}: has no {stem}.jsonl. LongBench's archive has it")
