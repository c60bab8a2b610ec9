"""Where webhooks may lead: which URLs are taken, which addresses get a packet, and how little of an answer is read."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi.testclient import TestClient

from api.main import create_app
from shared.settings import Settings
from shared.webhook_urls import Receiver, WebhookRules, is_public
from tests.integration.gateway_probes import CLIP
from tests.integration.receivers import receiving
from workers import webhooks
from workers.webhooks import Answer, Poster, WebhookFailedError

PUBLIC = "93.184.215.14"
NAME = "hooks.example.com"
FORBIDDEN = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.9.9.9"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::10.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
    *("::ffff:0:8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "100::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:db8::1"),
    *("2002:a00:1::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fe80::1%eth0", "2606:2800:220:1::1%lo", "fec0::1", "ff02::1", "ff0e::1"),
]
ALLOWED = [
    "8.8.8.8",
    PUBLIC,
    "223.255.255.254",
    "2606:2800:220:1::1",
    "2a00:1450::1",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_address_of_a_special_range_is_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, reserved, documentation, and IPv4 inside IPv6."""
    assert not is_public(ipaddress.ip_address(address))
    for rules in (WebhookRules(), WebhookRules(allow_loopback=True)):
        assert not rules.may_connect(NAME, address)


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_are(address: str) -> None:
    """Also translated or mapped into IPv6."""
    assert WebhookRules().may_connect(NAME, address)


def test_every_neighbour_of_a_forbidden_network_is_as_it_should_be() -> None:
    """No network reaches further than its registry says."""
    for inside, outside in (
        ("9.255.255.255", "10.0.0.0"),
        ("11.0.0.0", "10.255.255.255"),
        ("100.63.255.255", "100.64.0.0"),
        ("100.128.0.0", "100.127.255.255"),
        ("172.15.255.255", "172.16.0.0"),
        ("172.32.0.0", "172.31.255.255"),
        ("168.63.129.15", "168.63.129.16"),
        ("2001:200::", "2001:1ff:ffff::"),
        ("2003::", "2002:ffff::"),
    ):
        assert is_public(ipaddress.ip_address(inside))
        assert not is_public(ipaddress.ip_address(outside))


