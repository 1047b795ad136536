{{/* tocsin.yaml */}}
{{- define "tocsin.config" -}}
listen: 0.0.0.0:{{ .Values.tocsin.port }}
upstream: {{ include "tocsin.upstream" . }}
mode: {{ .Values.tocsin.mode }}
metrics: 0.0.0.0:{{ .Values.tocsin.metricsPort }}
scoring_budget: {{ .Values.tocsin.scoringBudget }}
drain: {{ .Values.tocsin.drain }}
fail: {{ .Values.tocsin.fail }}
{{- if .Values.tocsin.tls.enabled }}
tls:
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

{{- define "tocsin.upstream" -}}
{{- if eq .Values.kind "gateway" -}}
{{ required "gateway.upstream: name the model server, HOST:PORT" .Values.gateway.upstream }}
{{- else -}}
127.0.0.1:{{ .Values.model.port }}
{{- end -}}
{{- end -}}
