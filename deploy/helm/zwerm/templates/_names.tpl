{{/* Names and labels. */}}

{{- define "zwerm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Of all objects. 50: Kubernetes and the services add to it, and a label of 63 must hold the sum. */}}
{{- define "zwerm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "zwerm.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "zwerm.headless" -}}
{{- include "zwerm.fullname" . }}-headless
{{- end -}}

{{/* What the names of pods end with: POD.THIS is an address. */}}
{{- define "zwerm.podDomain" -}}
{{- printf "%s.%s.svc.%s" (include "zwerm.headless" .) .Release.Namespace .Values.cluster.domain -}}
{{- end -}}

{{- define "zwerm.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "zwerm.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* By these a pod is found; they never change. */}}
{{- define "zwerm.selector" -}}
app.kubernetes.io/name: {{ include "zwerm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "zwerm.labels" -}}
{{ include "zwerm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The kinds of listeners that are switched on, in a fixed order. */}}
{{- define "zwerm.listening" -}}
{{- $on := list -}}
{{- range $kind := list "mqtt" "mqtts" "ws" "wss" -}}
{{- if (index $.Values.listeners $kind).enabled -}}{{- $on = append $on $kind -}}{{- end -}}
{{- end -}}
{{- $on | toJson -}}
{{- end -}}
