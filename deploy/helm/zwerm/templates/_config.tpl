{{/* zwerm.toml. Where there are several values for a key, docs/configuration.md of the program decides. */}}

{{/* A value as TOML; numbers of values.yaml are floats to Helm. */}}
{{- define "zwerm.toml" -}}
{{- if kindIs "string" . }}{{ . | toJson }}
{{- else if kindIs "float64" . }}{{ if eq . (floor .) }}{{ . | int64 }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "slice" . }}{{ . | toJson }}
{{- else }}{{ . }}{{ end -}}
{{- end -}}

{{/* What `config` says of a section. */}}
{{- define "zwerm.keys" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "zwerm.toml" $value }}
{{- end -}}
{{- end -}}

{{/* What is the same for all sizes of a cluster: a change of it restarts the pods, one by one. */}}
{{- define "zwerm.config" -}}
[node]
data_dir = "/data"
shutdown_grace = {{ int .Values.shutdown.graceSeconds }}
{{- include "zwerm.keys" .Values.config.node }}

[[listener]]
{{- range $index, $kind := include "zwerm.listening" . | fromJsonArray }}
{{- $listener := index $.Values.listeners $kind }}
{{- if $index }}

[[listener]]
{{- end }}
kind = {{ $kind | quote }}
bind = {{ printf "%s:%d" $.Values.bindAddress (int $listener.port) | quote }}
max_connections = {{ int $listener.maxConnections }}
{{- if $listener.proxyProtocol }}
proxy_protocol = true
{{- end }}
{{- if hasPrefix "ws" $kind }}
path = {{ $listener.path | toJson }}
{{- end }}
{{- if has $kind (list "mqtts" "wss") }}
cert = "/etc/zwerm/tls/tls.crt"
key = "/etc/zwerm/tls/tls.key"
tls_min_version = {{ $.Values.tls.minVersion | quote }}
{{- with $.Values.tls.clients }}
{{- if .caSecretName }}
client_ca = "/etc/zwerm/clients/ca.crt"
client_certificate = {{ .certificate | quote }}
certificate_as_username = {{ .asUsername }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

[http]
bind = {{ printf "%s:%d" .Values.bindAddress (int .Values.httpPort) | quote }}
{{- if .Values.http.tokenSecret.name }}
token_file = "/etc/zwerm/token/token"
{{- end }}

[mqtt]
allow_anonymous = {{ .Values.auth.allowAnonymous }}
{{- include "zwerm.keys" .Values.config.mqtt }}
{{- if .Values.auth.usersSecret.name }}

[auth]
users_file = "/etc/zwerm/users/users"
{{- end }}
{{- if .Values.config.limits }}

[limits]
{{- include "zwerm.keys" .Values.config.limits }}
{{- end }}
{{- if .Values.config.storage }}

[storage]
{{- include "zwerm.keys" .Values.config.storage }}
{{- end }}
{{- if .Values.config.log }}

[log]
{{- include "zwerm.keys" .Values.config.log }}
{{- end }}
{{- end -}}

{{/*
How a cluster is formed. Names, not addresses: they are resolved again at every dial, so a pod may come back
elsewhere. A node that is in a cluster needs nothing of this, so a change of it restarts no pod.
*/}}
{{- define "zwerm.formation" -}}
{{- $peers := list -}}
{{- range $ordinal := until (int .Values.replicas) -}}
{{- $peers = append $peers (printf "%s-%d.%s:%d" (include "zwerm.fullname" $) $ordinal (include "zwerm.podDomain" $) (int $.Values.clusterPort)) -}}
{{- end -}}
[cluster]
listen = {{ printf "%s:%d" .Values.bindAddress (int .Values.clusterPort) | quote }}
peers = [
{{- range $peers }}
    {{ . | quote }},
{{- end }}
]
bootstrap_expect = {{ int (.Values.cluster.bootstrapExpect | default .Values.replicas) }}
shards = {{ int .Values.cluster.shards }}
{{- include "zwerm.keys" .Values.config.cluster }}
{{- end -}}
