{{/* The arguments of cadenza-server: what the chart decides, then flags of the profile, then those of the user. */}}
{{- define "cadenza.arguments" -}}
- --models=/models
- --cache-dir=/cache
- --port=8500
- --http-port=8501
- --health-port=8502
- --drain-seconds={{ .Values.server.drainSeconds }}
- --max-connection-seconds={{ .Values.server.maxConnectionSeconds }}
- --log-format=json
{{- if .Values.tls.enabled }}
- --tls-certificate=/etc/cadenza/tls/tls.crt
- --tls-key=/etc/cadenza/tls/tls.key
{{- if .Values.tls.clientCertificates }}
- --tls-client-ca=/etc/cadenza/tls/ca.crt
{{- end }}
{{- end }}
{{- if .Values.auth.enabled }}
- --token-file=/etc/cadenza/auth/tokens
{{- end }}
{{- $profile := index .Values.profiles .Values.profile }}
{{- range $flag, $value := mergeOverwrite (deepCopy $profile.flags) .Values.server.flags }}
{{- if kindIs "bool" $value }}
- --{{ if not $value }}no-{{ end }}{{ $flag }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%v" $flag . | quote }}
{{- end }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" $flag $value | quote }}
{{- else }}
- --{{ $flag }}={{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Probes ask the port that serves health alone, without TLS and tokens: Kubernetes speaks neither. */}}
{{- define "cadenza.probes" -}}
{{- $profile := index .Values.profiles .Values.profile -}}
startupProbe:
  grpc: {port: 8502}
  periodSeconds: 5
  failureThreshold: {{ div (add $profile.startupSeconds 4) 5 }}
readinessProbe:
  grpc: {port: 8502}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  grpc: {port: 8502}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- define "cadenza.initContainers" -}}
{{- $initSecurity := include "cadenza.containerSecurity" . -}}
{{- if eq .Values.models.source "fetch" }}
- name: fetch-models
  image: {{ .Values.models.fetch.image | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: {{ toJson .Values.models.fetch.command }}
  {{- with .Values.models.fetch.env }}
  env: {{ toJson . }}
  {{- end }}
  resources:
    requests: {cpu: 500m, memory: 512Mi}
    limits: {memory: 2Gi}
  securityContext:
    {{- $initSecurity | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- else if eq .Values.models.source "export" }}
{{- with .Values.models.export }}
- name: export-model
  image: {{ .image | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  command:
    - cadenza-export
    - {{ printf "/source/%s" .path | quote }}
    - --output={{ printf "/models/%s/%d" .name (int .version) }}
    - --precision={{ .precision }}
    - --overwrite
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    {{- $initSecurity | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: source, mountPath: /source, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- else if eq .Values.models.source "image" }}
- name: seed-cache
  image: {{ include "cadenza.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -ec, "cp -R /cache/. /seed/"]
  resources:
    requests: {cpu: 100m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- $initSecurity | nindent 4 }}
  volumeMounts:
    - {name: cache, mountPath: /seed}
{{- end }}
{{- end -}}

{{- define "cadenza.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: cache
  {{- if .Values.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.cache.existingClaim | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.cache.sizeLimit }}}
  {{- end }}
{{- if eq .Values.models.source "pvc" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-models" (include "cadenza.name" .)) .Values.models.pvc.existingClaim | quote }}
{{- else if ne .Values.models.source "image" }}
- name: models
  emptyDir: {sizeLimit: {{ .Values.models.emptyDirSizeLimit }}}
{{- end }}
{{- if eq .Values.models.source "export" }}
- name: source
  persistentVolumeClaim:
    claimName: {{ .Values.models.export.claim | quote }}
    readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ .Values.tls.secretName | quote }}
    defaultMode: 0440
{{- end }}
{{- if .Values.auth.enabled }}
- name: auth
  secret:
    secretName: {{ .Values.auth.secretName | quote }}
    defaultMode: 0440
    items:
      - {key: {{ .Values.auth.key | quote }}, path: tokens}
{{- end }}
{{- end -}}
