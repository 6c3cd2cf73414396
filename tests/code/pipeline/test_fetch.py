"""Fetch: files from servers that cut, lie, stall, redirect and change; whole and right, or a reason, and never for ever."""

from __future__ import annotations

import email.utils
import hashlib
import socket
import threading
import time
from pathlib import Path

import pytest

from pipeline.sources import fetch as module
from pipeline.sources.address import Policy, parsed, shown
from pipeline.sources.address import is_public as really_public
from pipeline.sources.fetch import Fetcher, Settings
from pipeline.sources.web import LinkError
from web_server import Site, cut, in_turn, ranged, redirect, send, status, whole

BODY = bytes(range(256)) * 1000
SUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def fetcher(folder: Path, policy: Policy | None = None, **changes: float) -> Fetcher:
    settings = {"connections_per_host": 2, "attempts": 3, "deadline_seconds": 10.0, "backoff_seconds": 0.01} | changes
    return Fetcher(folder, Settings(**settings), policy)


def reason(folder: Path, url: str, checksum: str = "", policy: Policy | None = None, **changes: float) -> str:
    """Why there is no file; nothing has a final name then."""
    with fetcher(folder, policy, **changes) as opened, pytest.raises(LinkError) as caught:
        opened.fetch(url, checksum)
    assert not list(folder.rglob("*.file"))
    assert "\n" not in str(caught.value)
    return caught.value.reason


def got(folder: Path, url: str, checksum: str = "", **changes: float) -> bytes:
    with fetcher(folder, **changes) as opened:
        return opened.fetch(url, checksum).read_bytes()


def test_fetch_file_is_kept_and_not_asked_for_again(site, tmp_path):
    site["/a"] = BODY
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    assert site.count("/a") == 1


def test_fetch_kept_file_that_was_damaged_is_asked_for_again(site, tmp_path):
    site["/a"] = BODY
    got(tmp_path, site.url("/a"))
    next(tmp_path.rglob("*.file")).write_bytes(b"damaged")
    assert got(tmp_path, site.url("/a")) == BODY


def test_fetch_without_a_length_is_whole(site, tmp_path):
    def chunked(handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(BODY), 100_000):
            block = BODY[start : start + 100_000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        handler.wfile.write(b"0\r\n\r\n")

    site["/a"] = chunked
    assert got(tmp_path, site.url("/a"), SUM) == BODY


def test_fetch_cut_chunks_are_no_file(site, tmp_path):
    def chunked(handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"ff\r\n" + BODY[:100])
        handler.close_connection = True

    site["/a"] = chunked
    assert reason(tmp_path, site.url("/a")) == "cut"
    assert site.count("/a") == 3


def test_fetch_goes_on_after_a_cut(site, tmp_path):
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), ranged(BODY, '"1"'))
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    headers = site.asked[1][1]
    assert headers["Range"] == "bytes=100000-" and headers["If-Range"] == '"1"'


def test_fetch_goes_on_in_another_process_life(site, tmp_path):
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), ranged(BODY, '"1"'))
    assert reason(tmp_path, site.url("/a"), SUM, attempts=1) == "cut"
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    assert site.asked[1][1]["Range"] == "bytes=100000-"


def test_fetch_file_that_changed_after_a_cut_is_fetched_anew(site, tmp_path):
    new = BODY[::-1]
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), ranged(new, '"2"'))
    assert got(tmp_path, site.url("/a")) == new


def test_fetch_server_that_ignores_if_range_does_not_mix_two_files(site, tmp_path):
    new = BODY[::-1]

    def careless(handler) -> None:
        start = handler.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if start:
            send(handler, 206, new[int(start) :], ETag='"2"', Content_Range=f"bytes {start}-{len(new) - 1}/{len(new)}")
        else:
            send(handler, 200, new, ETag='"2"')

    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), careless)
    assert got(tmp_path, site.url("/a")) == new


def test_fetch_server_that_ignores_ranges_starts_again(site, tmp_path):
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), whole(BODY, ETag='"1"'))
    assert got(tmp_path, site.url("/a"), SUM) == BODY


def test_fetch_wrong_range_in_the_answer_starts_again(site, tmp_path):
    wrong = lambda handler: send(handler, 206, BODY[5:], ETag='"1"', Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}")  # noqa: E731
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), wrong, ranged(BODY, '"1"'))
    assert got(tmp_path, site.url("/a"), SUM) == BODY


