"""What a broker's URL says, and what is refused about it without showing its password."""

from __future__ import annotations

from typing import Any

import pytest

from litestar_tasks import ConfigurationError, Registry, TasksConfig
from litestar_tasks.broker_url import RedisURL, redact
from litestar_tasks.queues.redis.connection import Endpoint

registry = Registry("urls")


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "service", "plain"),
    [
        ("redis://host", "", [("host", 6379)], "", "redis://host:6379/"),
        ("REDISS://u:p%40@host:1/2?a=b", "", [("host", 1)], "", "rediss://u:p%40@host:1/2?a=b"),
        ("valkeys://[::1]:7000", "", [("::1", 7000)], "", "rediss://[::1]:7000/"),
        ("unix://u:p@/run/r.sock?db=3", "", [], "", "unix://u:p@/run/r.sock?db=3"),
        ("redis+cluster://a,b:7001", "cluster", [("a", 6379), ("b", 7001)], "", "redis://a:6379/"),
        ("valkey+cluster://:pw@a,[::2]:1/0", "cluster", [("a", 6379), ("::2", 1)], "", "redis://:pw@a:6379/0"),
        ("redis+sentinel://a,b:1/main", "sentinel", [("a", 26379), ("b", 1)], "main", "redis://a:26379/"),
        ("rediss+sentinel://u:p@a/my%20db/4?x=y", "sentinel", [("a", 26379)], "my db", "rediss://u:p@a:26379/4?x=y"),
    ],
)
def test_a_url_of_redis_is_read(
    url: str, topology: str, hosts: list[tuple[str, int]], service: str, plain: str
) -> None:
    parsed = RedisURL.parse(url)
    assert (parsed.topology, list(parsed.hosts), parsed.service, parsed.plain) == (topology, hosts, service, plain)
    assert TasksConfig(registry=registry, broker_url=url).broker == redact(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+tunnel://u:hunter2@host", "'redis\\+tunnel://host' has an unknown scheme"),
        (
            "redis://u:hunter2@a,b:7001/0",
            "several servers, host 'a', port 6379, host 'b', port 7001; write redis",
        ),
        ("redis+sentinel://u:hunter2@a,b", "read as sentinels at host 'a', port 26379, host 'b', .* service ''"),
        ("redis+sentinel://u:hunter2@a,/main", "read as sentinels at host 'a', port 26379, host None"),
        ("redis+sentinel://u:hunter2@a/main/x", "database 'x', which cannot be meant"),
        ("redis+cluster://u:hunter2@a,b/1", "a cluster with nodes at host 'a', port 6379, .* has database 0 alone"),
        ("redis+cluster://u:hunter2@a,b:x", "what follows the ':' behind the host is no port"),
        ("redis+cluster://u:hunter2@a,", "host 'a', port 6379, host None"),
        ("redis://:hunter2/x@host", "what follows the ':' behind the host is no port"),
        ("rediss+cluster://u:hunter2#@a,b", "what follows the ':' behind the host is no port"),
        ("unix://u:hunter2@", "names no socket"),
        ("postgresql://u:hunter2/x@host/db", "what follows the ':' behind the host is no port"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_what_was_read_and_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        TasksConfig(registry=registry, broker_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@host:1/2?password=hunter2", "redis://host:1/2"),
        ("redis+cluster://:hunter2@a:1,b:2/", "redis+cluster://a:1,b:2/"),
        ("redis://u:hunter2/with#all?of:them@host", "(a URL that cannot be read)"),
        ("redis://u:hunter2#@host/0", "redis://host/0"),
        ("u:hunter2@host", "(a URL that cannot be read)"),
    ],
)
def test_a_url_is_shown_without_credentials_however_badly_it_is_written(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:hunter2@host:7000/3", "host:7000/3"),
        ("redis+cluster://u:hunter2@a,b:7001", "the cluster a:6379, b:7001"),
        ("redis+sentinel://u:hunter2@a,b:1/main/2", "'main' of the sentinels a:26379, b:1"),
    ],
)
def test_an_endpoint_says_where_it_is_without_credentials(url: str, address: str) -> None:
    endpoint = Endpoint.from_url(url)
    assert endpoint.address == address
    assert "hunter2" not in repr(endpoint)


def test_sentinels_have_credentials_of_their_own_and_nodes_of_a_cluster_those_of_the_url() -> None:
    def asked_with(url: str) -> Any:
        route: Any = Endpoint.from_url(url)._settings["route"]
        return {name: route._settings[name] for name in ("username", "password", "ssl_ca_certs")}

    login = "u:hunter2@a"
    query = "ssl_ca_certs=/ca.pem&sentinel_username=s&sentinel_password=p"
    expected = {"username": "s", "password": "p", "ssl_ca_certs": "/ca.pem"}
    assert asked_with(f"rediss+sentinel://{login}/main?{query}") == expected
    expected = {"username": "u", "password": "hunter2", "ssl_ca_certs": "/ca.pem"}
    assert asked_with(f"rediss+cluster://{login}?ssl_ca_certs=/ca.pem") == expected