BAD_URLS = [
    *(
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "x",
    ),
    *(
        "https:///path",
        "https://",
        "https://@/",
        "https://user@example.com/",
        "https://a:b@example.com/",
        "https://:@h.com/",
    ),
    *(
        "https://example.com\\@10.0.0.1/",
        "https://example.com:@10.0.0.1/",
        "https://example.com/#here",
        "https://h.com#",
    ),
    *("https://example.com:0/", "https://example.com:65536/", "https://example.com:-1/", "https://example.com:x/"),
    *(
        "https://localhost/",
        "https://LOCALHOST/",
        "https://localhost./",
        "https://a.localhost/",
        "https://router.local/",
    ),
    *(
        "https://metadata.google.internal/",
        "https://nas.home.arpa/",
        "https://abc.onion/",
        "https://intranet/",
        "https://./",
    ),
    *("https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/"),
    *(
        "https://127.0.1/",
        "https://0/",
        "https://0x/",
        "https://134744072/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
    ),
    *("https://999.1.1.1/", "https://1.1.1.256/", "https://[::]/", "https://[::1]/", "https://[fe80::1%25eth0]/"),
    *(
        "https://[fe80::1%eth0]/",
        "https://[2606:2800:220:1::1%25lo]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::1",
        "https://[x]/",
    ),
    *("https://[64:ff9b::10.0.0.1]/", "https://[2002:7f00:1::]/", "https://169.254.169.254/latest/meta-data/"),
    *("https://１２７.0.0.1/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://ⓛocalhost/", "https://xn--/"),
    *(
        "https://exa mple.com/",
        "https://exa%6dple.com/",
        "https://example.com%00.evil.com/",
        "https://a..b.com/",
        "https://-a.com/",
    ),
    *(
        "https://exam\tple.com/",
        "https://example.com/\r\nX: y",
        f"https://{'a' * 64}.com/",
        f"https://{'a.' * 127}com/",
    ),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_can_be_known_to_be_wrong_is_refused(url: str) -> None:
    """Without asking any resolver."""
    with pytest.raises(ValueError, match=r"must|is no URL"):
        WebhookRules().receiver(url)


def test_the_gateway_refuses_them_by_field_and_queues_nothing(settings: Settings) -> None:
    """With a 422 that says what is wrong."""
    app = create_app(settings.model_copy(update={"webhook_allow_loopback": False}))
    with TestClient(app, base_url="http://localhost") as gateway:
        for url in BAD_URLS:
            answer = gateway.post("/v1/jobs", json=CLIP | {"webhook": {"url": url}})
            assert answer.status_code == 422, url
            assert answer.json()["errors"][0]["field"] == "webhook.url", url
        assert gateway.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://example.com/a?b=c", Receiver("https", "example.com", 443, "/a?b=c")),
        ("HTTPS://EXAMPLE.com.:8443", Receiver("https", "example.com", 8443, "/")),
        ("https://bücher.example/ü", Receiver("https", "xn--bcher-kva.example", 443, "/%C3%BC")),
        ("https://a_b.example.com:443/", Receiver("https", "a_b.example.com", 443, "/")),
        ("https://8.8.8.8/", Receiver("https", "8.8.8.8", 443, "/")),
        ("https://[2606:2800:220:1::1]:1/", Receiver("https", "2606:2800:220:1::1", 1, "/")),
        ("https://example.com/%2e%2e/x%0d%0a", Receiver("https", "example.com", 443, "/%2e%2e/x%0d%0a")),
    ],
)
def test_a_good_url_names_its_receiver(url: str, receiver: Receiver) -> None:
    """Lower case, without a final dot, in ASCII."""
    assert WebhookRules().receiver(url) == receiver


def test_settings_open_loopback_and_named_private_hosts_and_nothing_else() -> None:
    """An on-premises host stays https, and never leads to this machine or its link."""
    development = WebhookRules(allow_loopback=True)
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert development.receiver(f"http://{host}:8000/").scheme == "http"
    assert development.may_connect("localhost", "127.0.0.1")
    assert not development.may_connect("localhost", "10.0.0.1")
    assert not development.may_connect("localhost", PUBLIC)
    rules = WebhookRules(allowed_hosts=frozenset({"hooks.lan", "10.1.2.3", "nas"}))
    assert [rules.receiver(f"https://{host}/").host for host in ("hooks.lan", "10.1.2.3", "NAS.")] == [
        *("hooks.lan", "10.1.2.3", "nas"),
    ]
    for bad in ("http://hooks.lan/", "https://other.local/", "https://10.1.2.4/"):
        with pytest.raises(ValueError, match="must"):
            rules.receiver(bad)
    for address in ("10.9.9.9", "192.168.1.1", "fd00::1", "100.64.0.1", PUBLIC):
        assert rules.may_connect("hooks.lan", address)
        assert address == PUBLIC or not rules.may_connect("other.lan", address)
    for address in ("127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"):
        assert not rules.may_connect("hooks.lan", address)


class Network:
    """Stands between the courier and the Internet: names have the addresses that a test gives them, connections are
    noted and go to a port of this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.port = 1
        self.refusing: set[str] = set()
        plain = httpcore.AnyIOBackend.connect_tcp

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            self.asked.append(host)
            if host not in self.addresses:
                raise socket.gaierror("no such name")
            return [
                (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in self.addresses[host]
            ]

        async def connect(backend: Any, host: str, port: int, **more: Any) -> httpcore.AsyncNetworkStream:
            self.connected.append((host, port))
            if host in self.refusing:
                raise httpcore.ConnectError("refused")
            return await plain(backend, "127.0.0.1", self.port, **more)

        monkeypatch.setattr("workers.outbound.socket.getaddrinfo", getaddrinfo)
        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """An Internet of the test's own."""
    return Network(monkeypatch)


