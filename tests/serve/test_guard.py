"""Who may ask and how much: tokens, Host, Origin, body limits, paths."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from servestubs import StubModel, blank, listening

from qp2train.errors import ServeError
from qp2train.serve.app import create_app
from qp2train.serve.models import Models
from qp2train.serve.run import _address, listen_on
from qp2train.serve.settings import Settings

TOKEN = "a-token-of-20-chars~"
PROMPT = {"type": "vit_h", "b64img": blank(), "bbox": [1, 1, 9, 9]}


def connected(base: str) -> contextlib.closing[http.client.HTTPConnection]:
    """Below httpx, which tidies paths up and adds headers."""
    at = urlsplit(base)
    return contextlib.closing(http.client.HTTPConnection(at.hostname, at.port, timeout=5))


def served(**settings: object):
    return listening(create_app(Models([("stub", StubModel())]), settings=Settings(**settings)))


@pytest.fixture(scope="module")
def free() -> Iterator[str]:
    with served(body_bytes=100_000, seconds=1.5) as base:
        yield base


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with served(token=TOKEN) as base:
        yield base


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu-server", "8.8.8.8"])
def test_beyond_this_computer_a_token_is_needed(host: str) -> None:
    with pytest.raises(ServeError, match="--token"):
        Settings(host=host)
    assert Settings(host=host, token=TOKEN).token == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "::1", "LOCALHOST"])
def test_on_this_computer_it_is_not(host: str) -> None:
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "has spaces in it ....", "has/slashes/in/it/...", "ä" * 20]
)
def test_tokens_that_are_short_or_do_not_fit_into_a_path_are_refused(token: str) -> None:
    with pytest.raises(ServeError, match="16 or more"):
        Settings(token=token)


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"seconds": float("nan")}, {"port": 70000}, {"cache_bytes": -1}])
def test_limits_that_are_none_are_refused(wrong: dict) -> None:
    with pytest.raises(ServeError):
        Settings(**wrong)


def test_without_the_token_there_is_only_health(guarded: str) -> None:
    for path in ("/", "/sam/version/", "/metrics", "/openapi.json", "/api/v1/models", "/page.js", "/nowhere", "/t/"):
        for headers in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer ä".encode()},
        ):
            answer = httpx.get(guarded + path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.post(f"{guarded}/sam/", json=PROMPT).status_code == 401
    assert httpx.get(f"{guarded}/t/wrong-token-wrong-token/sam/version/").status_code == 401
    assert httpx.get(f"{guarded}/t/{TOKEN[:-1]}/sam/version/").status_code == 401
    assert httpx.get(f"{guarded}/health").json() == {"status": "ok"}


def test_the_token_is_a_header_or_the_beginning_of_the_path(guarded: str) -> None:
    for base, headers in (
        (guarded, {"Authorization": f"Bearer {TOKEN}"}),
        (guarded, {"authorization": f"bearer  {TOKEN}"}),
        (f"{guarded}/t/{TOKEN}", {}),
    ):
        assert httpx.get(f"{base}/sam/version/", headers=headers).status_code == 200
        for path in ("/sam", "/sam/"):
            assert len(httpx.post(base + path, json=PROMPT, headers=headers).json()) == 1
        assert "try prompts" in httpx.get(f"{base}/", headers=headers).text


def test_without_the_last_slash_the_page_is_found_all_the_same(guarded: str) -> None:
    answer = httpx.get(f"{guarded}/t/{TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/t/{TOKEN}/")
    assert httpx.get(f"{guarded}/t/wrong-token-wrong-token").status_code == 401


def test_on_all_addresses_the_computers_name_is_told() -> None:
    settings = Settings(host="0.0.0.0", port=0, token=TOKEN)
    with contextlib.closing(listen_on(settings.host, settings.port)) as bound:
        assert _address(bound, settings).startswith(f"http://{socket.gethostname()}:")


def test_with_a_token_any_name_of_the_server_will_do(guarded: str) -> None:
    headers = {"Host": "gpu-server:8000", "Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{guarded}/sam/version/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::1", "a@b"]
)
def test_a_name_that_was_made_to_point_here_is_refused(free: str, host: str) -> None:
    """DNS rebinding: the browser takes evil.example for this computer, and says so in Host."""
    assert httpx.get(f"{free}/sam/version/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:80", "[::1]:8000"])
def test_this_computers_own_names_are_not(free: str, host: str) -> None:
    assert httpx.get(f"{free}/sam/version/", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused_and_get_no_leave(free: str) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1", "http://["):
        answer = httpx.post(f"{free}/sam/", json=PROMPT, headers={"Origin": origin})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = httpx.options(f"{free}/sam/", headers={"Origin": "https://evil.example"})
    assert preflight.status_code == 403
    assert httpx.post(f"{free}/sam/", json=PROMPT, headers={"Origin": free}).status_code == 200
    form = httpx.post(f"{free}/sam/", content=json.dumps(PROMPT), headers={"Content-Type": "text/plain"})
    assert form.status_code == 422


def test_every_answer_forbids_foreign_content(free: str) -> None:
    for path in ("/", "/page.js", "/nowhere", "/health", "/sam/weights/?type=no"):
        headers = httpx.get(free + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_body_that_is_too_long_is_refused_by_its_length_alone(free: str) -> None:
    at = urlsplit(free)
    with socket.create_connection((at.hostname, at.port), timeout=5) as open_socket:
        open_socket.sendall(b"POST /sam/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\n\r\n")
        assert b" 413 " in open_socket.recv(1000).split(b"\r\n")[0]


def test_a_body_in_chunks_is_counted_while_it_comes(free: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 10_000
            yield b"x" * 10_000

    with connected(free) as connection:
        with contextlib.suppress(ConnectionError):  # it closes before all is sent
            connection.request("POST", "/sam/", endless(), encode_chunked=True)
        assert connection.sock is not None
        assert b" 413 " in connection.sock.recv(1000).split(b"\r\n")[0]
    assert sent < 10_000_000
    assert httpx.get(f"{free}/health").status_code == 200


def test_a_body_in_chunks_that_fits_is_taken(free: str) -> None:
    text = json.dumps(PROMPT).encode()
    parts = (text[i : i + 100] for i in range(0, len(text), 100))
    answer = httpx.post(f"{free}/sam/", content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_a_body_that_never_ends_is_given_up(free: str) -> None:
    at = urlsplit(free)
    with socket.create_connection((at.hostname, at.port), timeout=10) as open_socket:
        open_socket.sendall(b"POST /sam/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        assert b" 408 " in open_socket.recv(1000).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/page/../run.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/page.js/../../app.py",
        "//etc/passwd",
        "/run.py",
        "/page/page.html",
        "/t/x/../../health",
    ],
)
def test_only_the_pages_own_files_are_given_out(free: str, path: str) -> None:
    with connected(free) as connection:
        connection.request("GET", path)
        assert connection.getresponse().status == 404


@pytest.mark.parametrize("sent", [b"{", b"[" * 100_00, b'"\xff"', b"null", b"[]", b'{"type": NaN}', b"", b"\x00" * 50])
def test_what_is_no_json_of_ours_is_refused(free: str, sent: bytes) -> None:
    answer = httpx.post(f"{free}/sam/", content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]


def test_methods_and_paths_that_are_none(free: str) -> None:
    assert httpx.get(f"{free}/sam/").status_code == 405
    assert httpx.get(f"{free}/sam/version").status_code == 404
    assert httpx.request("BREW", f"{free}/sam/").status_code == 405


def test_metrics_count_routes_and_keep_nothing_of_what_was_sent(free: str) -> None:
    httpx.get(f"{free}/secret-path-of-a-patient")
    httpx.post(f"{free}/sam/", json=PROMPT)
    answer = httpx.get(f"{free}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'qp2train_requests_total{method="POST",route="/sam/",status="200"}' in answer.text
    assert 'qp2train_requests_total{method="GET",route="other",status="404"}' in answer.text
    assert "qp2train_request_seconds_bucket" in answer.text
    assert "secret" not in answer.text
