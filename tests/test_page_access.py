"""Who may use the page: host names, other pages, tokens, sessions of others, and what the browser may load."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx2 as httpx
import pytest

from serving.application import STATIC
from tests.page import client, opened, page, tiny_answering_model

TOKEN = "the-token"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    with page(model, tmp_path_factory.mktemp("root")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(model, tmp_path_factory):
    with page(model, tmp_path_factory.mktemp("root"), token=TOKEN) as found:
        yield found


def test_a_foreign_host_name_is_refused_on_loopback(address):
    assert httpx.get(address).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        answer = httpx.post(f"{address}/api/session", headers={"host": host})
        assert answer.status_code in (400, 403) and "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_cannot_change_anything(address, headers):
    with client(address) as user:
        refused = user.request("DELETE", "/api/session", headers=headers)
        assert refused.status_code == 403 and "another page" in refused.json()["detail"]
        assert user.request("DELETE", "/api/session", headers={"origin": address}).status_code == 204


def test_the_token_is_asked_for_everywhere(guarded):
    paths = ["/", "/static/main.js", "/static/viewer/niivue.umd.js", "/api/session.zip", "/nowhere", "/?token=wrong"]
    for path in paths:
        answer = httpx.get(guarded + path)
        assert answer.status_code == 401 and "token" in answer.json()["detail"], path
    for method, path in (("POST", "/api/session"), ("POST", "/?token=" + TOKEN), ("GET", "/static/?token=" + TOKEN)):
        assert httpx.request(method, guarded + path).status_code == 401
    for wrong in ("Bearer", "Bearer the-toke", "Basic the-token", "the-token", "Bearer the-tokén".encode()):
        assert httpx.get(guarded, headers={"authorization": wrong}).status_code == 401


def test_the_token_opens_by_header_and_by_the_first_visit(guarded):
    assert httpx.get(guarded, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    with httpx.Client(base_url=guarded) as browser:
        first = browser.get("/", params={"token": TOKEN})
        assert first.status_code == 303 and first.headers["location"] == "/"
        cookie = first.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie
        assert browser.get("/").status_code == 200 and browser.post("/api/session").status_code == 200


def test_a_session_sees_its_own_volumes_alone(address):
    with client(address) as one, client(address) as other:
        volume = opened(one)
        assert one.get(f"/api/volumes/{volume}/image.nii").status_code == 200
        for path in ("image.nii", "report.html", "masks"):
            refused = other.get(f"/api/volumes/{volume}/{path}")
            assert refused.status_code == 422 and "no such volume" in refused.json()["detail"]
        assert httpx.get(f"{address}/api/volumes/{volume}/image.nii").status_code == 401


def test_every_response_forbids_what_is_not_the_servers_own(address):
    for path in ("/", "/static/main.js", "/api/session.zip", "/nowhere"):
        headers = httpx.get(address + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert httpx.get(f"{address}/docs").status_code == httpx.get(f"{address}/openapi.json").status_code == 404


@pytest.mark.parametrize(
    "path", ["/static/../limits.py", "/static/%2e%2e/limits.py", "/static/..%2flimits.py", "//etc/passwd"]
)
def test_no_file_beside_the_static_ones_is_served(address, path):
    with httpx.Client() as user:
        request = user.build_request("GET", address)
        request.url = request.url.copy_with(raw_path=path.encode())
        assert user.send(request).status_code == 404


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline():
    page_text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page_text)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", page_text)
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        text = path.read_text()
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name


def test_the_viewers_file_is_the_published_one_with_its_licence():
    folder = Path(STATIC).parents[1] / "evaluation" / "report" / "viewer"
    digest = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text(encoding="utf-8")
    assert "BSD 2-Clause" in (folder / "LICENSE.niivue.txt").read_text()
