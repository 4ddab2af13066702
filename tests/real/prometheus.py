"""A real Prometheus, with our alerts made impatient."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.missing import need

from .parts import Part, free_port

ALERTS = Path(__file__).parents[2] / "metrics/alerts.yml"
FIRES_WITHIN_S = 30.0
# That old is a sample of which BusyweightStale tells here; how old in earnest, alerts_test.yml knows.
STALE_S = 3
CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: busyweight
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus(Part):
    """Scrapes one target twice a second; the alerts are ours, but fire without waiting and look back for seconds."""

    def __init__(self, home: Path, target: str) -> None:
        super().__init__("prometheus", home)
        self.program = need("prometheus", "prometheus")
        self.port = free_port()
        rules = self.home / "alerts.yml"
        soon, changed = re.subn(r"(sample_age_seconds >) \d+", rf"\1 {STALE_S}", ALERTS.read_text())
        assert changed == 1
        at_once = re.sub(r"for: \d+[mhd]", "for: 0s", soon)
        rules.write_text(re.sub(r"\[\d+[mhd]\]", "[3s]", at_once))
        self.config = self.home / "prometheus.yml"
        self.config.write_text(CONFIG.format(rules=rules, target=target))

    def argv(self) -> list[str]:
        data = [f"--config.file={self.config}", f"--storage.tsdb.path={self.home / 'data'}"]
        return [self.program, *data, f"--web.listen-address=127.0.0.1:{self.port}"]

    def api(self, path: str, **words: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=10.0) as response:
            return json.load(response)["data"]

    def ready(self) -> bool:
        try:
            return bool(self.api("query", query='up{job="busyweight"} == 1')["result"])
        except urllib.error.URLError:
            return False

    def firing(self) -> set[str]:
        alerts = self.api("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