def test_fetch_range_beyond_the_end_starts_again(site, tmp_path):
    site["/a"] = in_turn(cut(BODY, 100_000, ETag='"1"'), status(416), ranged(BODY, '"1"'))
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    assert "Range" not in site.asked[2][1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["no tag", "weak tag"])
def test_fetch_without_a_strong_validator_never_continues(site, tmp_path, headers):
    site["/a"] = in_turn(cut(BODY, 100_000, **headers), whole(BODY))
    assert got(tmp_path, site.url("/a"), SUM) == BODY
    assert "Range" not in site.asked[1][1]


def test_fetch_always_cut_ends_with_a_reason(site, tmp_path):
    site["/a"] = cut(BODY, 1000)
    assert reason(tmp_path, site.url("/a")) == "cut"
    assert site.count("/a") == 3


@pytest.mark.parametrize("code", [429, 500, 503])
def test_fetch_temporary_status_is_tried_again(site, tmp_path, code):
    site["/a"] = in_turn(status(code), whole(BODY))
    assert got(tmp_path, site.url("/a")) == BODY


@pytest.mark.parametrize(("code", "asked"), [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3)])
def test_fetch_status_is_the_reason(site, tmp_path, code, asked):
    site["/a"] = status(code)
    assert reason(tmp_path, site.url("/a")) == f"http_{code}"
    assert site.count("/a") == asked


def test_fetch_waits_as_long_as_the_server_asks(site, tmp_path):
    site["/a"] = in_turn(status(429, Retry_After="1"), whole(BODY))
    started = time.monotonic()
    assert got(tmp_path, site.url("/a")) == BODY
    assert time.monotonic() - started >= 1


def test_fetch_retry_after_may_be_a_date(site, tmp_path):
    site["/a"] = in_turn(
        lambda h: send(h, 503, b"", Retry_After=email.utils.formatdate(time.time() + 2, usegmt=True)), whole(BODY)
    )
    started = time.monotonic()
    assert got(tmp_path, site.url("/a")) == BODY
    assert time.monotonic() - started >= 0.9  # dates have whole seconds


def test_fetch_retry_after_beyond_the_deadline_is_not_waited_for(site, tmp_path):
    site["/a"] = status(429, Retry_After="3600")
    started = time.monotonic()
    assert reason(tmp_path, site.url("/a")) == "http_429"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", {}),
        (b"\xef\xbb\xbf\n  <html>no</html>", {}),
        (b"<!-- a comment --><p>no</p>", {"Content_Type": "text/html; charset=utf-8"}),
    ],
)
def test_fetch_page_with_status_200_is_no_file(site, tmp_path, body, headers):
    site["/a.png"] = whole(body, **headers)
    assert reason(tmp_path, site.url("/a.png")) == "html_page"
    assert reason(tmp_path, site.url("/a.png"), SUM) == "html_page"


def test_fetch_image_that_is_called_html_is_a_file(site, tmp_path):
    site["/a"] = whole(BODY, Content_Type="text/html")
    assert got(tmp_path, site.url("/a")) == BODY


def test_fetch_wrong_checksum_is_refused_and_not_kept(site, tmp_path):
    site["/a"] = BODY[1:]
    assert reason(tmp_path, site.url("/a"), SUM) == "wrong_checksum"
    assert not list(tmp_path.rglob("*.part"))


def test_fetch_md5_is_checked_too(site, tmp_path):
    site["/a"] = BODY
    assert got(tmp_path, site.url("/a"), f"md5:{hashlib.md5(BODY).hexdigest()}") == BODY
    assert reason(tmp_path / "b", site.url("/a"), f"md5:{'0' * 32}") == "wrong_checksum"


@pytest.mark.parametrize("announced", [True, False])
def test_fetch_more_than_allowed_is_not_stored(site, tmp_path, announced):
    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not site.closing.is_set():
            handler.wfile.write(bytes(100_000))

    site["/a"] = whole(BODY) if announced else endless
    with fetcher(tmp_path) as opened, pytest.raises(LinkError) as caught:
        opened.fetch(site.url("/a"), most_bytes=200_000)
    assert caught.value.reason == "too_large"
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.part")) <= 200_000


def dripping(site: Site, head: bytes, drop: bytes):
    """One drop each 50 ms: no timeout between two bytes ever ends it."""

    def answer(handler) -> None:
        handler.wfile.write(head)
        while not site.closing.wait(0.05):
            handler.wfile.write(drop)

    return answer


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["body", "header", "silence", "chunks"],
)
@pytest.mark.parametrize("patient", [False, True])
def test_fetch_slow_server_is_left_at_the_deadline(site, tmp_path, head, drop, patient):
    site["/a"] = dripping(site, head, drop)
    started = time.monotonic()
    with fetcher(tmp_path, deadline_seconds=0.6) as opened, pytest.raises(LinkError) as caught:
        opened.fetch(site.url("/a"), patient=patient)
    assert caught.value.reason == "deadline"
    assert time.monotonic() - started < 3


