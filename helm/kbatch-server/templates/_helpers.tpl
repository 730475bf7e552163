{{- define "kbatch.labels" -}}
{{ include "kbatch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "kbatch.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* One name for all that is made: the release's, with the chart's in it once. */}}
{{- define "kbatch.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kbatch.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}{{ include "kbatch.name" . }}
{{- else }}default
{{- end }}
{{- end }}

{{- define "kbatch.jobsNamespace" -}}
{{- required "jobs.namespace: must name the namespace where jobs run" .Values.jobs.namespace }}
{{- end }}

{{- define "kbatch.prefix" -}}
{{ trimSuffix "/" .Values.hub.baseUrl }}/services/{{ .Values.hub.serviceName }}/
{{- end }}

{{/* What the chart itself sets; a value of the same name in `config` wins. */}}
{{- define "kbatch.config" -}}
{{- $address := printf "%s.%s.svc:%d" (include "kbatch.name" .) .Release.Namespace (int .Values.service.port) }}
{{- $own := dict
  "KBatchServer" (dict "launcher_class" "kubernetes" "db_url" "sqlite:////srv/kbatch/jobs.sqlite")
  "KubeJobLauncher" (dict "namespace" (include "kbatch.jobsNamespace" .) "instance" .Release.Name)
  "FileStorage" (dict "root" "/srv/kbatch/storage")
  "Launchpad" (dict "url_for_jobs" (printf "http://%s%s" $address (include "kbatch.prefix" .)))
}}
{{- mergeOverwrite $own (deepCopy .Values.config) | toPrettyJson }}
{{- end }}