def posted(url: str, rules: WebhookRules | None = None) -> Answer:
    return asyncio.run(Poster(rules or WebhookRules(), 4).post(url, {"content-type": "application/json"}, b"{}"))


@pytest.mark.parametrize("address", [one for one in FORBIDDEN if "%" not in one])
def test_a_name_that_leads_inside_gets_not_a_packet(network: Network, address: str) -> None:
    """Alone, and beside a public address, before or after it; what it stands for is not told."""
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
        network.addresses[NAME] = addresses
        with pytest.raises(WebhookFailedError, match="not public") as error:
            posted(f"https://{NAME}/")
        assert address not in str(error.value)
    assert network.connected == []


def test_an_answer_that_changes_between_check_and_connection_changes_nothing(
    network: Network, tls: tuple[ssl.SSLContext, Path]
) -> None:
    """The name is asked for once, and the connection goes to the number that was checked."""
    answers = iter([[PUBLIC], ["127.0.0.1"], ["10.0.0.1"]])

    class Rebinding(dict[str, list[str]]):
        def __getitem__(self, host: str) -> list[str]:
            return next(answers)

    network.addresses = Rebinding({NAME: []})
    with receiving(tls[0]) as receiver:
        network.port = receiver.server_port
        assert posted(f"https://{NAME}/204").status == 204
        assert (network.asked, network.connected) == ([NAME], [(PUBLIC, 443)])
        with pytest.raises(WebhookFailedError, match="not public"):
            posted(f"https://{NAME}/204")
    assert len(network.connected) == len(receiver.calls) == 1


def test_the_next_address_is_tried_and_families_take_turns(network: Network) -> None:
    """Three at most."""
    six = ["2606:2800::1", "2606:2800::2", "2606:2800::3"]
    network.addresses[NAME] = [*six, PUBLIC]
    network.refusing = {*six, PUBLIC}
    with pytest.raises(WebhookFailedError, match="ConnectError: refused"):
        posted(f"https://{NAME}/")
    assert [host for host, _ in network.connected] == [six[0], PUBLIC, six[1]]


def test_a_name_without_an_address_is_a_failure(network: Network) -> None:
    """As any other that passes."""
    with pytest.raises(WebhookFailedError, match="cannot be resolved"):
        posted(f"https://{NAME}/")


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for NAME, by an authority that this process trusts; notes the SNI."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "tls.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem


def test_tls_and_host_keep_the_name(network: Network, tls: tuple[ssl.SSLContext, Path]) -> None:
    """A real TLS server sees the name in SNI and in Host, though the connection went to a number; the port is told
    where it is not 443."""
    context, _ = tls
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, context: names.append(name)
    network.addresses[NAME] = [PUBLIC]
    with receiving(context) as receiver:
        network.port = receiver.server_port
        assert posted(f"https://{NAME}./204").status == 204
        assert posted(f"https://{NAME}:8443/204").status == 204
    assert names == [NAME, NAME]
    assert [call.headers["host"] for call in receiver.calls] == [NAME, f"{NAME}:8443"]
    assert network.connected == [(PUBLIC, 443), (PUBLIC, 8443)]


def test_a_certificate_for_another_name_is_refused(network: Network, tls: tuple[ssl.SSLContext, Path]) -> None:
    """Nothing is sent."""
    network.addresses["other.example.com"] = [PUBLIC]
    with receiving(tls[0]) as receiver:
        network.port = receiver.server_port
        with pytest.raises(WebhookFailedError, match="certificate"):
            posted("https://other.example.com/204")
    assert receiver.calls == []


