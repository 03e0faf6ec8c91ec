"""What a rendered chart must hold: every object by the schema of Kubernetes, and the objects by each other.

Schemas come from PyPI (kubernetes-validate) and are closed: a field that Kubernetes does not know is refused. The
custom resource ServiceMonitor is in none of them; the part of it that the chart uses is written down here.
Knows no Helm. Start at by_schema and by_each_other.
"""

import copy
import re
import tomllib

import jsonschema
import kubernetes_validate

# The oldest that Chart.yaml names, and the newest that is known.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
SERVICE_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object", "required": ["name"], "additionalProperties": False,
                     "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": _LABELS}},
        "spec": {
            "type": "object", "additionalProperties": False, "required": ["selector", "endpoints"],
            "properties": {
                "selector": {"type": "object", "additionalProperties": False, "properties": {"matchLabels": _LABELS}},
                "endpoints": {"type": "array", "items": {
                    "type": "object", "additionalProperties": False,
                    "properties": {"port": {"type": "string"}, "path": {"type": "string"},
                                   "interval": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}}}},
            },
        },
    },
}


def refuse(reason):
    raise AssertionError(reason)


def by_schema(thing, version):
    """Raises unless this Kubernetes takes the object."""
    if thing["kind"] == "ServiceMonitor":
        return jsonschema.validate(thing, SERVICE_MONITOR)
    return kubernetes_validate.validate(thing, version, strict=True)


def schemas_bite(things):
    """The schemas refuse what is broken on purpose; says how many breaks were tried."""
    tried = 0
    for thing in things:
        unknown = copy.deepcopy(thing)
        (unknown.get("spec") or unknown)["nobodyKnowsThis"] = 1
        nameless = copy.deepcopy(thing)
        nameless["metadata"]["name"] = ["a", "list"]
        for broken in (unknown, nameless):
            tried += 1
            try:
                by_schema(broken, VERSIONS[-1])
            except jsonschema.ValidationError:
                continue
            refuse(f"a broken {thing['kind']} was taken")
    return tried


class Rendered:
    """The objects of one rendering, found by kind."""

    def __init__(self, things):
        self.things = things

    def all(self, kind):
        return [thing for thing in self.things if thing["kind"] == kind]

    def one(self, kind):
        found = self.all(kind)
        return found[0] if len(found) == 1 else refuse(f"{len(found)} objects of kind {kind}")

    @property
    def pod(self):
        return self.one("StatefulSet")["spec"]["template"]

    @property
    def container(self):
        containers = self.pod["spec"]["containers"]
        return containers[0] if len(containers) == 1 else refuse("a pod has one container")

    @property
    def config(self):
        return self.one("ConfigMap")["data"]["zwerm.toml"]

    def environment(self, ordinal):
        """The variables of a pod, as Kubernetes expands them."""
        known = {}
        for variable in self.container["env"]:
            value = variable.get("value")
            if value is None:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                value = {"metadata.name": f"{self.one('StatefulSet')['metadata']['name']}-{ordinal}",
                         "metadata.namespace": "mqtt"}[path]
            known[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: known[name.group(1)], value)
        return known


def selects(selector, labels, what):
    if not selector or not selector.items() <= labels.items():
        refuse(f"{what} selects {selector}, but pods are {labels}")


def by_each_other(rendered, domain):
    """Raises unless names that one object says are those that another one has."""
    stateful = rendered.one("StatefulSet")
    spec, labels = stateful["spec"], rendered.pod["metadata"]["labels"]
    namespaces = {thing["metadata"].get("namespace") for thing in rendered.things}
    if namespaces != {"mqtt"}:
        refuse(f"namespaces: {namespaces}")
    selects(spec["selector"]["matchLabels"], labels, "the StatefulSet")
    ports = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}
    if len(set(ports.values())) != len(ports):
        refuse(f"two ports are the same: {ports}")
    _services(rendered, spec, labels, ports)
    for kind in ("PodDisruptionBudget",):
        for thing in rendered.all(kind):
            selects(thing["spec"]["selector"]["matchLabels"], labels, kind)
    for policy in rendered.all("NetworkPolicy"):
        selects(policy["spec"]["podSelector"]["matchLabels"], labels, "NetworkPolicy")
        _policy(policy["spec"]["ingress"], labels, ports)
    _pod(rendered, spec, ports)
    _rights(rendered, stateful)
    _formation(rendered, stateful, domain)


