"""A Ceph object gateway on loopback for tests: one monitor, one OSD in memory and `radosgw`, in a folder of their own.

It is a production S3 server: it checks signatures, digests and the client's clock, and honours conditional writes. The
Debian packages radosgw, ceph-mon and ceph-osd bring it; neither root nor a container is needed.
"""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, free_port, make_bucket, process, wait_for

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "radosgw ceph-mon ceph-osd"
COMMAND_SECONDS = 90.0

# With authentication off the gateway waits for ever. Pools of one copy on one OSD; the intervals of the monitor, made
# for clusters of many, would be most of the start-up.
SETTINGS = """[global]
fsid = {cluster}
mon_host = [v2:127.0.0.1:{monitor}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {folder}/keyring
run_dir = {folder}
admin_socket =
log_file = {folder}/$name.log
mon_data = {folder}/mon
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_crush_chooseleaf_type = 0
osd_crush_initial_weight = 1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
rgw_rados_pool_pg_num_min = 4
rgw_data = {folder}
"""
IDENTITIES = {
    "mon.": ("--cap", "mon", "allow *"),
    "client.admin": ("--cap", "mon", "allow *", "--cap", "osd", "allow *"),
    "osd.0": ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"),
    "client.gateway": ("--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"),
}


def missing_programs() -> list[str]:
    """What has to be installed before `ceph_server` can start."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def ceph_server(folder: Path) -> Iterator[S3Server]:
    """Serve the bucket `lectures`, kept in memory, until the block ends. `folder` holds keys and logs."""
    for part in ("mon", "osd"):
        (folder / part).mkdir(parents=True)
    cluster, disk, monitor, gateway = str(uuid.uuid4()), str(uuid.uuid4()), free_port(), free_port()
    configuration = ["--conf", str(folder / "ceph.conf")]
    (folder / "ceph.conf").write_text(SETTINGS.format(cluster=cluster, monitor=monitor, folder=folder))
    keyring, monitors, admin = str(folder / "keyring"), str(folder / "monitors"), ["--name", "client.gateway"]

    def run(*command: str) -> None:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL
        )
        if ended.returncode:
            raise RuntimeError(f"{command[0]} failed: {ended.stderr[-2000:]}")

    (folder / "keyring").touch()
    for name, allowed in IDENTITIES.items():
        run("ceph-authtool", keyring, "--gen-key", "--name", name, *allowed)
    run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "--fsid", cluster, monitors)
    run("ceph-mon", *configuration, "--mkfs", "--id", "a", "--monmap", monitors, "--keyring", keyring)
    with ExitStack() as running:
        running.enter_context(process(["ceph-mon", *configuration, "--foreground", "--id", "a"]))
        run("ceph", *configuration, "--connect-timeout", "60", "osd", "new", disk)
        run("ceph-osd", *configuration, "--id", "0", "--mkfs", "--osd-uuid", disk)
        running.enter_context(process(["ceph-osd", *configuration, "--foreground", "--id", "0"]))
        # Before the gateway starts: both make the pools that are missing, and would wait for each other.
        run("radosgw-admin", *configuration, *admin, "user", "create", "--uid", "tests", "--display-name", "tests")
        key = ["--key-type", "s3", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
        run("radosgw-admin", *configuration, *admin, "key", "create", "--uid", "tests", *key)
        frontend = ["--rgw-frontends", f"beast endpoint=127.0.0.1:{gateway}"]
        server = running.enter_context(process(["radosgw", *configuration, "--foreground", *admin, *frontend]))
        wait_for(gateway, server)
        make_bucket(gateway)
        yield S3Server(f"http://127.0.0.1:{gateway}", folder, server)
