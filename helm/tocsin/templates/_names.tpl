{{- define "tocsin.name" -}}
{{- printf "%s" .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "tocsin.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tocsin.labels" -}}
{{ include "tocsin.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tocsin.config" -}}
listen: 0.0.0.0:{{ .Values.tocsin.port }}
upstream: 127.0.0.1:{{ .Values.model.port }}
mode: {{ .Values.tocsin.mode }}
metrics: 0.0.0.0:{{ .Values.tocsin.metricsPort }}
scoring_budget: {{ .Values.tocsin.scoringBudget }}
drain: {{ .Values.tocsin.drain }}
fail: {{ .Values.tocsin.fail }}
{{- with .Values.tocsin.settings }}
{{ toYaml . }}
{{- end }}
models:
{{- range $name, $model := .Values.tocsin.models }}
  {{ $name | quote }}:
    {{- with $model.bundle }}
    bundle: /bundles/{{ . }}
    {{- end }}
    {{- toYaml (omit $model "bundle") | nindent 4 }}
{{- end }}
{{- end -}}
