{{/* tocsin.yaml */}}
{{- define "tocsin.config" -}}
{{- if .Values.extProc.enabled }}
ext_proc: {{ include "tocsin.scalar" (printf "%s:%v" .Values.tocsin.address .Values.extProc.port) }}
{{- with .Values.extProc.metadata }}
ext_proc_metadata: {{ . }}
{{- end }}
{{- with .Values.gateway.upstream }}
upstream: {{ include "tocsin.scalar" . }}
{{- end }}
{{- else }}
listen: {{ include "tocsin.scalar" (printf "%s:%v" .Values.tocsin.address .Values.tocsin.port) }}
upstream: {{ include "tocsin.scalar" (include "tocsin.upstream" .) }}
{{- end }}
mode: {{ .Values.tocsin.mode }}
metrics: {{ include "tocsin.scalar" (printf "%s:%v" .Values.tocsin.address .Values.tocsin.metricsPort) }}
scoring_budget: {{ .Values.tocsin.scoringBudget }}
drain: {{ .Values.tocsin.drain }}
drain_delay: {{ .Values.tocsin.drainDelay }}
fail: {{ .Values.tocsin.fail }}
{{- if .Values.tocsin.tls.enabled }}
{{ ternary "ext_proc_tls" "tls" .Values.extProc.enabled }}:
  certificate: /etc/tocsin-tls/tls.crt
  key: /etc/tocsin-tls/tls.key
  {{- if .Values.tocsin.tls.clients }}
  client_ca: /etc/tocsin-tls/ca.crt
  {{- end }}
{{- end }}
{{- if .Values.tocsin.state.redis }}
state:
  redis: {{ .Values.tocsin.state.redis | quote }}
  {{- with .Values.tocsin.state.sentinel }}
  sentinel: {{ . | quote }}
  {{- end }}
  {{- if .Values.tocsin.state.cluster }}
  cluster: true
  {{- end }}
  {{- with .Values.tocsin.state.username }}
  username: {{ . | quote }}
  {{- end }}
  {{- if .Values.tocsin.state.passwordSecret }}
  password: /etc/tocsin-state/password
  {{- end }}
{{- end }}
{{- with .Values.tocsin.settings }}
{{ toYaml . }}
{{- end }}
models:
{{- range $name, $model := .Values.tocsin.models }}
  {{ $name | quote }}:
    {{- with $model.bundle }}
    bundle: /bundles/{{ . }}
    {{- end }}
    {{- with $model.shadow }}
    shadow: /bundles/{{ . }}
    {{- end }}
    {{- toYaml (omit $model "bundle" "shadow") | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Where callers connect, or Envoy, inside the pod. */}}
{{- define "tocsin.port" -}}
{{ ternary .Values.extProc.port .Values.tocsin.port .Values.extProc.enabled }}
{{- end -}}

{{/* The Service's port. */}}
{{- define "tocsin.servicePort" -}}
{{ ternary .Values.extProc.port .Values.service.port .Values.extProc.enabled }}
{{- end -}}

{{/* An address in YAML, where brackets would begin a list. */}}
{{- define "tocsin.scalar" -}}
{{ ternary (quote .) . (hasPrefix "[" .) }}
{{- end -}}

{{- define "tocsin.upstream" -}}
{{- if eq .Values.kind "gateway" -}}
{{ required "gateway.upstream: name the model server, HOST:PORT" .Values.gateway.upstream }}
{{- else -}}
127.0.0.1:{{ .Values.model.port }}
{{- end -}}
{{- end -}}
