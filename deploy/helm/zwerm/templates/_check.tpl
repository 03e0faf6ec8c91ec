{{/* What the schema cannot say: values that do not fit each other. */}}
{{- define "zwerm.check" -}}
{{- $listeners := .Values.listeners -}}
{{- $on := include "zwerm.listening" . | fromJsonArray -}}
{{- if not $on -}}
{{- fail "no client could connect: enable one of listeners.mqtt, mqtts, ws, wss" -}}
{{- end -}}
{{- $encrypted := or $listeners.mqtts.enabled $listeners.wss.enabled -}}
{{- if and $encrypted (not .Values.tls.secretName) -}}
{{- fail "listeners.mqtts and listeners.wss need a certificate: name its Secret in tls.secretName" -}}
{{- end -}}
{{- if and .Values.tls.clients.asUsername (not .Values.tls.clients.caSecretName) -}}
{{- fail "tls.clients.asUsername needs certificates of clients: name the Secret of their authorities in tls.clients.caSecretName" -}}
{{- end -}}
{{- if and .Values.tls.clients.caSecretName (not $encrypted) -}}
{{- fail "tls.clients.caSecretName means nothing without TLS: enable listeners.mqtts or listeners.wss" -}}
{{- end -}}
{{- if not (or .Values.auth.allowAnonymous .Values.auth.usersSecret.name .Values.tls.clients.asUsername) -}}
{{- fail "nobody could connect: name a Secret with users in auth.usersSecret.name (zwerm passwd writes the file), or use tls.clients.asUsername, or say auth.allowAnonymous=true to let everybody in" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not $listeners.ws.enabled) -}}
{{- fail "ingress carries WebSocket: enable listeners.ws" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host must be said" -}}
{{- end -}}
{{- with .Values.shutdown -}}
{{- $least := add (int .preStopSeconds) (int .graceSeconds) 15 -}}
{{- if lt (int .terminationGraceSeconds) (int $least) -}}
{{- fail (printf "shutdown.terminationGraceSeconds must be %d or more: preStopSeconds, graceSeconds, and 15 for the end" $least) -}}
{{- end -}}
{{- end -}}
{{- if gt (int (.Values.cluster.bootstrapExpect | default 1)) (int .Values.replicas) -}}
{{- fail "cluster.bootstrapExpect is more than replicas: the cluster would wait for ever for the missing nodes" -}}
{{- end -}}
{{- $taken := dict (toString (int .Values.httpPort)) "httpPort" -}}
{{- $ports := dict "clusterPort" .Values.clusterPort -}}
{{- range $on }}{{- $_ := set $ports (printf "listeners.%s.port" .) (index $listeners .).port }}{{- end -}}
{{- range $who, $port := $ports -}}
{{- $port := toString (int $port) -}}
{{- if hasKey $taken $port -}}
{{- fail (printf "%s and %s are both %s" (get $taken $port) $who $port) -}}
{{- end -}}
{{- $_ := set $taken $port $who -}}
{{- end -}}
{{- end -}}
