"""Several Redis servers: a cluster, and a master and its replica under sentinels."""

from __future__ import annotations

import time
from pathlib import Path

import redis
from redis.cluster import ClusterNode

from tests.brokers_redis import RedisServer
from tests.processes import free_port, wait_until


class RedisCluster:
    """Masters that share the slots, each with as many replicas as asked for."""

    SLOTS = 16384

    def __init__(self, directory, binary=None, nodes=3, *, replicas=0, args=()):
        options = [
            "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
            "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0", *args,
        ]  # fmt: skip
        self.nodes = [
            RedisServer(
                Path(directory) / f"node{number}", port=free_port(also=10000),
                binary=binary, args=options,
            )
            for number in range(nodes * (1 + replicas))
        ]  # fmt: skip
        self.size = nodes

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    @property
    def urls(self):
        return [node.url for node in self.nodes]

    def client(self, **options):
        start = [ClusterNode("127.0.0.1", node.port) for node in self.nodes]
        return redis.RedisCluster(startup_nodes=start, decode_responses=True, **options)

    def start(self):
        """Start the nodes and make them a cluster, the first time."""
        try:
            for node in self.nodes:
                node.start()
            if "cluster_slots_assigned:0" in self.nodes[0].execute("CLUSTER", "INFO"):
                self._form()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        for node in self.nodes:
            node.stop()

    def _form(self):
        first, masters, replicas = self.nodes[0], self.nodes[: self.size], self.nodes[self.size :]
        for number, master in enumerate(masters):
            begin = number * self.SLOTS // self.size
            end = (number + 1) * self.SLOTS // self.size
            master.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            master.execute("CLUSTER", "ADDSLOTS", *range(begin, end))
        introduced = 0.0

        def acquainted():
            nonlocal introduced
            if self._acquainted():
                return True
            if time.monotonic() - introduced > 3:  # on a busy machine a handshake may time out
                introduced = time.monotonic()
                for node in self.nodes[1:]:
                    node.execute("CLUSTER", "MEET", "127.0.0.1", first.port)
            return False

        wait_until(acquainted, "the nodes to know each other")
        for number, replica in enumerate(replicas):
            replica.execute("CLUSTER", "REPLICATE", self.id(masters[number % self.size]))

    def _acquainted(self):
        known = [node.execute("CLUSTER", "NODES") for node in self.nodes]
        return all(
            len(text.splitlines()) == len(self.nodes) and "handshake" not in text for text in known
        )

    def wait(self):
        """Wait until the nodes that run agree that all is well, and replicas are up to date."""
        wait_until(
            lambda: all(map(self._well, self.running())) and self._agreed(),
            "the cluster to be well",
        )

    def _agreed(self):
        """Return whether all nodes know the same masters, with the same slots, since the same."""
        views = set()
        for node in self.running():
            lines = map(str.split, node.execute("CLUSTER", "NODES").splitlines())
            masters = (line for line in lines if "master" in line[2] and "fail" not in line[2])
            # id, address, flags, its master, ping, pong, epoch, link, slots and [moves]...
            views.add(
                frozenset(
                    (m[0], m[6], *(slot for slot in m[8:] if slot[0] != "[")) for m in masters
                )
            )
        return len(views) == 1

    def _well(self, node):
        if "cluster_state:ok" not in node.execute("CLUSTER", "INFO"):
            return False
        state = node.info("replication")
        return state["role"] == "master" or state["master_link_status"] == "up"

    def running(self):
        return [node for node in self.nodes if node.process.running]

    def masters(self):
        return [node for node in self.running() if node.info("replication")["role"] == "master"]

    def id(self, node):
        return node.execute("CLUSTER", "MYID")

    def slot_of(self, key):
        return self.running()[0].execute("CLUSTER", "KEYSLOT", key)

    def owner_of(self, key):
        """Return the node that serves a key."""
        slot, slots = self.slot_of(key), self.running()[0].execute("CLUSTER", "SLOTS")
        for begin, end, (_, port, *_), *_ in slots:
            if begin <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody serves slot {slot}")

    def replica_of(self, master):
        """Return a replica of a node."""
        return next(
            node
            for node in self.running()
            if node.info("replication").get("master_port") == master.port
        )

    def fail_over(self, key):
        """Let a replica of a key's node take over, in order, and return it."""
        old = self.owner_of(key)
        new = self.replica_of(old)
        asked = []

        def taken_over():
            if not asked or time.monotonic() > asked[-1] + 6:  # it gives up after 5 seconds
                new.execute("CLUSTER", "FAILOVER")
                asked.append(time.monotonic())
            return new.info("replication")["role"] == "master"

        wait_until(taken_over, "the replica to take over")
        return self._taken_over(new, key)

    def kill_owner(self, key):
        """Kill the node of a key, wait until its replica has taken over, and return that."""
        old = self.owner_of(key)
        new = self.replica_of(old)
        old.kill()
        return self._taken_over(new, key)

    def _taken_over(self, node, key):
        wait_until(lambda: node.info("replication")["role"] == "master", "the replica to take over")
        wait_until(lambda: self.owner_of(key) is node, "the cluster to know")
        self.wait()
        return node

    def begin_move(self, key, to):
        """Begin to move a key's slot, without its keys: for those that are not there yet, the old
        node now answers ASK."""
        slot, source = self.slot_of(key), self.owner_of(key)
        to.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(to))

    def finish_move(self, key, to):
        """Move the keys of a slot, and then the slot."""
        slot, source = self.slot_of(key), self.owner_of(key)
        while keys := source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.execute(
                "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "REPLACE", "KEYS", *keys
            )  # fmt: skip
        owner, masters = self.id(to), self.masters()
        for node in [to, source, *(node for node in masters if node not in (to, source))]:
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", owner)
        self.wait()

    def move_slot(self, key, to):
        """Move a key's slot, with all its keys, to another master."""
        self.begin_move(key, to)
        self.finish_move(key, to)


