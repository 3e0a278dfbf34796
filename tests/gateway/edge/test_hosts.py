"""For whom requests are taken: by a name that a page on the web had resolve to this machine, for nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.edge.hosts import Hosts, is_loopback
from gateway.sections import Admin, Server
from tests.fakes.gateway import Gateway
from tests.gateway.edge.wire import exchange


def get(host: str) -> bytes:
    return f"GET /health/live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "[::1]", "10.1.2.3:80"])
def test_addresses_and_localhost_are_admitted(host: str) -> None:
    assert Hosts().admits(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "localhost.", "127.0.0.1.evil.example", "notlocalhost"),
        *("", ":8000", "localhost:", "localhost:x", "localhost:123456", "a@localhost", "localhost/", "localhost, evil.example"),
        *("[localhost]", "[::1", "::1", "127.0.0.1 ", "local\u00e9", "256.1.1.1", "0x7f.1", "2130706433"),
    ],
)
def test_other_names_and_what_is_no_host_are_not(host: str) -> None:
    assert not Hosts().admits(host)


def test_the_configured_names_are_admitted_and_no_others() -> None:
    hosts = Hosts(["shelf.example.org", "*.Inner.example"], own="gateway-1")
    assert all(hosts.admits(host) for host in ("shelf.example.org:443", "SHELF.example.org", "a.inner.example", "gateway-1:8000"))
    assert not any(hosts.admits(host) for host in ("example.org", "a.shelf.example.org", "inner.example", "ainner.example"))


def test_a_star_admits_any_name_and_still_nothing_that_is_none() -> None:
    assert Hosts(["*"]).admits("evil.example")
    assert not Hosts(["*"]).admits("a b")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_is_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.nip.io"])  # noqa: S104
def test_all_else_is_beyond_loopback(host: str) -> None:
    assert not is_loopback(host)


async def test_a_foreign_host_is_421_on_both_listeners_and_told_which_setting_admits_it(gateway: Gateway) -> None:
    for url, setting in ((gateway.url, "server"), (gateway.admin_url, "admin")):
        (answer,) = await exchange(url, get("evil.example").replace(b"/live", b"/ready"))
        assert (answer.status, answer.error["code"]) == (421, "wrong_host")
        assert f"`{setting}.allowed_hosts`" in answer.error["message"]
        assert "evil" not in answer.error["message"]
        (answer,) = await exchange(url, get("localhost:1").replace(b"/live", b"/ready"))
        assert answer.status == 200


async def test_a_configured_name_is_served(tmp_path: Path) -> None:
    server, admin = Server(allowed_hosts=("shelf.example.org",)), Admin(allowed_hosts=("shelf-admin",))
    async with Gateway(tmp_path, server=server, admin=admin).running() as gateway:
        assert [answer.status for answer in await exchange(gateway.url, get("shelf.example.org"))] == [200]
        assert [answer.status for answer in await exchange(gateway.url, get("shelf-admin"))] == [421]
        assert [answer.status for answer in await exchange(gateway.admin_url, get("shelf-admin:9"))] != [421]


async def test_what_a_proxy_would_say_of_the_client_is_not_believed() -> None:
    from gateway.edge.limits import Limits
    from tests.fakes.gateway import serving
    from tests.gateway.edge.wire import small_app

    forwarded = b"x-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-host: y\r\nforwarded: for=9.9.9.9;host=y\r\n"
    app, _ = small_app(Limits())
    async with serving(app) as url:
        request = b"GET /scope HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-prefix: /a\r\n" + forwarded + b"\r\n"
        (answer,) = await exchange(url, request)
    assert b'"client":"127.0.0.1","scheme":"http","path":"/scope"' in answer.body
