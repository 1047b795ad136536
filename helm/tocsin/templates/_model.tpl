{{/* The model server's container. */}}
{{- define "tocsin.model" -}}
- name: model
  image: "{{ required "model.image.repository: name the model server's image" .Values.model.image.repository }}{{ with .Values.model.image.tag }}:{{ . }}{{ end }}"
  imagePullPolicy: {{ .Values.model.image.pullPolicy }}
  {{- range $key := list "command" "args" "env" "readinessProbe" "livenessProbe" "securityContext" "resources" "volumeMounts" }}
  {{- with get $.Values.model $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "tocsin.lifecycle" (list .Values.preStopSeconds .Values.model.lifecycle) }}
  lifecycle: {{- . | nindent 4 }}
  {{- end }}
{{- end -}}