class RedisSentinel:
    """A master and a replica, watched by three sentinels."""

    service = "flosse"

    def __init__(self, directory, binary=None, *, args=()):
        directory = Path(directory)
        options = ["--repl-diskless-sync-delay", "0", *args]
        self.servers = [
            RedisServer(directory / name, binary=binary, args=options)
            for name in ("master", "replica")
        ]
        self.servers[1].args += ["--replicaof", "127.0.0.1", str(self.servers[0].port)]
        self.watchers = [
            Sentinel(directory / f"sentinel{number}", self.servers[0].port, binary)
            for number in range(3)
        ]

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    @property
    def sentinels(self):
        """Addresses, as clients want them."""
        return [("127.0.0.1", watcher.port) for watcher in self.watchers]

    def start(self):
        """Start all, and wait until a fail-over would work."""
        master, replica = self.servers
        try:
            master.start()
            replica.start()
            wait_until(
                lambda: replica.info("replication")["master_link_status"] == "up", "replication"
            )
            for watcher in self.watchers:
                watcher.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        for server in [*self.watchers, *self.servers]:
            server.stop()

    def wait(self):
        """Wait until the sentinels know each other and the replica."""
        wait_until(lambda: all(w.ready(self.service) for w in self.watchers), "the sentinels")

    def master(self):
        """Return the server that all sentinels say is the master."""
        ports = {w.master_port(self.service) for w in self.watchers if w.process.running}
        found = [server for server in self.servers if {server.port} == ports]
        return found[0] if found else None

    def replica(self):
        return next(server for server in self.servers if server is not self.master())

    def fail_over(self):
        """Let the replica take over, in order, and return it."""
        new = self.replica()

        def ask():
            try:
                return self.watchers[0].execute("SENTINEL", "FAILOVER", self.service)
            except redis.ResponseError as error:  # one is on its way, or the replica is too fresh
                if "INPROG" not in str(error) and "NOGOODSLAVE" not in str(error):
                    raise
                return False

        wait_until(ask, "a sentinel to begin the fail-over")
        self._taken_over(new)
        wait_until(lambda: self.watchers[0].calm(self.service), "the fail-over to end")
        return new

    def demote(self):
        """Tell the old master what the sentinels tell it, but only after 8 seconds in which it
        still takes writes. Wait until it has caught up."""
        new, old = self.master(), self.replica()
        with old.client() as client, client.pipeline() as commands:
            commands.execute_command("REPLICAOF", "127.0.0.1", new.port)
            commands.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            commands.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            commands.execute()
        wait_until(lambda: old.info("replication").get("master_link_status") == "up", "replication")

    def kill_master(self):
        """Kill the master, wait until the replica has taken over, and return that."""
        old, new = self.master(), self.replica()
        old.kill()
        return self._taken_over(new)

    def _taken_over(self, server):
        wait_until(lambda: self.master() is server, "the sentinels to agree on the new master")
        wait_until(lambda: server.info("replication")["role"] == "master", "the new master")
        return server


class Sentinel(RedisServer):
    """One sentinel. It keeps what it knows in its configuration file."""

    CONFIG = """
bind 127.0.0.1
port {port}
dir {directory}
sentinel monitor {service} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {service} 1000
sentinel failover-timeout {service} 3000
"""

    def __init__(self, directory, master, binary):
        super().__init__(directory, binary=binary)
        self.config = self.directory / "sentinel.conf"
        self.config.write_text(
            self.CONFIG.format(
                port=self.port, directory=self.directory, master=master,
                service=RedisSentinel.service,
            )
        )  # fmt: skip

    def command(self):
        return [self.binary, str(self.config), "--sentinel"]

    def state(self, service):
        state = iter(self.execute("SENTINEL", "MASTER", service))
        return dict(zip(state, state, strict=True))

    def ready(self, service):
        state = self.state(service)
        return state["num-other-sentinels"] == "2" and state["num-slaves"] == "1"

    def calm(self, service):
        return "failover_in_progress" not in self.state(service)["flags"]

    def master_port(self, service):
        return int(self.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)[1])
