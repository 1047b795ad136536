{{/* The relay's container, for pods of this chart and of others: include it with the chart's own context. */}}
{{- define "tocsin.container" -}}
- name: tocsin
  image: {{ include "tocsin.image" . }}
  imagePullPolicy: {{ .Values.tocsin.image.pullPolicy }}
  args: ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"]
  ports:
    - name: grpc
      containerPort: {{ include "tocsin.port" . }}
    - name: tocsin-metrics
      containerPort: {{ .Values.tocsin.metricsPort }}
  readinessProbe:
    {{- if eq .Values.tocsin.readiness "grpc" }}
    grpc: {port: {{ include "tocsin.port" . }}}
    {{- else }}
    httpGet: {path: /readyz, port: tocsin-metrics}
    {{- end }}
    periodSeconds: 5
  livenessProbe:
    httpGet: {path: /healthz, port: tocsin-metrics}
    periodSeconds: 10
  startupProbe:
    httpGet: {path: /healthz, port: tocsin-metrics}
    failureThreshold: 60
    periodSeconds: 1
  {{- with include "tocsin.lifecycle" (list .Values.preStopSeconds .Values.tocsin.lifecycle) }}
  lifecycle: {{- . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "tocsin.securityContext" . | nindent 4 }}
  resources: {{- toYaml .Values.tocsin.resources | nindent 4 }}
  volumeMounts:
    - name: tocsin-config
      mountPath: /etc/tocsin
      readOnly: true
    {{- if include "tocsin.bundled" . }}
    - name: tocsin-bundles
      mountPath: /bundles
      readOnly: true
    {{- end }}
    {{- if .Values.tocsin.tls.enabled }}
    - name: tocsin-tls
      mountPath: /etc/tocsin-tls
      readOnly: true
    {{- end }}
    {{- if .Values.tocsin.state.passwordSecret }}
    - name: tocsin-state
      mountPath: /etc/tocsin-state
      readOnly: true
    {{- end }}
    {{- with .Values.tocsin.volumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}

{{/* Init containers that fetch bundles, before the relay starts. */}}
{{- define "tocsin.fetching" -}}
{{- range $at, $one := .Values.tocsin.fetch }}
- name: tocsin-fetch-{{ $at }}
  image: {{ include "tocsin.image" $ }}
  imagePullPolicy: {{ $.Values.tocsin.image.pullPolicy }}
  args: ["tocsin", "bundle", "fetch", {{ $one.source | quote }}, {{ printf "/bundles/%s" $one.file | quote }}, "--digest", {{ $one.digest | quote }}]
  {{- with $.Values.tocsin.fetchSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  securityContext: {{- include "tocsin.securityContext" $ | nindent 4 }}
  resources: {{- toYaml $.Values.tocsin.resources | nindent 4 }}
  volumeMounts:
    - name: tocsin-bundles
      mountPath: /bundles
{{- end }}
{{- end -}}

{{/* The volumes of these containers. */}}
{{- define "tocsin.volumes" -}}
- name: tocsin-config
  configMap:
    name: {{ include "tocsin.name" . }}
{{- if .Values.tocsin.fetch }}
- name: tocsin-bundles
  emptyDir: {sizeLimit: 2Gi}
{{- else if .Values.tocsin.bundles }}
- name: tocsin-bundles
  {{- toYaml .Values.tocsin.bundles | nindent 2 }}
{{- else if include "tocsin.bundled" . }}
- name: tocsin-bundles
  configMap:
    name: {{ include "tocsin.name" . }}-bundles
{{- end }}
{{- if .Values.tocsin.tls.enabled }}
- name: tocsin-tls
  secret:
    secretName: {{ .Values.tocsin.tls.secretName | default (printf "%s-tls" (include "tocsin.name" .)) }}
{{- end }}
{{- with .Values.tocsin.state.passwordSecret }}
- name: tocsin-state
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key }}, path: password}]
{{- end }}
{{- end -}}

{{/* Whether a volume with bundles is mounted; further mounts may have a place for them too. */}}
{{- define "tocsin.bundled" -}}
{{- $bundled := or .Values.tocsin.bundles .Values.tocsin.fetch }}
{{- range .Values.tocsin.models }}{{ if or .bundle .shadow }}{{ $bundled = true }}{{ end }}{{ end }}
{{- range .Values.tocsin.volumeMounts }}{{ if eq (trimSuffix "/" .mountPath) "/bundles" }}{{ $bundled = false }}{{ end }}{{ end }}
{{- if $bundled }}true{{ end }}
{{- end -}}

{{/* A container's own hooks; without, it waits before SIGTERM, for callers come until all have heard that it ends. */}}
{{- define "tocsin.lifecycle" -}}
{{- $seconds := first . | int }}
{{- if last . }}
{{- toYaml (last .) }}
{{- else if $seconds }}
preStop:
  exec: {command: ["sleep", {{ $seconds | quote }}]}
{{- end }}
{{- end -}}

{{- define "tocsin.image" -}}
{{- $tag := .Values.tocsin.image.tag | default .Chart.AppVersion -}}
{{ printf "%s%s%s" .Values.tocsin.image.repository (ternary "@" ":" (hasPrefix "sha256:" $tag)) $tag | quote }}
{{- end -}}

{{/* As the restricted Pod Security Standard wants it. */}}
{{- define "tocsin.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
capabilities: {drop: ["ALL"]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}
