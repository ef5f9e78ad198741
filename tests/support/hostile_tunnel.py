"""What a hostile tunnel says: wrong, huge, foreign, valid but forbidden, by the field's name.

`CASES` maps `MESSAGE.FIELD: what` to a message; `refusal_of` is what the refusal must name.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings

Request = pb.NetworkSettingsRequest
V4, V6, DNS = Request.IPv4Settings, Request.IPv6Settings, Request.DNSSettings
OWN = "100.64.7.1"
OWN6 = "fd12:3456::7"
LONG = "x" * 100_000
WITHOUT_EFFECT = ("everything", "foreign", "wider")  # excluded where nothing is included around it
CONTROL = "\x1b[2J\n\u202e"
ID = b"i" * 16
# Fields that carry no request: they are answers, ids, or hold the fields that have cases.
NO_CASE = ("rpc", "start", "stop", "wake")


def settings_cases() -> Iterator[tuple[str, str, Request]]:
    """Yield field, what is wrong with it, and the request."""
    for name, value in (("too small", 1279), ("huge", 2**32 - 1), ("over the limit", 9001)):
        yield "mtu", name, Request(mtu=value)
    huge = Request(mtu=1280, tunnel_overhead_bytes=2**32 - 1)
    yield "tunnel_overhead_bytes", "huge", huge
    for name, text in (("control characters", CONTROL), ("huge", LONG), ("a name", "example.org")):
        yield "tunnel_remote_address", name, Request(mtu=1280, tunnel_remote_address=text)
    inside = make_settings([], ["100.64.0.0/16"], mtu=1280)
    inside.tunnel_remote_address = "100.64.0.9"
    yield "tunnel_remote_address", "inside a route", inside
    yield from v4_cases()
    yield from v6_cases()
    yield from dns_cases()


def v4_cases() -> Iterator[tuple[str, str, Request]]:
    def request(settings: V4) -> Request:
        return Request(mtu=1280, ipv4_settings=settings)

    full = "255.255.255.255"
    for name, text in (
        ("foreign", "192.0.2.1"),
        ("another member's", "100.64.0.2"),
        ("loopback", "127.0.0.1"),
        ("unspecified", "0.0.0.0"),
        ("of the other family", OWN6),
        ("huge", LONG),
        ("empty", ""),
        ("control characters", CONTROL),
    ):
        yield "ipv4_settings.addrs", name, request(V4(addrs=[text], subnet_masks=[full]))
    many = V4(addrs=[OWN] * 9, subnet_masks=[full] * 9)
    yield "ipv4_settings.addrs", "too many", request(many)
    for name, text in (
        ("empty", ""),
        ("no mask", "255.0.255.0"),
        ("a length", "32"),
        ("huge", LONG),
    ):
        yield "ipv4_settings.subnet_masks", name, request(V4(addrs=[OWN], subnet_masks=[text]))
    yield "ipv4_settings.subnet_masks", "lacking", request(V4(addrs=[OWN]))
    yield "ipv4_settings.subnet_masks", "too many", request(V4(subnet_masks=[full] * 1000))
    for name, text in (("foreign", "192.0.2.1"), ("huge", LONG)):
        yield "ipv4_settings.router", name, request(V4(router=text))
    for kind in ("included_routes", "excluded_routes"):
        field = f"ipv4_settings.{kind}"
        for part, name, route in (
            ("destination", "everything", V4.IPv4Route(destination="0.0.0.0", mask="0.0.0.0")),
            ("destination", "foreign", V4.IPv4Route(destination="192.0.2.0", mask="255.255.255.0")),
            ("destination", "bits", V4.IPv4Route(destination="100.64.0.1", mask="255.255.0.0")),
            ("destination", "huge", V4.IPv4Route(destination=LONG, mask="255.255.0.0")),
            ("mask", "empty", V4.IPv4Route(destination="100.64.0.0")),
            ("mask", "huge", V4.IPv4Route(destination="100.64.0.0", mask=LONG)),
            ("mask", "wider", V4.IPv4Route(destination="100.0.0.0", mask="255.0.0.0")),
            (
                "router",
                "own",
                V4.IPv4Route(destination="100.64.0.0", mask="255.255.0.0", router=OWN),
            ),
        ):
            if kind == "included_routes" or name not in WITHOUT_EFFECT:
                yield f"{field}.{part}", name, request(V4(**{kind: [route]}))
        yield field, "too many", request(V4(**{kind: [V4.IPv4Route()] * 65}))


def v6_cases() -> Iterator[tuple[str, str, Request]]:
    def request(settings: V6) -> Request:
        return Request(mtu=1280, ipv6_settings=settings)

    for name, text in (
        ("foreign", "2001:db8::1"),
        ("another member's", "fd12:3456::2"),
        ("link-local", "fe80::1"),
        ("loopback", "::1"),
        ("mapped", "::ffff:192.0.2.1"),
        ("with a zone", f"{OWN6}%lo"),
        ("huge", LONG),
    ):
        yield "ipv6_settings.addrs", name, request(V6(addrs=[text], prefix_lengths=[128]))
    yield "ipv6_settings.addrs", "too many", request(V6(addrs=[OWN6] * 9, prefix_lengths=[128] * 9))
    yield "ipv6_settings.prefix_lengths", "lacking", request(V6(addrs=[OWN6]))
    yield "ipv6_settings.prefix_lengths", "too many", request(V6(prefix_lengths=[48] * 1000))
    huge = V6(addrs=[OWN6], prefix_lengths=[2**32 - 1])
    yield "ipv6_settings.prefix_lengths", "huge", request(huge)
    for kind in ("included_routes", "excluded_routes"):
        field = f"ipv6_settings.{kind}"
        for part, name, route in (
            ("destination", "everything", V6.IPv6Route(destination="::", prefix_length=0)),
            ("destination", "foreign", V6.IPv6Route(destination="2001:db8::", prefix_length=64)),
            ("destination", "bits", V6.IPv6Route(destination=OWN6, prefix_length=48)),
            ("destination", "huge", V6.IPv6Route(destination=LONG, prefix_length=48)),
            ("prefix_length", "huge", V6.IPv6Route(destination="fd12::", prefix_length=129)),
            ("prefix_length", "wider", V6.IPv6Route(destination="fd00::", prefix_length=8)),
            ("router", "own", V6.IPv6Route(destination="fd12::", prefix_length=48, router=OWN6)),
        ):
            if kind == "included_routes" or name not in WITHOUT_EFFECT:
                yield f"{field}.{part}", name, request(V6(**{kind: [route]}))
        yield field, "too many", request(V6(**{kind: [V6.IPv6Route()] * 65}))


def dns_cases() -> Iterator[tuple[str, str, Request]]:
    def request(settings: DNS) -> Request:
        return Request(mtu=1280, dns_settings=settings)

    for name, text in (
        ("foreign", "9.9.9.9"),
        ("loopback", "127.0.0.1"),
        ("another member's", "100.64.0.2"),
        ("empty", ""),
        ("huge", LONG),
        ("control characters", CONTROL),
    ):
        yield "dns_settings.servers", name, request(DNS(servers=[text]))
    yield "dns_settings.servers", "too many", request(DNS(servers=[OWN] * 5))
    yield "dns_settings.servers", "lacking", request(DNS(match_domains=["home.internal"]))
    for name, text in (
        ("empty", ""),
        ("the root", "."),
        ("of all", "com"),
        ("foreign", "example.com"),
        ("almost ours", "xhome.internal"),
        ("a blank", "a b.home.internal"),
        ("huge", LONG),
        ("control characters", f"{CONTROL}.home.internal"),
    ):
        if text:
            yield "dns_settings.domain_name", name, request(DNS(servers=[OWN], domain_name=text))
        for field in ("search_domains", "match_domains"):
            yield f"dns_settings.{field}", name, request(DNS(servers=[OWN], **{field: [text]}))
    for field in ("search_domains", "match_domains"):
        many = DNS(servers=[OWN], **{field: ["home.internal"] * 17})
        yield f"dns_settings.{field}", "too many", request(many)
    switch = DNS(servers=[OWN], match_domains=["com"], match_domains_no_search=True)
    yield "dns_settings.match_domains_no_search", "with a foreign domain", request(switch)


def log_cases() -> Iterator[tuple[str, str, pb.Log]]:
    unknown = pb.Log(message="m")
    unknown.MergeFromString(b"\x08\x63")  # level 99
    yield "level", "unknown", unknown
    yield "message", "huge", pb.Log(message=LONG * 50)
    yield "logger_names", "huge", pb.Log(logger_names=[LONG])
    yield "logger_names", "too many", pb.Log(logger_names=["a"] * 1000)
    yield "fields", "too many", pb.Log(fields=[pb.Log.Field(name="a")] * 1000)
    yield "fields.name", "huge", pb.Log(fields=[pb.Log.Field(name=LONG)])
    yield "fields.value", "huge", pb.Log(fields=[pb.Log.Field(name="a", value=LONG)])


def update_cases() -> Iterator[tuple[str, str, pb.PeerUpdate]]:
    for part, name, agent in agent_cases():
        yield f"upserted_agents.{part}", name, pb.PeerUpdate(upserted_agents=[agent])
    crowd = [pb.Agent(id=n.to_bytes(16, "big")) for n in range(4097)]
    yield "upserted_agents", "too many", pb.PeerUpdate(upserted_agents=crowd)
    unknown = pb.Workspace(id=ID)
    unknown.MergeFromString(b"\x18\x63")  # status 99
    for part, name, workspace in (
        ("id", "lacking", pb.Workspace()),
        ("name", "huge", pb.Workspace(id=ID, name=LONG)),
        ("status", "unknown", unknown),
    ):
        yield f"upserted_workspaces.{part}", name, pb.PeerUpdate(upserted_workspaces=[workspace])
    crowded = [pb.Workspace(id=n.to_bytes(16, "big")) for n in range(4097)]
    yield "upserted_workspaces", "too many", pb.PeerUpdate(upserted_workspaces=crowded)
    yield "deleted_agents", "unknown", pb.PeerUpdate(deleted_agents=[pb.Agent(id=LONG.encode())])
    nobody = pb.Workspace(id=LONG.encode())
    yield "deleted_workspaces", "unknown", pb.PeerUpdate(deleted_workspaces=[nobody])


def agent_cases() -> Iterator[tuple[str, str, pb.Agent]]:
    yield "id", "lacking", pb.Agent(name="pi")
    yield "id", "huge", pb.Agent(id=LONG.encode())
    yield "name", "huge", pb.Agent(id=ID, name=LONG)
    yield "workspace_id", "huge", pb.Agent(id=ID, workspace_id=LONG.encode())
    yield "fqdn", "huge", pb.Agent(id=ID, fqdn=[LONG])
    yield "fqdn", "too many", pb.Agent(id=ID, fqdn=["a"] * 1000)
    yield "ip_addrs", "no address", pb.Agent(id=ID, ip_addrs=[CONTROL])
    yield "ip_addrs", "too many", pb.Agent(id=ID, ip_addrs=[OWN] * 1000)
    for seconds in (-1, 2**62):
        yield "last_handshake", str(seconds), pb.Agent(id=ID, last_handshake={"seconds": seconds})
        latency = pb.LastPing(latency={"seconds": seconds})
        yield "last_ping.latency", str(seconds), pb.Agent(id=ID, last_ping=latency)
    nanos = pb.LastPing(preferred_derp_latency={"nanos": -1})
    yield "last_ping.preferred_derp_latency", "nanos", pb.Agent(id=ID, last_ping=nanos)
    derp = pb.LastPing(preferred_derp=LONG, did_p2p=True)
    yield "last_ping.preferred_derp", "huge", pb.Agent(id=ID, last_ping=derp)


def cases() -> dict[str, pb.TunnelMessage]:
    """Return every case by its name, `MESSAGE.FIELD: what is wrong`."""
    found = {}
    for field, what, request in settings_cases():
        found[f"network_settings.{field}: {what}"] = pb.TunnelMessage(network_settings=request)
    for field, what, log in log_cases():
        found[f"log.{field}: {what}"] = pb.TunnelMessage(log=log)
    for field, what, update in update_cases():
        found[f"peer_update.{field}: {what}"] = pb.TunnelMessage(peer_update=update)
    return found


def fields_of(descriptor: Descriptor = pb.TunnelMessage.DESCRIPTOR, path: str = "") -> list[str]:
    """Return the path of every field that a tunnel can fill, down to what is no message of ours."""
    found = []
    for field in descriptor.fields:
        name = f"{path}{field.name}"
        inner = field.message_type
        if name in NO_CASE:
            continue
        if inner is not None and inner.full_name.startswith("ginnel.") and "deleted_" not in name:
            found += fields_of(inner, f"{name}.")
        else:
            found.append(name)
    return found
