{{/* What could not start, or would be walked past, is refused here rather than by a pod. */}}
{{- define "tocsin.checks" -}}
{{- $tocsin := .Values.tocsin }}
{{- $settings := $tocsin.settings | default dict }}
{{- if not $tocsin.models }}
{{- fail "tocsin.models: name at least one model and where its signals stand" }}
{{- end }}

{{- if and .Values.extProc.enabled (eq .Values.kind "sidecar") }}
{{- fail "extProc.enabled: a processor stands beside no model server: set kind: gateway, or kind: template and include its container in the gateway's own pods" }}
{{- end }}
{{- if and .Values.extProc.enabled (hasKey $settings "listeners") }}
{{- fail "tocsin.settings.listeners: a processor has no relay: install one by itself" }}
{{- end }}
{{- $written := list "ext_proc" "ext_proc_metadata" "listen" "upstream" "mode" "metrics" "scoring_budget" "drain" "drain_delay" "fail" "models" }}
{{- if $tocsin.tls.enabled }}{{ $written = append $written (ternary "ext_proc_tls" "tls" .Values.extProc.enabled) }}{{ end }}
{{- if $tocsin.state.redis }}{{ $written = append $written "state" }}{{ end }}
{{- range $key := $written }}
{{- if hasKey $settings $key }}
{{- fail (printf "tocsin.settings.%s: the chart writes it from a value of its own: set that" $key) }}
{{- end }}
{{- end }}

{{- $ports := dict (include "tocsin.port" .) (ternary "extProc.port" "tocsin.port" .Values.extProc.enabled) }}
{{- $others := list (list "tocsin.metricsPort" $tocsin.metricsPort) }}
{{- if ne .Values.kind "gateway" }}{{ $others = append $others (list "model.port" .Values.model.port) }}{{ end }}
{{- $admin := regexFind "[0-9]+$" (hasKey $settings "admin" | ternary (toString (get $settings "admin")) ":9465") }}
{{- if $admin }}{{ $others = append $others (list "the relay's admin port (tocsin.settings.admin)" $admin) }}{{ end }}
{{- range $at, $one := $settings.listeners | default list }}
{{- $others = append $others (list (printf "tocsin.settings.listeners.%d" $at) (regexFind "[0-9]+$" $one.listen)) }}
{{- end }}
{{- range $pair := $others }}
{{- $port := last $pair | toString }}
{{- with get $ports $port }}
{{- fail (printf "%s: port %s is %s as well, and all are in one pod: choose another" . $port (first $pair)) }}
{{- end }}
{{- $_ := set $ports $port (first $pair) }}
{{- end }}

{{- if and $tocsin.native (eq .Values.kind "sidecar") }}
{{- range $name, $protocol := $settings.protocols | default dict }}
{{- if $protocol.reflection }}
{{- fail (printf "tocsin.settings.protocols.%s.reflection: a native sidecar starts before the model server that is to be asked, and each would wait for the other: set descriptors, or tocsin.native: false" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $tocsin.readiness "grpc") (include "tocsin.secure" .) }}
{{- fail "tocsin.readiness: the kubelet's gRPC probe speaks no TLS, so such a pod is never ready: set http" }}
{{- end }}
{{- $needed := add (include "tocsin.seconds" $tocsin.drain) (include "tocsin.seconds" $tocsin.drainDelay) .Values.preStopSeconds }}
{{- if and (ne .Values.kind "template") (gt (int $needed) (int .Values.terminationGracePeriodSeconds)) }}
{{- fail (printf "terminationGracePeriodSeconds: preStopSeconds, tocsin.drainDelay and tocsin.drain take %d s together: set more" $needed) }}
{{- end }}

