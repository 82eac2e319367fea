"""What a guest sees of the disks, network cards and ports of its spec, and what a restore keeps of them."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import replace

import pytest

from harness.deadline import Deadline
from harness.errors import HostTooBusy, MachineFailed
from harness.machine.hardware.spec import MachineSpec
from harness.machine.machine import CONSOLE_LOG
from harness.machine.snapshot import key_of, restored, snapshot_of
from harness.report.folder import machine_folder
from harness.tools import run

pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(1800)]
BOOT_TIME = 600.0
MIB = 2**20
SAVED = (
    "cpus=1,scsi,disk=64M,disk=65M:4k,disk=66M:512e,serial=emulated,disk=67M:wwn=0x5000c50000000001,disk=68M:scsi,4k,"
    "disk=69M:mpath,disk=70M:mpath,wwn=0x5000c50000000002,serial=paths,nics=3,forward=8080,fw_cfg=opt/org.example/a:told"
)
NVME = "cpus=1,nvme,disk=71M:nvme,disk=72M:nvme,4k,serial=express"
# serial: MiB, logical and physical sectors, WWN as Linux writes it, how many devices have it
SEEN_SAVED = {
    "disk-1": (64, 512, 512, None, 1),
    "disk-2": (65, 4096, 4096, None, 1),
    "emulated": (66, 512, 4096, None, 1),
    "disk-4": (67, 512, 512, "0x5000c50000000001", 1),
    "disk-5": (68, 4096, 4096, None, 1),
    "disk-6": (69, 512, 512, "0x3000000000000006", 2),
    "paths": (70, 512, 512, "0x5000c50000000002", 2),
    "primary-disk": (10240, 512, 512, None, 1),
}
SEEN_NVME = {
    "disk-1": (71, 512, 512, 1),
    "express": (72, 4096, 4096, 1),
    "primary-disk": (10240, 512, 512, 1),
}
MARKED = "/dev/disk/by-id/virtio-disk-1"
MARK = "[Unit]\nDescription=Marks the second disk\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
MARK += f"ExecStart=/bin/sh -c 'printf first-boot > {MARKED}'\n\n[Install]\nWantedBy=multi-user.target\n"


@pytest.fixture(scope="module")
def saved(first_boot, profile, store, run_folder):
    """The first boot of a machine with a disk of each kind that QEMU can save; its config writes to one of them."""
    units = [{"name": "mark.service", "enabled": True, "contents": MARK}]
    config = {"ignition": {"version": profile.boot.ignition_spec}, "systemd": {"units": units}}
    boot = replace(first_boot, spec=MachineSpec.parse(SAVED), ignition=json.dumps(config).encode())
    return snapshot_of(boot, store, machine_folder(run_folder, "first-boot-of-many-disks"), Deadline(BOOT_TIME))


def disks_of(machine):
    """By serial: MiB, logical and physical sectors, WWN, and how many devices have it."""
    text = machine.run("udevadm settle; lsblk --nodeps -J -b -o NAME,SIZE,LOG-SEC,PHY-SEC,SERIAL,WWN,TYPE").text
    found = {}
    for row in json.loads(text)["blockdevices"]:
        if row["type"] == "disk":
            facts = (row["size"] // MIB, row["log-sec"], row["phy-sec"], row["wwn"])
            found.setdefault(row["serial"], []).append(facts)
    assert all(len(set(rows)) == 1 for rows in found.values()), f"paths of one disk differ: {found}"
    return {serial: (*rows[0], len(rows)) for serial, rows in found.items()}


def test_a_restored_guest_sees_every_disk_as_it_was_asked_for(saved, restores):
    with restores(saved, "many-disks") as machine:
        assert machine.is_restored
        assert disks_of(machine) == SEEN_SAVED


def test_both_paths_lead_to_the_same_bytes(saved, restores):
    with restores(saved, "two-paths") as machine:
        said = machine.run(
            "set -- $(lsblk --nodeps -n -o PATH,SERIAL | awk '$2 == \"paths\" {print $1}'); "
            "printf by-the-first | dd of=$1 oflag=direct conv=sync status=none; "
            "dd if=$2 iflag=direct bs=512 count=1 status=none | tr -d '\\0'"
        )
    assert (said.text, said.err) == ("by-the-first", b"")


def test_disks_keep_what_the_first_boot_wrote_and_nothing_of_each_other(saved, restores):
    read = f"head -c 10 {MARKED}"
    with restores(saved, "writes") as machine:
        before = machine.run(read).text
        machine.run(f"printf overwritten | dd of={MARKED} oflag=direct conv=sync status=none")
    with restores(saved, "reads") as machine:
        after = machine.run(read).text
    assert (before, after) == ("first-boot", "first-boot")


def merged_into(config):
    """The user's config, which lies in ours as a data URL."""
    (merged,) = json.loads(config)["ignition"]["config"]["merge"]
    return base64.b64decode(merged["source"].partition("base64,")[2], validate=True).decode()