def test_proxy_variables_are_not_read(
    network: Network, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the receiver."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    network.addresses[NAME] = [PUBLIC]
    with receiving(tls[0]) as receiver:
        network.port = receiver.server_port
        assert posted(f"https://{NAME}/204").status == 204
    assert network.connected == [(PUBLIC, 443)]


def test_a_redirect_inside_is_answered_as_it_is(network: Network, tls: tuple[ssl.SSLContext, Path]) -> None:
    """Nobody goes there."""
    network.addresses[NAME] = [PUBLIC]
    with receiving(tls[0]) as receiver:
        receiver.extra["location"] = "https://169.254.169.254/"
        network.port = receiver.server_port
        assert posted(f"https://{NAME}/307").status == 307
    assert len(network.connected) == 1


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does with each connection what a test says; its address on loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = ThreadPoolExecutor(4)

    def handle(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            try:
                serve(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.submit(handle, connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        threads.shutdown()


def trickle(connection: socket.socket, first: bytes, drop: bytes) -> None:
    """Say something once and then a drop again and again, for as long as anybody listens."""
    connection.recv(65_536)
    connection.sendall(first)
    while drop:
        connection.sendall(drop)
        time.sleep(0.02)
    while connection.recv(65_536):
        continue


LOCAL = WebhookRules(allow_loopback=True)


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
)
def test_a_head_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch, first: bytes, drop: bytes) -> None:
    """After the time-out in all, however lively the line is."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    with raw_server(lambda connection: trickle(connection, first, drop)) as address:
        started_s = time.monotonic()
        with pytest.raises(WebhookFailedError, match=r"no answer within|ProtocolError"):
            posted(f"http://{address}/", LOCAL)
        assert time.monotonic() - started_s < 2


def test_a_body_that_drips_for_ever_ends_with_the_time_and_counts_as_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has said 200 has it; to post it again would be a repeat."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    with raw_server(lambda connection: trickle(connection, b"HTTP/1.1 200 OK\r\n\r\n", b"x")) as address:
        started_s = time.monotonic()
        assert posted(f"http://{address}/", LOCAL).status == 200
        assert time.monotonic() - started_s < 2


def test_of_a_huge_body_a_kilobyte_is_read() -> None:
    """What the line itself has taken in is thrown away unread."""
    sent = [0]

    def pour(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        while True:
            sent[0] += connection.send(b"x" * 65_536)

    with raw_server(pour) as address:
        started_s = time.monotonic()
        assert posted(f"http://{address}/", LOCAL).status == 200
        assert time.monotonic() - started_s < 2
    assert sent[0] < 2**24


def test_of_endless_headers_64_kilobytes_are_read() -> None:
    """Then it is no answer."""

    def pour(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x: " + b"y" * 1_000 + b"\r\n")

    with raw_server(pour) as address, pytest.raises(WebhookFailedError, match="longer than 65536 bytes"):
        posted(f"http://{address}/", LOCAL)


def test_a_tls_handshake_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the same time."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    with raw_server(lambda connection: trickle(connection, b"", b"\x16\x03\x01")) as address:
        started_s = time.monotonic()
        with pytest.raises(WebhookFailedError):
            posted(f"https://{address}/", LOCAL)
        assert time.monotonic() - started_s < 2


def test_a_resolver_that_hangs_holds_up_nobody_else(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are asked for in threads of their own, each post for its time alone."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    is_over = threading.Event()
    answer = socket.getaddrinfo

    def hanging(host: str, *arguments: Any, **more: Any) -> Any:
        if host.startswith("slow"):
            is_over.wait(10)
        return answer(host, *arguments, **more)

    monkeypatch.setattr("workers.outbound.socket.getaddrinfo", hanging)
    network.addresses["127.0.0.1"] = ["127.0.0.1"]

    async def run(url: str) -> list[Any]:
        poster = Poster(LOCAL, 8)
        slow = [poster.post(f"https://slow{number}.example.com/", {}, b"{}") for number in range(8)]
        return await asyncio.gather(*slow, poster.post(url, {}, b"{}"), return_exceptions=True)

    with receiving() as receiver:
        network.port = receiver.server_port
        *failed, good = asyncio.run(run(f"{receiver.url}/204"))
    is_over.set()
    assert good == Answer(204)
    assert all("no answer within" in str(one) for one in failed)
