"""Makes what wheels list of the crates in them (sboms/) the same wherever and whenever they were built.

python -m tools.sbom WHEEL...

maturin names the crate after the directory that it is built in, and numbers each list by chance. Here the directory
becomes `.`, and the number is made of what is listed. (The time is SOURCE_DATE_EPOCH, to which maturin sees.)
It must never change anything else in a wheel.
"""

import base64
import hashlib
import json
import re
import sys
import uuid
import zipfile
from pathlib import Path


def settled(listed: bytes) -> bytes:
    """The list, without the directory and with its number."""
    bill = json.loads(re.sub(rb'path\+file://[^#"]*', b"path+file://.", listed))
    bill["serialNumber"] = ""
    bill["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill)).urn
    return json.dumps(bill, indent=2).encode()


def recorded(record: bytes, files: dict[str, bytes]) -> bytes:
    """RECORD, with what it must say of these files."""
    lines = record.decode().splitlines(keepends=True)
    for at, line in enumerate(lines):
        name = line.partition(",")[0]
        if name in files:
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
            lines[at] = f"{name},sha256={digest},{len(files[name])}\n"
    return "".join(lines).encode()


def settle(wheel: Path) -> None:
    """Puts another wheel into the place of this one."""
    with zipfile.ZipFile(wheel) as packed:
        members = [(member, packed.read(member)) for member in packed.infolist()]
    bills = {member.filename: settled(content) for member, content in members if "/sboms/" in member.filename}
    new = wheel.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as packed:
        for member, content in members:
            if member.filename.endswith(".dist-info/RECORD"):
                packed.writestr(member, recorded(content, bills))
            else:
                packed.writestr(member, bills.get(member.filename, content))
    new.replace(wheel)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        settle(Path(name))
