"""The manager: root, small; it makes what needs rights, hands it over, and keeps the others alive.

It opens the TUN, binds the UDP sockets, listens on both Unix sockets, starts the tunnel (and the
signer where an admin key is), speaks CoderVPN with the tunnel and applies the settings that root
allows. It parses nothing of the network's but protobuf from the tunnel, and opens no file that the
tunnel can write. TUN, routes and UDP sockets stay while a tunnel that crashed starts again; they
vanish with the manager, whatever ends it.

Source: DESIGN, "Processes"; seed 002.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable

from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.base.limits import TokenBucket
from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.aio import Manager as Rpc
from ginnel.codervpn.messages import LogLevel, LogRecord, Start
from ginnel.codervpn.speaker import HANDSHAKE_TIMEOUT, Failure
from ginnel.daemon import privileges, service
from ginnel.daemon.admin_socket import AdminSocket, Json
from ginnel.daemon.guard import Guard, clear_traces
from ginnel.daemon.logs import LogSink, RateLimited, SinkHandler, escape_control, split_level
from ginnel.daemon.manager_config import ManagerConfig
from ginnel.daemon.manager_status import (
    describe_agents,
    describe_settings,
    describe_tunnel,
    describe_workspaces,
)
from ginnel.daemon.resolver_watch import ResolverWatch
from ginnel.daemon.resources import Resources, open_resources
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Plan, check_settings
from ginnel.daemon.signer_link import SignerLink
from ginnel.daemon.supervise import Backoff, Child
from ginnel.daemon.tunnel_child import common_options, start_tunnel
from ginnel.daemon.wakes import WakeWatcher
from ginnel.net.dns import find_setter
from ginnel.net.netlink import DEFAULT_MTU
from ginnel.net.tun import device_name

# Seconds for a tunnel of ours until its first byte (it imports and drops its rights: a second, but
# ten were seen on a busy machine), then for its answer to Start. The handshake between has its 5.
START_TIMEOUT = 30.0
PEERS_TIMEOUT = 5.0  # seconds for the full set of peers
STOP_TIMEOUT = 5.0  # seconds for a tunnel to say goodbye to its peers
SETTINGS_PER_SECOND = 1.0  # requests that a tunnel may make, with a burst
SETTINGS_BURST = 10.0

# For the network's settings; to start processes that change their uid, and to end them.
KEPT = (
    privileges.CAP_NET_ADMIN,
    privileges.CAP_SETUID,
    privileges.CAP_SETGID,
    privileges.CAP_SETPCAP,
    privileges.CAP_KILL,
)
# Namespaces of their own, and files of another uid, before they drop all.
FOR_CHILDREN = (privileges.CAP_SYS_ADMIN, privileges.CAP_DAC_OVERRIDE, privileges.CAP_CHOWN)

log = logging.getLogger(__name__)


def run_manager(config: ManagerConfig, *, on_ready: Callable[[], None] | None = None) -> None:
    """Run until `down`, SIGTERM or SIGINT; everything is taken back before this returns.

    `on_ready` is called once, when the sockets listen and before the tunnel is started.

    Raises:
        SystemFailure: something that a network needs can't be had; the text says what to do.
    """
    privileges.forbid_inspection()
    privileges.adopt_orphans()
    least = LogLevel.DEBUG if config.debug else LogLevel.INFO
    sink = LogSink("ginnel", file=config.paths.log, least=least)
    # What the protocol's code says is about the tunnel's words, so that the tunnel sets the rate.
    of_tunnel = RateLimited(sink, "tunnel's stream", now=time.monotonic())

    def write(level: LogLevel, text: str, name: str) -> None:
        if name.startswith("ginnel.codervpn."):
            of_tunnel.write(level, text, now=time.monotonic())
        else:
            sink.write(level, text)

    handler = SinkHandler(write)
    logging.getLogger("ginnel").addHandler(handler)
    logging.getLogger("ginnel").setLevel(logging.DEBUG if config.debug else logging.INFO)
    try:
        with open_resources(
            config.paths,
            port=config.port,
            tunnel_uid=config.tunnel_uid,
            signer_uid=config.signer_uid,
            use_tun=config.use_tun,
            dns_addresses=config.allowance.addresses if config.use_dns else (),
        ) as resources:
            privileges.keep_only(KEPT, for_children=FOR_CHILDREN)
            asyncio.run(_serve(config, resources, sink, on_ready))
    finally:
        logging.getLogger("ginnel").removeHandler(handler)
        sink.close()


async def _serve(
    config: ManagerConfig,
    resources: Resources,
    sink: LogSink,
    on_ready: Callable[[], None] | None,
) -> None:
    manager = _Manager(config, resources, sink)
    await manager.run(on_ready)
    if config.stream is not None and manager.last_error is not None:
        raise SystemFailure(f"tunnel: {manager.last_error}")


class _Manager:
    """One run of the manager; also the handler of what the tunnel says."""

    def __init__(self, config: ManagerConfig, resources: Resources, sink: LogSink) -> None:
        self._config = config
        self._resources = resources
        self._sink = sink
        self._started_at = time.monotonic()
        self._stop = asyncio.Event()
        self._done = asyncio.Event()
        self._tunnel_log = RateLimited(sink, "tunnel", now=self._started_at)
        self._settings_rate = TokenBucket(SETTINGS_PER_SECOND, SETTINGS_BURST, now=self._started_at)
        device = resources.device
        self._applier: SettingsApplier | None = None
        self._guard: Guard | None = None
        if device is not None:
            self._guard = Guard(device.name, config.tunnel_uid, config.allowance)
            setter = find_setter(device.name) if config.use_dns else None
            self._applier = SettingsApplier(device.name, self._guard.table, setter)
        self._backoff = Backoff()
        self._child: Child | None = None
        self._rpc: Rpc | None = None
        self._state = "starting"
        self.last_error: str | None = None
        self._signer: SignerLink | None = None
        self._is_foreign = bool(config.spawn) or config.stream is not None
        if config.signer_uid is not None and not self._is_foreign:
            argv = [*config.command, "signer", config.paths.name, *common_options(config)]
            self._signer = SignerLink(argv, sink)

    async def run(self, on_ready: Callable[[], None] | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await asyncio.to_thread(self._stand_guard)
        admin = AdminSocket(self._config.paths.manager_socket, self._on_verb)
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(admin.run())
                waking = WakeWatcher(lambda reason: self._on_wake(tasks, reason))
                signing = tasks.create_task(self._signer.run()) if self._signer else None
                resolving = self._watch_resolver(tasks)
                if on_ready is not None:
                    on_ready()
                service.notify("READY=1")
                try:
                    await self._keep_tunnel()
                finally:
                    waking.close()
                for task in filter(None, (signing, resolving)):
                    task.cancel()
                    await asyncio.wait([task])
                service.notify("STOPPING=1")
                await self._take_back()
                self._done.set()
                await admin.finish()
                serving.cancel()
        finally:
            if not self._done.is_set():  # something broke: nothing is left behind all the same
                await self._take_back()
            admin.close()

    def _watch_resolver(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None] | None:
        note = self._resources.upstream
        if self._applier is None or note is None:
            return None
        watch = ResolverWatch(self._applier, note, self._config.allowance.addresses)
        watch.look()  # before the first tunnel
        return tasks.create_task(watch.run())

    def _on_wake(self, tasks: asyncio.TaskGroup, reason: str) -> None:
        log.info("wake: %s", reason)
        if self._rpc is not None and self._state == "running":
            tasks.create_task(self._wake_tunnel(self._rpc))

    async def _wake_tunnel(self, rpc: Rpc) -> None:
        try:
            await rpc.wake(wait_s=STOP_TIMEOUT)
        except SystemFailure as error:  # an older tunnel, or one that just ends
            log.info("wake: %s", error)

    def _stand_guard(self) -> None:
        """Clear a dead manager's traces; set rules and filter up before anybody gets the device."""
        name = device_name(self._config.paths.name)
        if self._guard is not None:
            find_setter(name).take_back()
            self._guard.install()  # which clears its own
            return
        try:
            clear_traces(name, self._config.tunnel_uid)
        except SystemFailure as error:
            log.debug("nothing to clear without a device: %s", error)

    # The tunnel's life

    async def _keep_tunnel(self) -> None:
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                await self._run_tunnel()
            except GinnelError as error:
                self.last_error = escape_control(str(error))
            if self._stop.is_set() or self._config.stream is not None:
                break
            now = time.monotonic()
            delay = self._backoff.on_death(started_at=started_at, now=now)
            self._state = "failing" if self._backoff.is_failing(now=now) else "restarting"
            log.error("tunnel: %s; it starts again in %g s", self.last_error, delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stop.wait()
        self._state = "stopped"

    async def _run_tunnel(self) -> None:
        """Run one tunnel process from its start to its end."""
        self._state = "starting"
        self._child = None
        read_fd, write_fd = self._config.stream or self._spawn_tunnel()
        child = self._child
        limit = HANDSHAKE_TIMEOUT if child is None else START_TIMEOUT  # it has to start first
        self._rpc = rpc = Rpc(
            read_fd, write_fd, self, dialect=self._config.dialect, silence_timeout=limit
        )
        problem, is_leaving = "", True
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(rpc.run())
                watching = tasks.create_task(self._watch(child)) if child is not None else None
                try:
                    await self._start_tunnel(rpc)
                    tasks.create_task(self._ask_peers(rpc))
                    is_leaving = await self._wait_for_end(rpc)
                except GinnelError as error:
                    problem = str(error)
                finally:
                    rpc.close()
                    if child is not None and watching is not None:
                        await child.end(is_leaving=is_leaving)
                        watching.cancel()
        finally:
            self._rpc = None
        if not self._stop.is_set():
            if problem == Failure.CLOSED.value:
                problem = ""
            causes = [problem, serving.result(), child.describe_end() if child is not None else ""]
            self.last_error = escape_control("; ".join(filter(None, causes))) or None

    def _spawn_tunnel(self) -> tuple[int, int]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._child = start_tunnel(
                self._config,
                self._resources,
                theirs,
                self._signer,
                self._on_output,
                is_first=self._backoff.count == 0,
            )
            descriptor = ours.detach()
        return descriptor, descriptor

    async def _start_tunnel(self, rpc: Rpc) -> None:
        text = self._config.make_token()
        token = text if isinstance(text, Secret) else Secret(text.encode())
        device, is_along = self._resources.device, False
        descriptor = -1 if device is None else Resources.TUN_FD
        if device is not None and (self._config.passes_tun or self._config.stream is not None):
            descriptor, is_along = device.fd, True
        start = Start(descriptor, self._config.url, token)
        stopping = asyncio.ensure_future(self._stop.wait())
        starting = asyncio.ensure_future(
            rpc.start(start, wait_s=START_TIMEOUT, pass_descriptor=is_along)
        )
        try:
            await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._state = "running"
                log.info("tunnel %s runs (CoderVPN %s)", self._child_pid(), rpc.version)
        finally:
            stopping.cancel()
            if not starting.cancel() and not starting.cancelled():
                starting.exception()  # seen

    async def _ask_peers(self, rpc: Rpc) -> None:
        """Ask once for all peers: a tunnel need not tell of what doesn't change."""
        try:
            await rpc.get_peers(wait_s=PEERS_TIMEOUT)
        except SystemFailure as error:  # its changes come all the same
            log.debug("peers: %s", error)

    async def _wait_for_end(self, rpc: Rpc) -> bool:
        """Wait for the stream's end or for `down`; say whether the tunnel ends by itself."""
        closing = asyncio.ensure_future(rpc.wait_closed())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([closing, stopping], return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set() and not rpc.is_closed:
                self._state = "stopping"
                if self._signer is not None:
                    self._signer.leave()
                if rpc.version is None:
                    return False  # it didn't even say who it is
                await rpc.stop(wait_s=STOP_TIMEOUT)
        except SystemFailure as error:
            log.warning("stop: %s", error)
            return False
        finally:
            closing.cancel()
            stopping.cancel()
        return True

    async def _watch(self, child: Child) -> None:
        """Close the stream when the process is gone, even if something holds its other end."""
        await child.wait()
        if self._rpc is not None:
            self._rpc.close()

    async def _take_back(self) -> None:
        if self._applier is not None:
            try:
                await asyncio.to_thread(self._applier.take_back)
            except SystemFailure as error:
                log.warning("settings: %s", error)
        if self._guard is not None:
            try:
                await asyncio.to_thread(self._guard.clear_stale)
            except SystemFailure as error:
                log.warning("rules: %s", error)

    def _child_pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.is_running else None

    # What the tunnel says (ManagerHandlers)

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        """Apply what root allows; the text of a refusal names the field."""
        try:
            check_settings(settings, self._config.allowance)
            if not self._settings_rate.take(now=time.monotonic()):
                raise UsageError("network_settings: asked for too often")
            plan = await asyncio.to_thread(self._apply, settings)
        except (UsageError, SystemFailure) as error:
            self._tunnel_log.write(
                LogLevel.WARN, f"settings refused: {error}", now=time.monotonic()
            )
            return str(error)
        log.info("settings: %s, mtu %d", ", ".join(plan.addresses), plan.mtu)
        return None

    def _apply(self, settings: pb.NetworkSettingsRequest) -> Plan:
        if self._applier is None:
            return check_settings(settings, self._config.allowance)
        physical = self._applier.physical_mtu() if settings.mtu == 0 else DEFAULT_MTU
        plan = check_settings(settings, self._config.allowance, physical_mtu=physical)
        self._applier.apply(plan)
        return plan

    def on_peers(self) -> None:
        """Nothing to do: `status` reads the peers when asked."""

    def on_log(self, record: LogRecord) -> None:
        """Write the tunnel's record, at a bounded rate."""
        names = ".".join(record.logger_names)
        text = f"{names}: {record.message}" if names else record.message
        self._tunnel_log.write(record.level, text, now=time.monotonic(), fields=record.fields)

    def _on_output(self, line: str) -> None:
        self._tunnel_log.write(*split_level(line), now=time.monotonic())

    # What root asks

    async def _on_verb(self, verb: str, keys: Json) -> Json:
        if verb == "status":
            return self.status()
        if verb == "down":
            self._stop.set()
            await self._done.wait()
            return {"done": True}
        if verb == "wake":
            if self._rpc is None:
                raise SystemFailure("the tunnel does not run")
            await self._rpc.wake(wait_s=STOP_TIMEOUT)
            return {"done": True}
        if self._is_foreign:
            raise UsageError("the signer works with Ginnel's own tunnel, and here another runs")
        if self._signer is None:
            raise UsageError("this machine has no admin key: ask on the one that made the network")
        return await self._signer.ask({"verb": verb, **keys})

    def status(self) -> Json:
        """Return what is known without asking the tunnel."""
        plan = self._applier.current if self._applier is not None else None
        setter = self._applier.dns if self._applier is not None else None
        device = self._resources.device
        agents = self._rpc.agents_with_age if self._rpc is not None else ()
        peers, left_out = describe_agents(agents, unix_now=time.time())
        told = self._rpc.workspaces if self._rpc is not None else ()
        workspaces, workspaces_left_out = describe_workspaces(told)
        return {
            "network": self._config.paths.name,
            "manager": {"pid": os.getpid(), "uptime_s": time.monotonic() - self._started_at},
            "device": device.name if device is not None else None,
            "port": self._config.port,
            "tunnel": describe_tunnel(
                self._state, self._child_pid(), self._backoff, self.last_error
            ),
            "signer": self._signer.status() if self._signer is not None else None,
            "settings": describe_settings(plan, setter),
            "log_records_lost": self._sink.lost,
            "workspaces": workspaces,
            "workspaces_left_out": workspaces_left_out,
            "peers": peers,
            "peers_left_out": left_out,
        }
