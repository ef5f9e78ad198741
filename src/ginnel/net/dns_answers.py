"""Answers of the network's name server: A, AAAA and PTR of members, nothing else of its own.

Pure: bytes in, bytes out, by dnspython. What is not the network's is left to the caller, who either
forwards it (where the resolver can't split) or refuses it.

Source: RFC 1035; RFC 2308 (negative answers); RFC 6303 (private reverse zones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

TTL = 10  # seconds; a member that comes or goes is seen soon
MAX_QUERY = 4096  # bytes of a question that is read
MAX_ANSWER = 1232  # bytes (DNS flag day 2020): fits every path without fragments
MAX_TCP_ANSWER = 65_535  # bytes (RFC 7766)


@dataclass(frozen=True, slots=True)
class Zone:
    """The names of one network: `hosts` maps full names (lower case, no dot at the end) to IPs."""

    domain: str
    hosts: Mapping[str, Sequence[str]]
    prefixes: tuple[IPv4Network | IPv6Network, ...]  # whose reverse names are ours


@dataclass(frozen=True, slots=True)
class Foreign:
    """A question about other names; `refusal` is the answer if nobody is asked."""

    refusal: bytes


def answer(query: bytes, zone: Zone, *, max_size: int = MAX_ANSWER) -> bytes | Foreign | None:
    """Answer one question; None: it is none, say nothing.

    An answer over `max_size` bytes is cut off and says so (TC): who asked comes again over TCP.
    """
    if len(query) > MAX_QUERY:
        return None
    try:
        asked = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return None
    if asked.flags & dns.flags.QR:
        return None
    try:
        reply = dns.message.make_response(asked, recursion_available=True)
    except (dns.exception.DNSException, ValueError):
        return None
    if asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
        reply.set_rcode(dns.rcode.NOTIMP)
        return reply.to_wire()
    question = asked.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    domain = dns.name.from_text(zone.domain)
    if question.rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
        reply.set_rcode(dns.rcode.REFUSED)
    elif question.name.is_subdomain(domain):
        _answer_name(reply, question.name, question.rdtype, name, zone)
    elif (ip := _reverse(question.name)) is not None and any(ip in p for p in zone.prefixes):
        _answer_reverse(reply, question.name, question.rdtype, str(ip), zone)
    else:
        reply.set_rcode(dns.rcode.REFUSED)
        return Foreign(reply.to_wire())
    reply.flags |= dns.flags.AA
    return reply.to_wire(max_size=max_size, prefer_truncation=True)


def failure(query: bytes) -> bytes | None:
    """Return SERVFAIL for a question whose servers did not answer."""
    try:
        reply = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    except (dns.exception.DNSException, ValueError):
        return None
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply.to_wire()


def _answer_name(
    reply: dns.message.Message, owner: dns.name.Name, kind: int, name: str, zone: Zone
) -> None:
    addresses = zone.hosts.get(name)
    if addresses is None and name != zone.domain:
        is_between = any(host.endswith(f".{name}") for host in zone.hosts)
        reply.set_rcode(dns.rcode.NOERROR if is_between else dns.rcode.NXDOMAIN)
    for rdtype, version in ((dns.rdatatype.A, 4), (dns.rdatatype.AAAA, 6)):
        texts = [text for text in addresses or () if ip_address(text).version == version]
        if texts and kind in (rdtype, dns.rdatatype.ANY):
            reply.answer.append(dns.rrset.from_text_list(owner, TTL, "IN", rdtype, texts))
    if not reply.answer:
        reply.authority.append(_soa(zone))


def _answer_reverse(
    reply: dns.message.Message, owner: dns.name.Name, kind: int, ip: str, zone: Zone
) -> None:
    names = [name for name, addresses in zone.hosts.items() if ip in addresses]
    if not names:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif kind in (dns.rdatatype.PTR, dns.rdatatype.ANY):
        targets = [f"{name}." for name in names]
        reply.answer.append(dns.rrset.from_text_list(owner, TTL, "IN", "PTR", targets))
    if not reply.answer:
        reply.authority.append(_soa(zone))


def _reverse(name: dns.name.Name) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None


def _soa(zone: Zone) -> dns.rrset.RRset:
    text = f"{zone.domain}. nobody.invalid. 1 3600 600 86400 {TTL}"
    return dns.rrset.from_text(f"{zone.domain}.", TTL, "IN", "SOA", text)
