"""Real pytest runs of small suites with the plugins that judge, and what they leave, for tests of those plugins."""

import json
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

JUDGING = ("watch", "expectations", "retry", "reporting", "comparison")
PLUGINS = ["-p", "no:image_harness", *(word for name in JUDGING for word in ("-p", f"fixtures.{name}"))]


@dataclass(frozen=True)
class Ran:
    """A finished run: pytest's own result, the results by test name, the page, and the test cases of JUnit."""

    done: Any
    results: dict[str, dict[str, Any]]
    page: str
    junit: ET.Element

    def outcomes(self):
        return {name: (result["outcome"], result["verdict_class"]) for name, result in self.results.items()}

    def case(self, name):
        return next(case for case in self.junit if case.get("name") == name)

    def properties(self, name):
        return {one.get("name"): one.get("value") for one in self.case(name).iter("property")}


def run_small(pytester, *arguments):
    done = pytester.runpytest_subprocess(*PLUGINS, *arguments)
    folder = pytester.path / "reports/latest"
    data = json.loads((folder / "run.json").read_text())
    results = {result["nodeid"].partition("::")[2] or result["nodeid"]: result for result in data["results"]}
    page, junit = (folder / "index.html").read_text(), ET.parse(folder / "junit.xml").getroot()[0]
    return Ran(done, results, page, junit)