{{- $folders := list "/bundles" "/etc/tocsin-tls" "/etc/tocsin-state" }}
{{- range $tocsin.volumeMounts }}{{ $folders = append $folders (trimSuffix "/" .mountPath) }}{{ end }}
{{- range $place, $file := include "tocsin.files" . | fromYaml }}
{{- $mounted := false }}
{{- range $folder := $folders }}
{{- if or (eq $file $folder) (hasPrefix (printf "%s/" $folder) $file) }}{{ $mounted = true }}{{ end }}
{{- end }}
{{- if not $mounted }}
{{- fail (printf "tocsin.%s: nothing is mounted at %s: name a volume in `volumes` and `tocsin.volumeMounts`, and the file's whole path here" $place $file) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether callers speak TLS with the relay. */}}
{{- define "tocsin.secure" -}}
{{- if or .Values.tocsin.tls.enabled (get (.Values.tocsin.settings | default dict) "tls") }}true{{ end -}}
{{- end -}}

{{/* Seconds, rounded up, of a time with its unit. */}}
{{- define "tocsin.seconds" -}}
{{- if or (hasSuffix "ms" .) (hasSuffix "us" .) }}1
{{- else if hasSuffix "s" . }}{{ trimSuffix "s" . | float64 | ceil | int }}
{{- else if hasSuffix "m" . }}{{ mulf 60 (trimSuffix "m" . | float64) | ceil | int }}
{{- else }}{{ mulf 3600 (trimSuffix "h" . | float64) | ceil | int }}
{{- end }}
{{- end -}}

{{/* Files that the settings name, by the place that names them. */}}
{{- define "tocsin.files" -}}
{{- $settings := .Values.tocsin.settings | default dict }}
{{- $holders := dict "settings" (pick $settings "admin_token") }}
{{- range $key := list "tls" "upstream_tls" "admin_tls" "ext_proc_tls" "opentelemetry" "state" "events" "record" }}
{{- $_ := set $holders (printf "settings.%s" $key) (get $settings $key | default dict) }}
{{- end }}
{{- range $at, $one := $settings.listeners | default list }}
{{- range $key := list "tls" "upstream_tls" }}
{{- $_ := set $holders (printf "settings.listeners.%d.%s" $at $key) (get $one $key | default dict) }}
{{- end }}
{{- end }}
{{- range $at, $one := (get $settings "events" | default dict).to | default list }}
{{- $_ := set $holders (printf "settings.events.to.%d" $at) $one }}
{{- end }}
{{- range $name, $protocol := $settings.protocols | default dict }}
{{- $_ := set $holders (printf "settings.protocols.%s" $name) (pick $protocol "descriptors") }}
{{- end }}
{{- range $name, $model := .Values.tocsin.models }}
{{- $_ := set $holders (printf "models.%s.fallback.tls" $name) ((get $model "fallback" | default dict).tls | default dict) }}
{{- $second := get $model "second_opinion" | default dict }}
{{- $_ := set $holders (printf "models.%s.second_opinion" $name) (pick $second "sampling_key" "scores") }}
{{- $_ := set $holders (printf "models.%s.second_opinion.judge" $name) (pick ($second.judge | default dict) "ca") }}
{{- $embedder := (get $second "diversity" | default dict).embedder | default dict }}
{{- $_ := set $holders (printf "models.%s.second_opinion.diversity.embedder" $name) (pick $embedder "ca") }}
{{- range $at, $judge := (get $second "agreement" | default dict).judges | default list }}
{{- $_ := set $holders (printf "models.%s.second_opinion.agreement.judges.%d" $name $at) (pick $judge "ca") }}
{{- end }}
{{- range $opinion, $settings := $second.opinions | default dict }}
{{- $_ := set $holders (printf "models.%s.second_opinion.opinions.%s" $name $opinion) (pick $settings "prompt" "persona" "questions_file" "references" "rubric") }}
{{- $_ := set $holders (printf "models.%s.second_opinion.opinions.%s.worse" $name $opinion) (pick ($settings.worse | default dict) "ca") }}
{{- end }}
{{- end }}
{{- $files := dict }}
{{- range $place, $holder := $holders }}
{{- range $key := list "admin_token" "certificate" "key" "client_ca" "ca" "headers" "password" "spool" "file" "secret" "settings" "descriptors" "to" "sampling_key" "scores" "prompt" "persona" "questions_file" "references" "rubric" }}
{{- $file := get $holder $key }}
{{- if and $file (kindIs "string" $file) }}{{ $_ := set $files (printf "%s.%s" $place $key) $file }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $files }}
{{- end -}}