def test_cards_have_addresses_of_their_own_and_fw_cfg_is_read(saved, restores):
    with restores(saved, "cards") as machine:
        macs = machine.run("cat /sys/class/net/e*/address").text.splitlines()
        items = "/sys/firmware/qemu_fw_cfg/by_name/opt"
        told = machine.run(f"modprobe qemu_fw_cfg; cat {items}/org.example/a/raw").text
        config = machine.run(f"cat {items}/com.coreos/config/raw").text
    assert "mark.service" in merged_into(config)
    assert macs == [f"52:54:00:12:34:{last}" for last in ("56", "57", "58")]
    assert told == "told"


def test_a_port_leads_to_a_server_in_the_guest(saved, restores):
    serve = "printf 'HTTP/1.0 200 OK\\r\\n\\r\\nfrom the guest' > /run/answer; "
    serve += "busybox nc -l -p 8080 < /run/answer > /dev/null 2>&1 & "
    serve += "until ss -Hltn sport = 8080 | grep -q .; do sleep 0.1; done"
    with restores(saved, "server") as machine:
        machine.run(serve)
        with urllib.request.urlopen(f"http://127.0.0.1:{machine.port(8080)}/", timeout=60) as answer:
            assert answer.read() == b"from the guest"


def test_what_cannot_be_saved_boots_anew_and_sees_its_disks(first_boot, store, run_folder, restores):
    boot = replace(first_boot, spec=MachineSpec.parse(NVME))
    logs = machine_folder(run_folder, "first-boot-of-nvme")
    taken = snapshot_of(boot, store, logs, Deadline(BOOT_TIME))
    assert not taken.is_saved
    assert (taken.first_boot / CONSOLE_LOG).stat().st_size > 0
    with restores(taken, "nvme-anew") as machine:
        assert not machine.is_restored
        found = {serial: (*facts[:3], facts[-1]) for serial, facts in disks_of(machine).items()}  # WWNs are QEMU's own
    assert found == SEEN_NVME


def test_a_guest_without_network_is_asked_by_its_channel(first_boot, store, run_folder):
    boot = replace(first_boot, spec=MachineSpec(nics=0))
    snapshot = snapshot_of(boot, store, machine_folder(run_folder, "first-boot-alone"), Deadline(BOOT_TIME))
    with restored(snapshot, store, machine_folder(run_folder, "alone"), Deadline(BOOT_TIME)) as machine:
        assert machine.guest.check_output("ls /sys/class/net") == "lo"
        with pytest.raises(MachineFailed, match="the machine has no network card"):
            machine.shell.connect(Deadline(5))


def test_a_disk_out_of_a_file_keeps_what_the_first_boot_wrote_and_the_file_stays(
    first_boot, store, run_folder, tmp_path
):
    data = tmp_path / "data.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", data, "64M"])
    run(["qemu-io", "-c", "write -P 0x61 0 64k", data])
    before = data.read_bytes()
    units = [{"name": "mark.service", "enabled": True, "contents": MARK}]
    config = {"ignition": {"version": "3.0.0"}, "systemd": {"units": units}}
    spec = MachineSpec.parse(f"disk=@{data}:serial=disk-1")
    boot = replace(first_boot, spec=spec, ignition=json.dumps(config).encode())
    snapshot = snapshot_of(boot, store, machine_folder(run_folder, "first-boot-with-data"), Deadline(BOOT_TIME))
    with restored(snapshot, store, machine_folder(run_folder, "with-data"), Deadline(BOOT_TIME)) as machine:
        assert machine.run(f"head -c 12 {MARKED}; printf other >{MARKED}; sync").text == "first-bootaa"
    assert data.read_bytes() == before


def test_a_first_boot_in_which_a_unit_timed_out_on_a_busy_host_is_not_kept(first_boot, store, run_folder, monkeypatch):
    late = (
        "[Service]\nType=oneshot\nTimeoutStartSec=1\nExecStart=/bin/sleep 60\n[Install]\nWantedBy=multi-user.target\n"
    )
    units = [{"name": "late.service", "enabled": True, "contents": late}]
    config = {"ignition": {"version": "3.0.0"}, "systemd": {"units": units}}
    boot = replace(first_boot, ignition=json.dumps(config).encode())
    monkeypatch.setattr("os.getloadavg", lambda: (400.0, 0.0, 0.0))
    with pytest.raises(HostTooBusy, match=r"late\.service: timed out in the first boot, on a host with a load of 400"):
        snapshot_of(boot, store, machine_folder(run_folder, "first-boot-late"), Deadline(BOOT_TIME))
    assert store.find("snapshot", key_of(boot)) is None
