"""List what the image contains: a CycloneDX bill of materials, and the licences, one line a package.

python image/inventory.py /opt/tocsin /base-packages     # writes share/sbom.json and share/licences.md into /opt/tocsin

cyclonedx-py reads the Python packages; this adds the Debian packages of the base, which are in dpkg's list of them.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from debian.deb822 import Packages
from packageurl import PackageURL

DOCUMENTATION = Path("/usr/share/doc")  # where Debian keeps each package's copyright


def main() -> None:
    environment, base = Path(sys.argv[1]), Path(sys.argv[2])
    bom = python_packages(environment)
    bom.components.update(debian_packages(base))
    if not any(component.name.startswith("python3.") for component in bom.components):
        bom.components.add(python())
    share = environment / "share"
    share.mkdir(exist_ok=True)
    (share / "sbom.json").write_text(JsonV1Dot6(bom).output_as_string(indent=1))
    lines = [
        f"| {component.name} | {component.version} | {licences(component)} |" for component in sorted(bom.components)
    ]
    heading = "| package | version | licence |\n|---|---|---|\n"
    (share / "licences.md").write_text(heading + "\n".join(lines) + "\n")
    print(f"{len(lines)} packages listed in {share}")


def python_packages(environment: Path) -> Bom:
    """What is installed in the environment, as cyclonedx-py reads it."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [tool, "environment", "--output-reproducible", "--output-format", "JSON", environment / "bin" / "python"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Bom.from_json(json.loads(listed))


def python() -> Component:
    """Python itself, where a base brings it without Debian's packages."""
    url = PackageURL("generic", "", "python", platform.python_version())
    licence = DisjunctiveLicense(id="PSF-2.0")
    return Component(name="python", version=url.version, purl=url, bom_ref=url.to_string(), licenses=[licence])


def debian_packages(base: Path) -> Iterator[Component]:
    """The packages that dpkg's file of them has as installed."""
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().split("\n") if "=" in line)
    release = f"{system['ID']}-{system['VERSION_ID']}".replace('"', "")
    with base.open() as file:
        for package in Packages.iter_paragraphs(file, use_apt_pkg=False):
            if package["Status"] != "install ok installed":
                continue
            qualifiers = {"arch": package["Architecture"], "distro": release}
            url = PackageURL("deb", "debian", package["Package"], package["Version"], qualifiers)
            yield Component(
                name=package["Package"],
                version=package["Version"],
                type=ComponentType.LIBRARY,
                purl=url,
                bom_ref=url.to_string(),
                licenses=[DisjunctiveLicense(name=name) for name in debian_licences(package["Package"])],
            )


def debian_licences(package: str) -> list[str]:
    """The names that its copyright file gives, where that is written for machines."""
    file = DOCUMENTATION / package / "copyright"
    text = file.read_text(errors="replace") if file.exists() else ""
    is_for_machines = text.startswith("Format")
    return sorted(set(re.findall(r"^License: *(\S.*?) *$", text, re.MULTILINE))) if is_for_machines else []


def licences(component: Component) -> str:
    names = {
        str(getattr(licence, "id", None) or getattr(licence, "name", None) or licence.value)
        for licence in component.licenses
    }
    is_debian = component.purl is not None and component.purl.type == "deb"
    place = f"{DOCUMENTATION}/{component.name}/copyright" if is_debian else "its *.dist-info"
    return ", ".join(sorted(names)) or f"see {place}"


if __name__ == "__main__":
    main()
