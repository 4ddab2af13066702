"""WORLD. Reads the configuration file, and reads it again for a reload; command line options override it.

It knows only the keys that are also command line options; `toml` parses the text.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.config import toml
from agent.config.schema import Config
from agent.config.toml import Checks, ConfigError
from agent.config.words import os_error

DEFAULT_FILE = Path("/etc/busyweight/busyweight.toml")


class Source:
    """Where a configuration comes from: a file (None: the default one, which need not exist) and the options that
    override it, ``procfs`` and ``listen``."""

    def __init__(
        self, path: Path | None = None, procfs: str | None = None, listen: tuple[tuple[str, int], ...] = ()
    ) -> None:
        self.path = path
        self.procfs = procfs
        self.listen = listen

    @property
    def file(self) -> Path:
        """The file, whether or not it exists."""
        return self.path or DEFAULT_FILE

    def load(self, checks: Checks) -> Config:
        """The current configuration. Raises ConfigError."""
        return self._parse(self._text(), checks)

    def reloader(self, checks: Checks) -> Callable[[], Config]:
        """Returns a function that reads the configuration, and like :meth:`load` raises ConfigError. A file that had
        settings and is now missing or empty is probably being rewritten, and must not mean "all defaults"."""
        seen = False

        def read() -> Config:
            nonlocal seen
            text = self._text()
            if seen and not text:
                what = "empty" if self.file.exists() else "no such file"
                wrong = f"{what}, but it had settings before; to go back to the defaults, write a comment into it"
                raise ConfigError([f"{self.file}: {wrong}"])
            seen = bool(text)
            return self._parse(text, checks)

        return read

    def _text(self) -> str:
        """The file's text; empty if the default file does not exist."""
        try:
            return self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            if self.path:
                raise ConfigError([f"{self.path}: no such file"]) from None
            return ""
        except UnicodeDecodeError as error:
            raise ConfigError([f"{self.file}: not UTF-8 at byte {error.start}"]) from None
        except OSError as error:
            raise ConfigError([f"{self.file}: cannot be read: {os_error(error)}"]) from None

    def _parse(self, text: str, checks: Checks) -> Config:
        config = toml.parse(text, str(self.file), checks)
        if self.procfs:
            config = replace(config, scan=replace(config.scan, procfs=self.procfs))
        return replace(config, listen=self.listen) if self.listen else config
