"""PURE. Settings that are allowed but unwise: with them replies are unknown or late."""

from collections.abc import Iterator

from agent.config import values
from agent.config.schema import Config


def warnings(config: Config) -> Iterator[str]:
    """One line for each such setting."""
    scan = config.scan
    show = values.show_duration
    if scan.give_up_after <= max(scan.min_gap, scan.fresh_for):
        yield (
            f"scan.give_up_after = {show(scan.give_up_after)} is not longer than scan.min_gap and scan.fresh_for: "
            "samples expire before the next scan may start, so replies will be unknown"
        )
    if scan.fresh_for < scan.min_gap and scan.wait_at_most > 0:
        yield (
            f"scan.min_gap = {show(scan.min_gap)} is longer than scan.fresh_for = {show(scan.fresh_for)}: "
            "replies may be older than fresh_for"
        )
    if scan.wait_at_most >= 1:
        yield (
            f"scan.wait_at_most = {show(scan.wait_at_most)}: HAProxy waits agent-inter (2s by default) for the "
            "whole check, so replies may be too late"
        )
    if scan.fresh_for == 0 and scan.wait_at_most == 0:
        yield 'scan.fresh_for = "0ms" with scan.wait_at_most = "0ms": every reply is based on the previous scan'
    if scan.give_up_after < 2:
        yield (
            f"scan.give_up_after = {show(scan.give_up_after)} is shorter than HAProxy's default agent-inter (2s): "
            "the first reply after a pause may be unknown"
        )
    if config.reply.on_stop == "release" and config.reply.release_for == 0:
        yield 'reply.release_for = "0ms": the weight is not released on stop'
