{{- define "cadenza.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cadenza.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* Labels of every object; call with (dict "root" $ "component" NAME). */}}
{{- define "cadenza.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "cadenza.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s-%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) .Values.profile -}}
{{- end -}}
{{- end -}}

{{- define "cadenza.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cadenza.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The settings of the chosen profile, as YAML. */}}
{{- define "cadenza.profile" -}}
{{- $profile := deepCopy (index .Values.profiles .Values.profile) -}}
{{- if eq .Values.profile "tpu" -}}
{{- $chips := 1 -}}
{{- range splitList "x" $profile.topology }}{{ $chips = mul $chips (int .) }}{{ end -}}
{{- $_ := set $profile.resources.requests "google.com/tpu" $chips -}}
{{- $_ := set $profile.resources.limits "google.com/tpu" $chips -}}
{{- $_ := set $profile.nodeSelector "cloud.google.com/gke-tpu-accelerator" $profile.accelerator -}}
{{- $_ := set $profile.nodeSelector "cloud.google.com/gke-tpu-topology" $profile.topology -}}
{{- end -}}
{{- toYaml $profile -}}
{{- end -}}

{{/* Security of a pod. */}}
{{- define "cadenza.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Security of a container. */}}
{{- define "cadenza.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What a pod that calls the server needs to know, as environment variables of the SDK. */}}
{{- define "cadenza.clientEnv" -}}
- name: CADENZA_TARGET
  value: {{ printf "%s:8500" (include "cadenza.name" .) | quote }}
{{- if .Values.tls.enabled }}
- name: CADENZA_TLS_CA_FILE
  value: /etc/cadenza/tls/ca.crt
- name: CADENZA_TLS_SERVER_NAME
  value: {{ default (include "cadenza.name" .) .Values.testClient.serverName | quote }}
{{- if .Values.tls.clientCertificates }}
- name: CADENZA_TLS_CERT_FILE
  value: /etc/cadenza/tls/tls.crt
- name: CADENZA_TLS_KEY_FILE
  value: /etc/cadenza/tls/tls.key
{{- end }}
{{- end }}
{{- with .Values.testClient.tokenSecretName }}
- name: CADENZA_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: token}
{{- end }}
{{- end -}}

{{/* A pod that calls the server once; call with (dict "root" $ "container" NAME "command" LIST). */}}
{{- define "cadenza.clientPod" -}}
restartPolicy: Never
serviceAccountName: {{ include "cadenza.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "cadenza.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .container }}
    image: {{ include "cadenza.image" .root | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: {{ toJson .command }}
    env:
      {{- include "cadenza.clientEnv" .root | nindent 6 }}
    resources:
      requests: {cpu: 500m, memory: 256Mi}
      limits: {memory: 1Gi}
    securityContext:
      {{- include "cadenza.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if .root.Values.tls.enabled }}
      - {name: tls, mountPath: /etc/cadenza/tls, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  {{- if .root.Values.tls.enabled }}
  - name: tls
    secret: {secretName: {{ default .root.Values.tls.secretName .root.Values.testClient.tlsSecretName | quote }}, defaultMode: 0440}
  {{- end }}
{{- end -}}