def test_fetch_slow_tls_handshake_is_left_at_the_deadline(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never says a word of TLS
        started = time.monotonic()
        assert reason(tmp_path, f"https://127.0.0.1:{listening.getsockname()[1]}/a", deadline_seconds=0.6) == "deadline"
        assert time.monotonic() - started < 3


def test_fetch_patient_goes_on_while_much_arrives(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEW_BYTES", 20_000)

    def steady(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for start in range(0, len(BODY), 8_000):
            handler.wfile.write(BODY[start : start + 8_000])
            time.sleep(0.04)

    site["/a"] = steady
    with fetcher(tmp_path, deadline_seconds=0.9) as opened:
        assert opened.fetch(site.url("/a"), SUM, patient=True).read_bytes() == BODY
    assert reason(tmp_path / "b", site.url("/a"), SUM, deadline_seconds=0.9) == "deadline"


def test_fetch_stop_ends_what_is_under_way(site, tmp_path):
    arrived = threading.Event()

    def silent(handler) -> None:
        arrived.set()
        site.closing.wait()

    site["/a"] = silent
    with fetcher(tmp_path, deadline_seconds=600) as opened:
        errors: list[LinkError] = []

        def work() -> None:
            try:
                opened.fetch(site.url("/a"))
            except LinkError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert arrived.wait(5)
        opened.stop()
        thread.join(5)
        assert not thread.is_alive() and len(errors) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_fetch_follows_redirects(site, tmp_path, code):
    site["/a"] = status(code, Location="/b?x=1")
    site["/b?x=1"] = BODY
    assert got(tmp_path, site.url("/a")) == BODY


@pytest.mark.parametrize(
    "place",
    ["http://", "http:///a", "//", "http://[::1", "http://a b/", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "javascript:1",
     "http://\xe9\xff/", "/\xe9 \x01", "http://" + "a" * 300 + "/", "http://a..b/", "?" + "x" * 9000, "\x7f"],
)  # fmt: skip
def test_fetch_redirect_to_nonsense_is_a_reason(site, tmp_path, place):
    site["/a"] = redirect(place)
    assert reason(tmp_path, site.url("/a"), attempts=1) in ("bad_url", "forbidden", "no_answer", "http_404", "redirect_loop")


def test_fetch_redirect_loops_end(site, tmp_path):
    site["/a"], site["/b"] = redirect("/b"), redirect("/a")
    for i in range(40):
        site[f"/{i}"] = redirect(f"/{i + 1}")
    assert reason(tmp_path, site.url("/a")) == "redirect_loop"
    assert reason(tmp_path, site.url("/0")) == "redirect_loop"


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://user:secret@127.0.0.1/",
        "gopher://x",
    ],
)
def test_fetch_redirect_to_what_is_forbidden_is_not_followed(site, tmp_path, place):
    site["/a"] = redirect(place)
    started = time.monotonic()
    assert reason(tmp_path, site.url("/a")) == "forbidden"
    assert time.monotonic() - started < 2


# 127.0.0.2 is loopback as well; these tests call it public, so that a public host can be had without a network.
PRETENDED = Policy(is_public=lambda address: str(address) == "127.0.0.2" or really_public(address))


def test_fetch_public_host_may_not_redirect_into_the_house(site, tmp_path):
    site["/secret"] = BODY
    with Site("127.0.0.2") as public:
        for number, place in enumerate((site.url("/secret"), site.url("/secret").replace("127.0.0.1", "localhost"))):
            public[f"/{number}"] = redirect(place)
            assert reason(tmp_path, public.url(f"/{number}"), policy=PRETENDED) == "forbidden"
        site["/inner"] = redirect(site.url("/secret"))
        public["/hop"] = redirect(public.url("/hop2"))
        public["/hop2"] = redirect(site.url("/inner"))
        assert reason(tmp_path, public.url("/hop"), policy=PRETENDED) == "forbidden"
        assert site.asked == []
        public["/fine"] = redirect(public.url("/file"))
        public["/file"] = BODY
        with fetcher(tmp_path, PRETENDED) as opened:
            assert opened.fetch(public.url("/fine")).read_bytes() == BODY


def test_fetch_name_that_leads_into_the_house_is_found_out_at_the_connection(site, tmp_path):
    site["/secret"] = BODY
    odd = site.url("/secret").replace("127.0.0.1", "2130706433")  # the same address as one number: a name to every parser
    with Site("127.0.0.2") as public:
        public["/a"] = redirect(odd)
        assert reason(tmp_path, public.url("/a"), policy=PRETENDED) == "forbidden"
    assert site.asked == []


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://a:b/", "ftp://a/b", "http://x@127.0.0.1/", "http://169.254.169.254/"]
)
def test_fetch_bad_url_is_a_reason(tmp_path, url):
    assert reason(tmp_path, url) == "bad_url"


