{{- define "tocsin.container" -}}
- name: tocsin
  image: "{{ .Values.tocsin.image.repository }}:{{ .Values.tocsin.image.tag | default .Chart.AppVersion }}"
  imagePullPolicy: {{ .Values.tocsin.image.pullPolicy }}
  args: ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"]
  ports:
    - name: grpc
      containerPort: {{ .Values.tocsin.port }}
    - name: tocsin-metrics
      containerPort: {{ .Values.tocsin.metricsPort }}
  readinessProbe:
    httpGet: {path: /readyz, port: tocsin-metrics}
    periodSeconds: 5
  livenessProbe:
    httpGet: {path: /healthz, port: tocsin-metrics}
    periodSeconds: 10
  startupProbe:
    httpGet: {path: /healthz, port: tocsin-metrics}
    failureThreshold: 30
    periodSeconds: 1
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    runAsNonRoot: true
    runAsUser: 65532
    capabilities: {drop: ["ALL"]}
    seccompProfile: {type: RuntimeDefault}
  resources: {{- toYaml .Values.tocsin.resources | nindent 4 }}
  volumeMounts:
    - name: tocsin-config
      mountPath: /etc/tocsin
      readOnly: true
    {{- if .Values.tocsin.bundles }}
    - name: tocsin-bundles
      mountPath: /bundles
      readOnly: true
    {{- end }}
{{- end -}}
