"""Ask a vulnerability service about every installed dependency, and write the list of them as a CycloneDX SBOM.

    python deploy/audit/audit.py .venv/bin/python --tools .venv-audit/bin --output build

`pip-audit` ends with 0 when the service knows a package not at all, and a mirror of PyPI without its JSON API knows
none; that is no answer, and this says so. Exit codes: 0 every dependency was asked about and none has a known
vulnerability; 1 some have; 3 some could not be asked about.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VULNERABLE, _UNANSWERED = 1, 3


@dataclass(frozen=True)
class Outcome:
    """What became of the question: dependencies asked about, vulnerabilities found, and what stayed unanswered."""

    asked: int
    vulnerable: tuple[str, ...]
    unanswered: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code; a known vulnerability is graver than an unknown one."""
        return _VULNERABLE if self.vulnerable else _UNANSWERED if self.unanswered or not self.asked else 0

    @property
    def lines(self) -> list[str]:
        """What to print."""
        if not self.asked and not self.unanswered:
            return ["NOT AUDITED: no dependency was found to ask about"]
        lines = [f"VULNERABLE: {one}" for one in self.vulnerable]
        if self.unanswered:
            lines.append(
                f"NOT AUDITED: {len(self.unanswered)} of {self.asked + len(self.unanswered)} dependencies; is the "
                f"service reachable from here? First: {self.unanswered[0]}"
            )
        if not lines:
            lines.append(f"audited {self.asked} dependencies: no known vulnerability")
        return lines


def outcome(report: dict[str, Any]) -> Outcome:
    """Return the outcome of pip-audit's JSON report."""
    vulnerable, unanswered, asked = [], [], 0
    for own in report["dependencies"]:
        if reason := own.get("skip_reason"):
            unanswered.append(f"{own['name']}: {reason}")
            continue
        asked += 1
        for found in own["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            vulnerable.append(f"{own['name']} {own['version']}: {found['id']}, fixed in {fixed}")
    return Outcome(asked, tuple(vulnerable), tuple(unanswered))


def ask(tools: Path, requirements: Path, service: str) -> Outcome:
    """Ask `service` about what `requirements` pins."""
    command = [str(tools / "pip-audit"), "--disable-pip", "--no-deps", "--requirement", str(requirements)]
    command += ["--format", "json", "--vulnerability-service", service, "--timeout", "10", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return outcome(json.loads(done.stdout))
    except (json.JSONDecodeError, KeyError):
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        pinned = [line for line in requirements.read_text().splitlines() if "==" in line]
        return Outcome(0, (), tuple(f"{line}: {service} gave no answer ({reason[0][:200]})" for line in pinned))


def main() -> None:
    """Audit one environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="the environment's interpreter")
    parser.add_argument("--tools", type=Path, required=True, help="where pip-audit and cyclonedx-py are")
    parser.add_argument("--output", type=Path, default=Path("build"))
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    freeze = [str(arguments.python), "-m", "pip", "--disable-pip-version-check", "freeze", "--exclude-editable"]
    requirements = arguments.output / "requirements.txt"
    requirements.write_text(subprocess.run(freeze, capture_output=True, text=True, check=True).stdout)
    sbom = arguments.output / "sbom.cdx.json"
    write = [str(arguments.tools / "cyclonedx-py"), "environment", str(arguments.python)]
    subprocess.run([*write, "--pyproject", "pyproject.toml", "--output-reproducible", "-o", str(sbom)], check=True)
    print(f"{sbom}: {len(json.loads(sbom.read_text())['components'])} components")
    found = ask(arguments.tools, requirements, arguments.service)
    for line in found.lines:
        print(line, file=sys.stderr if found.code else sys.stdout)
    sys.exit(found.code)


if __name__ == "__main__":
    main()
