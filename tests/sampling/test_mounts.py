"""The mount table, line by line."""

from agent.sampling.mounts import mounts

TABLE = """\
22 1 0:20 / /proc rw,relatime shared:1 - proc proc rw,hidepid=2,gid=7
30 22 0:26 / /mnt/a\\040disk\\134x rw master:2 propagate_from:3 - ext4 /dev/sd\\040a rw
31 22 0:27 /
32 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""


def test_each_line_is_a_mount_with_the_options_of_its_file_system() -> None:
    proc, disk, cgroup = mounts(TABLE)
    assert (proc.point, proc.kind, proc.options) == ("/proc", "proc", {"rw": "", "hidepid": "2", "gid": "7"})
    assert (disk.point, disk.kind) == ("/mnt/a disk\\x", "ext4")
    assert cgroup.options.keys() == {"rw", "cpu", "cpuacct"}
