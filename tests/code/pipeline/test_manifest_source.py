"""Manifest: a list of links and paths in, its files in its order out; whatever is wrong with one row is that row's reason."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pandas as pd
import pytest

from pipeline.download import PARAMS, download
from pipeline.errors import BadConfigError, BadDataError, InputMissingError, PipelineError, UnavailableError
from pipeline.raw import read_failures, read_files
from pipeline.sources import gather, manifest
from web_server import Site, cut, in_turn, redirect, status, whole

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def listed(project, rows: list[dict] | pd.DataFrame, kind: str = "csv") -> Path:
    path = project.root / f"list.{kind}"
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    return path


def values(project, path: Path, **changes: object) -> SimpleNamespace:
    known = {"source": "manifest", "path": str(path), "attempts": 2, "deadline_seconds": 5.0} | changes
    return project.values(PARAMS, **{f"download__{key}": value for key, value in known.items()})


def brought(project, path: Path, **changes: object) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    download(values(project, path, **changes), project.paths)
    return read_files(project.paths.raw).to_pandas(), read_failures(project.paths.raw)


def refused(project, path: Path, **changes: object) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        download(values(project, path, **changes), project.paths)
    assert "\n" not in str(caught.value) and not project.paths.raw.exists()
    return caught.value


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifest_files_come_with_label_and_split_in_the_order_of_the_list(project, site, picture, kind):
    rows, data = [], []
    for i in range(30):
        data.append(picture(i))
        site[f"/{i}.png"] = data[-1]
        rows.append({"link": site.url(f"/{i}.png"), "kind": ["cat", "dog"][i % 2], "part": ["train", "Validation", ""][i % 3]})
    path = listed(project, rows[::-1], kind)
    columns = {"url_column": "link", "label_column": "kind", "split_column": "part"}
    table, failures = brought(project, path, **columns)
    assert failures == []
    assert list(table["sha256"]) == [sha(d) for d in data[::-1]]
    assert list(table["label"]) == [row["kind"] for row in rows[::-1]]
    assert list(table["split"]) == [{"Validation": "val"}.get(row["part"], row["part"]) for row in rows[::-1]]
    assert table["path"].is_unique and table["path"].str.fullmatch(r"[0-9a-f]{16}-\d+\.png").all()


def test_manifest_name_of_a_link_does_not_depend_on_the_other_rows(project, site, picture):
    site["/1.png"], site["/2.png"] = picture(1), picture(2)
    both, _ = brought(project, listed(project, [{"url": site.url("/2.png")}, {"url": site.url("/1.png")}]))
    alone, _ = brought(project, listed(project, [{"url": site.url("/1.png")}]))
    assert alone["path"][0] == both["path"][1]


def test_manifest_every_bad_row_has_its_reason_and_the_good_ones_come(project, site, picture, monkeypatch):
    monkeypatch.setattr(gather, "MOST_LINK_BYTES", 100_000)
    site["/good.png"], site["/last.png"] = picture(1), picture(2)
    site["/page"] = whole(b"<html>sign in</html>")
    site["/cut"] = cut(bytes(1000), 10)
    site["/loop"] = redirect("/loop")
    site["/file"] = redirect("file:///etc/passwd")
    site["/meta"] = redirect("http://169.254.169.254/latest")
    site["/slow"] = lambda _: site.closing.wait()
    site["/big"] = whole(bytes(200_000))
    site["/sum"] = picture(3)
    (project.root / "here.png").write_bytes(picture(4))
    (project.root / "link.png").symlink_to("here.png")
    os.mkfifo(project.root / "pipe.png")
    rows = [
        ("/good.png", "", ""),
        ("/none", "", "http_404"),
        ("/page", "", "html_page"),
        ("/cut", "", "cut"),
        ("/loop", "", "redirect_loop"),
        ("/file", "", "forbidden"),
        ("/meta", "", "forbidden"),
        ("/slow", "", "deadline"),
        ("/big", "", "too_large"),
        ("/sum", sha(b"other"), "wrong_checksum"),
        ("/sum2", "abc", "bad_checksum"),
        ("/good.png", "", "duplicate_name"),
        ("http://127.0.0.1:1/dead.png", "", "no_answer"),
        ("ftp://127.0.0.1/a.png", "", "bad_url"),
        ("file:///etc/passwd", "", "bad_url"),
        ("http://[", "", "bad_url"),
        ("", "", "no_link"),
        ("here.png", "", ""),
        ("./here.png", "", "duplicate_name"),
        ("../here.png", "", "unreadable"),
        ("gone.png", "", "unreadable"),
        ("link.png", "", "link"),
        ("pipe.png", "", "not_a_file"),
        (".", "", "not_a_file"),
        ("x" * 300, "", "unreadable"),
        ("/last.png", "", ""),
    ]
    served = set(site.answers) | {"/none", "/sum2"}
    table = [{"url": site.url(place) if place in served else place, "sha256": digest} for place, digest, _ in rows]
    started = time.monotonic()
    found, failures = brought(project, listed(project, table), sha256_column="sha256", deadline_seconds=2.0)
    assert time.monotonic() - started < 15
    assert [reason for _, reason, _ in failures] == [reason for *_, reason in rows if reason]
    assert list(found["sha256"]) == [sha(d) for d in (picture(1), picture(4), picture(2))]
    for (_, reason, detail), number in zip(failures, [n for n, r in enumerate(rows, 1) if r[2]], strict=True):
        assert f"row {number}" in detail, (reason, detail)


def test_manifest_names_with_nul_are_a_reason(project, picture):
    (project.root / "1.png").write_bytes(picture(1))
    table, failures = brought(project, listed(project, [{"url": "a\0b.png"}, {"url": "1.png"}], "parquet"))
    assert list(table["path"]) == ["1.png"] and [(f[0], f[1]) for f in failures] == [("a\\x00b.png", "unreadable")]


def test_manifest_secrets_of_a_link_are_written_nowhere(project, site, picture):
    site["/1.png?token=verysecret"] = picture(1)
    rows = [{"url": site.url("/1.png?token=verysecret")}, {"url": site.url("/2.png?token=verysecret")}]
    _, failures = brought(project, listed(project, rows))
    assert [reason for _, reason, _ in failures] == ["http_404"]
    for folder in (project.paths.raw, project.paths.work):
        for file in folder.rglob("*"):
            assert b"verysecret" not in os.fsencode(file.name)
            assert file.is_dir() or b"verysecret" not in file.read_bytes()


def test_manifest_second_run_asks_only_for_what_failed(project, site, picture):
    for i in range(5):
        site[f"/{i}.png"] = picture(i)
    site["/3.png"] = in_turn(status(503), status(503), whole(picture(3)))
    path = listed(project, [{"url": site.url(f"/{i}.png")} for i in range(5)])
    _, failures = brought(project, path)
    assert [reason for _, reason, _ in failures] == ["http_503"]
    table, failures = brought(project, path)
    assert failures == [] and list(table["sha256"]) == [sha(picture(i)) for i in range(5)]
    assert [site.count(f"/{i}.png") for i in range(5)] == [1, 1, 1, 3, 1]


def test_manifest_stopped_run_ends_at_once_and_goes_on_with_what_was_fetched(project, site, picture):
    site["/1.png"], site["/2.png"] = picture(1), in_turn(lambda _: site.closing.wait(), whole(picture(2)))
    path = listed(project, [{"url": site.url("/1.png")}, {"url": site.url("/2.png")}])
    given = SimpleNamespace(**vars(values(project, path, deadline_seconds=50.0)), work=project.paths.work)

    class Writer:
        def add(self, *_: object, **__: object) -> bool:
            while not site.count("/2.png"):  # or the answer that hangs would be for the second run
                time.sleep(0.01)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        manifest.pack(given, Writer())  # as Ctrl-C after the first file
    assert time.monotonic() - started < 30  # not the deadline
    table, _ = brought(project, path)
    assert list(table["sha256"]) == [sha(picture(1)), sha(picture(2))]
    assert site.count("/1.png") == 1


def test_manifest_one_host_is_asked_politely_and_others_meanwhile(project, picture):
    with Site() as one, Site() as other:
        for site in (one, other):
            for i in range(12):
                site[f"/{i}.png"] = lambda h, i=i: (time.sleep(0.05), whole(picture(i))(h))
        rows = [{"url": site.url(f"/{i}.png")} for site in (one, other) for i in range(12)]
        table, failures = brought(project, listed(project, rows), connections_per_host=3)
        assert failures == [] and len(table) == 24
        assert one.most_at_once <= 3 and other.most_at_once <= 3
        assert one.most_at_once >= 2  # in parallel all the same
        # The second host did not wait for the first to be done: the list has all of the first before it.
        assert len(one.asked) == len(other.asked) == 12


def test_manifest_memory_is_bounded_by_the_window(project, site, picture, monkeypatch):
    monkeypatch.setattr(gather, "WINDOW", 4)
    for i in range(20):
        site[f"/{i}.png"] = picture(i)
    path = listed(project, [{"url": site.url(f"/{i}.png")} for i in range(20)])
    given = SimpleNamespace(**vars(values(project, path)), work=project.paths.work)
    behind: list[int] = []

    class Slow:
        def add(self, *_: object, **__: object) -> bool:
            behind.append(len(site.asked) - len(behind))
            return True

    manifest.pack(given, Slow())
    assert len(behind) == 20 and max(behind) <= 4


def test_manifest_all_links_of_a_dead_host_is_unavailable(project):
    error = refused(project, listed(project, [{"url": f"http://127.0.0.1:1/{i}.png"} for i in range(10)]))
    assert isinstance(error, UnavailableError) and error.exit_code == 69 and "127.0.0.1" in str(error)


def test_manifest_all_links_gone_is_bad_data(project, site):
    error = refused(project, listed(project, [{"url": site.url(f"/{i}.png")} for i in range(3)]))
    assert isinstance(error, BadDataError) and "http_404" in str(error)


def test_manifest_paths_are_below_the_list_and_keep_their_folders(project, picture, tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        (project.root / name).parent.mkdir()
        (project.root / name).write_bytes(picture(len(name)))
    (tmp_path / "far.png").write_bytes(picture(3))
    rows = ["cat/1.png", "./dog//2.png", str(tmp_path / "far.png"), "../far.png"]
    table, failures = brought(project, listed(project, [{"url": row} for row in rows]))
    assert failures == []
    assert list(table["path"][:3]) == ["cat/1.png", "dog/2.png", f"{tmp_path}/far.png".lstrip("/")]
    assert table["path"][3].endswith("-far.png") and ".." not in table["path"][3]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"link,label\nx,y\n", "no column 'url'"),
        (b"", "no column 'url'"),
        (b"url\n\xff\xfe\n", "CSV"),
        (b"url,label\nx\n", "fewer fields"),
        (b"url\nx,y\n", "fewer fields"),
        (b'url\n"x\n', "list"),
        (b"url\n" + b"x" * 100_000 + b"\n", "field"),
    ],
)
def test_manifest_list_that_is_none_is_refused(project, content, part):
    path = project.root / "list.csv"
    path.write_bytes(content)
    error = refused(project, path)
    assert error.exit_code == 65 and str(path) in str(error) and part in str(error)


def test_manifest_parquet_that_is_none_is_refused(project):
    path = project.root / "list.parquet"
    path.write_bytes(b"PAR1 no")
    assert refused(project, path).exit_code == 65


def test_manifest_split_of_another_name_is_refused_with_its_row(project):
    path = listed(project, [{"url": "a", "split": "train"}, {"url": "b", "split": "holdout"}])
    error = refused(project, path, split_column="split")
    assert "row 2" in str(error) and "'holdout'" in str(error)


def test_manifest_missing_or_empty_list_is_input_missing(project):
    assert isinstance(refused(project, project.root / "none.csv"), InputMissingError)
    path = project.root / "list.csv"
    path.write_text("url\n")
    assert isinstance(refused(project, path), InputMissingError)


def test_manifest_objects_of_a_store_are_brought(project, picture):
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/1.png", picture(1))
    rows = [
        ("memory://bucket/1.png", sha(picture(1))),
        ("memory://bucket/1.png?", sha(b"x")),
        ("memory://bucket/1.png::file:///etc/passwd", ""),
        ("memory://bucket/2.png", ""),
    ]
    table, failures = brought(project, listed(project, [{"url": u, "sha256": s} for u, s in rows]), sha256_column="sha256")
    assert list(table["sha256"]) == [sha(picture(1))]
    assert [reason for _, reason, _ in failures][-2:] == ["bad_url", "not_found"]


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_manifest_store_whose_package_is_missing_says_what_to_install(project, scheme, package):
    if package in {d.name for d in __import__("pkgutil").iter_modules()}:
        pytest.skip(f"{package} is installed")
    error = refused(project, listed(project, [{"url": f"{scheme}://bucket/1.png"}]))
    assert isinstance(error, BadConfigError) and f"pip install {package}" in str(error)


def test_manifest_archive_of_the_result_is_readable(project, site, picture):
    site["/1.png"] = picture(1)
    table, _ = brought(project, listed(project, [{"url": site.url("/1.png")}]))
    with zipfile.ZipFile(io.BytesIO((project.paths.raw / "images-00000.zip").read_bytes())) as archive:
        assert archive.read(table["path"][0]) == picture(1)