def _services(rendered, spec, labels, ports):
    services = {service["metadata"]["name"]: service for service in rendered.all("Service")}
    for name, service in services.items():
        selects(service["spec"]["selector"], labels, f"Service {name}")
        for port in service["spec"]["ports"]:
            if ports.get(port["targetPort"]) != port["port"]:
                refuse(f"Service {name}: {port} is no port of the pods, {ports}")
    headless = services.get(spec["serviceName"]) or refuse(f"no Service {spec['serviceName']}")
    if headless["spec"]["clusterIP"] != "None" or not headless["spec"]["publishNotReadyAddresses"]:
        refuse("names of pods must exist before the pods are ready")
    for monitor in rendered.all("ServiceMonitor"):
        found = [service for service in services.values()
                 if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()]
        if [service["metadata"]["name"] for service in found] != [spec["serviceName"]]:
            refuse("the ServiceMonitor must find the headless Service and no other")
    for ingress in rendered.all("Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        offered = [port["name"] for port in services[backend["name"]]["spec"]["ports"]]
        if backend["port"]["name"] not in offered:
            refuse(f"the Ingress leads to {backend}, the Service offers {offered}")


def _policy(rules, labels, ports):
    named = [port["port"] for rule in rules for port in rule["ports"]]
    if sorted(named) != sorted(ports):
        refuse(f"the NetworkPolicy names {named}, pods have {sorted(ports)}")
    between = [rule for rule in rules if {"port": "cluster"} in rule["ports"]]
    if len(between) != 1 or len(between[0]["ports"]) != 1 or len(between[0].get("from", [])) != 1:
        refuse("the port between nodes is for nodes only")
    selects(between[0]["from"][0]["podSelector"]["matchLabels"], labels, "the NetworkPolicy's source")


def _pod(rendered, spec, ports):
    pod, container = rendered.pod["spec"], rendered.container
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if container[probe]["httpGet"]["port"] not in ports:
            refuse(f"{probe} asks a port that is not there")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    if mounted != claimed | set(volumes):
        refuse(f"mounted: {mounted}; there: {claimed | set(volumes)}")
    if volumes["config"]["configMap"]["name"] != rendered.one("ConfigMap")["metadata"]["name"]:
        refuse("the configuration that is mounted is not the one that is rendered")
    written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    config = tomllib.loads(rendered.config)
    if written != [config["node"]["data_dir"]]:
        refuse(f"writable: {written}, the data goes to {config['node']['data_dir']}")
    accounts = [account["metadata"]["name"] for account in rendered.all("ServiceAccount")]
    if accounts not in ([], [pod["serviceAccountName"]]):
        refuse(f"accounts: {accounts}, pods use {pod['serviceAccountName']}")
    security = pod["securityContext"] | container["securityContext"]
    wanted = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
              "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    if not wanted.items() <= security.items() or not security["runAsUser"]:
        refuse(f"not as it should be: {security}")
    stopping = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pod["terminationGracePeriodSeconds"] < stopping + config["node"]["shutdown_grace"] + 15:
        refuse("the time that SIGTERM has is too short")


def _rights(rendered, stateful):
    """Pods have a token exactly when they have a right, and that is to read their own StatefulSet."""
    roles, bindings = rendered.all("Role"), rendered.all("RoleBinding")
    if rendered.pod["spec"]["automountServiceAccountToken"] != bool(roles) or len(roles) != len(bindings):
        refuse("a token without a right, or a right without a token")
    if not roles:
        return
    own = {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get"],
           "resourceNames": [stateful["metadata"]["name"]]}
    if rendered.one("Role")["rules"] != [own]:
        refuse(f"rights: {roles[0]['rules']}")
    binding, account = rendered.one("RoleBinding"), rendered.pod["spec"]["serviceAccountName"]
    if binding["roleRef"]["name"] != roles[0]["metadata"]["name"]:
        refuse("the binding is of another role")
    if binding["subjects"] != [{"kind": "ServiceAccount", "name": account, "namespace": "mqtt"}]:
        refuse(f"bound to {binding['subjects']}")


def _formation(rendered, stateful, domain):
    cluster = tomllib.loads(rendered.config)["cluster"]
    count, name = stateful["spec"]["replicas"], stateful["metadata"]["name"]
    port = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}["cluster"]
    pods = [f"{name}-{ordinal}.{stateful['spec']['serviceName']}.mqtt.svc.{domain}:{port}" for ordinal in range(count)]
    if cluster["peers"] != pods:
        refuse(f"peers are {cluster['peers']}, pods will be {pods}")
    advertised = [rendered.environment(ordinal)["ZWERM_CLUSTER__ADVERTISE"] for ordinal in range(count)]
    if advertised != pods:
        refuse(f"pods say they are {advertised}, but will be {pods}")
    if not 1 <= cluster["bootstrap_expect"] <= count:
        refuse(f"{cluster['bootstrap_expect']} nodes are expected of {count}")
