"""Runs a command to which the kernel refuses other processes' CPU clocks, as a sandbox may: `-m tests.faults.no_clocks
COMMAND…`.

A seccomp filter refuses clock_gettime for every clock whose number is not one of the fixed ones. It can only be taken
on, never off, so it is for a process of its own.
"""

import ctypes
import os
import platform
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _REFUSE_EPERM = 0x7FFF0000, 0x00050001
_CLOCK_GETTIME = {"x86_64": 228, "aarch64": 113}
_NUMBER, _FIRST_ARGUMENT = 0, 16  # where struct seccomp_data has them
_LOAD, _IF_EQUAL, _IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NEGATIVE = 0x80000000  # as the numbers of processes' clocks are, and no other


class _Instruction(ctypes.Structure):
    """struct sock_filter."""

    _fields_ = (("code", ctypes.c_uint16), ("so", ctypes.c_uint8), ("not_so", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def refuse_clocks() -> None:
    """From now on, for this process and all that it becomes."""
    instructions = [
        _Instruction(_LOAD, 0, 0, _NUMBER),
        _Instruction(_IF_EQUAL, 0, 3, _CLOCK_GETTIME[platform.machine()]),
        _Instruction(_LOAD, 0, 0, _FIRST_ARGUMENT),
        _Instruction(_IF_BITS, 0, 1, _NEGATIVE),
        _Instruction(_RETURN, 0, 0, _REFUSE_EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for option in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*option):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_clocks()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted
