# Two commands on a fresh machine: `make demo` and `make test`. All else is for developers.
.PHONY: help setup demo test soak fuzz miri loom sanitize interop interop-kernel bench bench-discv5 bench-codervpn bench-tunnel bench-connect bench-idle matrix lock proto clean

help:
	@echo "make demo    set everything up, then show machines behind NATs finding each other (about a minute)"
	@echo "make test    set everything up, then run every check and test"
	@echo "make setup   what both need: .venv with ginnel in it, the Rust crate in release mode"
	@echo "make interop build other discv5 implementations from their registries, then speak with them"
	@echo "make bench   every benchmark; make bench-discv5 one of them (benchmarks/README.md)"
	@echo "make matrix  every kind of NAT against every kind in the lab, RUNS=500 of them (a quarter of an hour)"
	@echo "make soak    the long runs of random networks, hours"
	@echo "make fuzz    each parser of the data plane under libFuzzer, MINUTES=10 each"
	@echo "make miri    the data plane's unit tests under Miri, with a nightly toolchain"
	@echo "make loom    models of what the data plane's threads share, in every order"
	@echo "make sanitize  the data plane's tests under AddressSanitizer, with a nightly toolchain"
	@echo "make interop-kernel  Debian's kernel with its WireGuard in qemu, against ours"
	@echo "make lock    write requirements/*.txt anew from pyproject.toml"
	@echo "make clean   remove what setup made"

setup:
	@scripts/setup

demo: setup
	@.venv/bin/ginnel demo

test: setup
	@scripts/test

interop: setup
	@scripts/interop-peers
	@.venv/bin/pytest -q -m interop

bench: bench-discv5 bench-codervpn bench-tunnel bench-connect bench-idle

bench-discv5: setup
	@scripts/interop-peers
	@.venv/bin/python -m benchmarks.discv5
	@.venv/bin/python -m benchmarks.discv5_network

bench-codervpn: setup
	@.venv/bin/python -m benchmarks.codervpn

bench-tunnel: setup
	@scripts/bench-peers tunnel
	@.venv/bin/python -m benchmarks.tunnel
	@.venv/bin/python -m benchmarks.tunnel_relayed
	@.venv/bin/python -m benchmarks.tunnel_peers

bench-connect: setup
	@scripts/bench-peers connect
	@.venv/bin/python -m benchmarks.connect

bench-idle: setup
	@.venv/bin/python -m benchmarks.idle

matrix: setup
	@.venv/bin/python tests/support/matrix_mesh.py
	@.venv/bin/python tests/support/matrix.py --runs $(or $(RUNS),500)

soak: setup
	@GINNEL_HYPOTHESIS=random .venv/bin/pytest -q -m soak
	@GINNEL_HYPOTHESIS=random .venv/bin/pytest -q tests/property

fuzz: setup
	@scripts/fuzz

miri:
	@scripts/miri

loom:
	@scripts/loom

sanitize:
	@scripts/sanitize

interop-kernel: setup
	@scripts/interop-kernel
	@.venv/bin/pytest -q tests/interop/test_kernel.py

lock: setup
	@scripts/lock

proto: setup
	@.venv/bin/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src src/ginnel/codervpn/vpn.proto

clean:
	rm -rf .venv .uv target src/ginnel/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