def test_fetch_connection_that_was_kept_open_is_checked_again(site, tmp_path):
    site["/mine"], site["/secret"] = BODY, BODY
    odd = site.url("/mine").replace("127.0.0.1", "2130706433")
    with Site("127.0.0.2") as public, fetcher(tmp_path, PRETENDED) as opened:
        public["/a"] = redirect(odd.replace("mine", "secret"))
        assert opened.fetch(odd).read_bytes() == BODY  # one's own link may lead there
        with pytest.raises(LinkError) as caught:
            opened.fetch(public.url("/a"))
    assert caught.value.reason == "forbidden" and site.count("/secret") == 0


def test_fetch_one_link_told_to_wait_holds_the_whole_host(site, tmp_path):
    site["/busy"] = status(429, Retry_After="1")
    site["/other"] = BODY
    with fetcher(tmp_path, attempts=1) as opened:
        with pytest.raises(LinkError):
            opened.fetch(site.url("/busy"))
        started = time.monotonic()
        opened.fetch(site.url("/other"))
        assert time.monotonic() - started > 0.8


def test_fetch_goes_through_the_environments_proxy_but_not_to_loopback(site, tmp_path, monkeypatch):
    with Site() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.setenv("no_proxy", "")
        proxy["http://far.example/a"] = BODY
        site["/near"] = BODY
        assert got(tmp_path, "http://far.example/a") == BODY
        assert got(tmp_path, site.url("/near")) == BODY
        assert [path for path, _ in proxy.asked] == ["http://far.example/a"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_fetch_dead_host_is_given_up_after_a_few_links(tmp_path):
    port = free_port()
    reasons = [reason(tmp_path, f"http://127.0.0.1:{port}/{i}") for i in range(2)]
    assert reasons == ["no_answer"] * 2
    with fetcher(tmp_path) as opened:
        reasons = []
        for i in range(module.DEAD_AFTER + 3):
            with pytest.raises(LinkError) as caught:
                opened.fetch(f"http://127.0.0.1:{port}/{i}")
            reasons.append(caught.value.reason)
    assert reasons == ["no_answer"] * module.DEAD_AFTER + ["host_unavailable"] * 3
    assert all(map(module.passing, reasons))


def test_fetch_host_that_only_drips_is_given_up_too(site, tmp_path):
    with fetcher(tmp_path, deadline_seconds=0.3) as opened:
        reasons = []
        for i in range(module.DEAD_AFTER + 2):
            site[f"/{i}"] = dripping(site, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x")
            with pytest.raises(LinkError) as caught:
                opened.fetch(site.url(f"/{i}"))
            reasons.append(caught.value.reason)
    assert reasons == ["deadline"] * module.DEAD_AFTER + ["host_unavailable"] * 2


def test_fetch_host_that_does_not_exist_is_a_reason(tmp_path):
    with fetcher(tmp_path) as opened, pytest.raises(LinkError) as caught:
        opened.fetch("http://no-such-host.invalid/a")
    assert caught.value.reason == "no_answer" and "Http(" not in caught.value.detail


def test_fetch_rubbish_instead_of_http_is_a_reason(site, tmp_path):
    def rubbish(handler) -> None:
        handler.wfile.write(b"\x00\xff" * 100 + b"\r\n\r\n")
        handler.close_connection = True

    site["/a"] = rubbish
    assert reason(tmp_path, site.url("/a")) == "no_answer"


def test_shown_has_no_secrets():
    assert shown("https://me:pass@host:8443/a/b.png?token=secret#x") == "https://host:8443/a/b.png"


@pytest.mark.parametrize(
    ("address", "public_only", "allowed"),
    [
        ("8.8.8.8", True, True),
        ("2001:4860:4860::8888", True, True),
        ("127.0.0.1", True, False),
        ("10.1.2.3", True, False),
        ("192.168.1.1", True, False),
        ("::1", True, False),
        ("224.0.0.1", True, False),
        ("0.0.0.0", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("64:ff9b::7f00:1", True, False),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
    ],
)
def test_policy_addresses(address, public_only, allowed):
    assert (Policy().problem(parsed(address), public_only) == "") is allowed
