{{- define "kbatch.labels" -}}
{{ include "kbatch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{/* What is the same in every version: labels of everything that is made. */}}
{{- define "kbatch.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The labels of the service's pods alone. */}}
{{- define "kbatch.podSelector" -}}
{{ include "kbatch.selector" . }}
app.kubernetes.io/component: service
{{- end }}

{{/* The labels of the pod of `helm test`. */}}
{{- define "kbatch.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
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

{{- define "kbatch.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.name }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.name }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The one namespace of all jobs; empty where each user has a namespace. */}}
{{- define "kbatch.jobsNamespace" -}}
{{- if not (include "kbatch.perUser" .) }}
{{- .Values.app.job_namespace | default .Values.jobs.namespace | required "jobs.namespace: must name the namespace where jobs run" }}
{{- end }}
{{- end }}

{{/* Not empty where each user has a namespace. */}}
{{- define "kbatch.perUser" -}}
{{- if .Values.jobs.userNamespaces.enabled }}true{{ end }}
{{- end }}

{{/* Not empty where the service needs its rights in all namespaces. */}}
{{- define "kbatch.clusterWide" -}}
{{- with .Values.jobs.userNamespaces }}{{ if and .enabled (or .create (not .existing)) }}true{{ end }}{{ end }}
{{- end }}

{{/* The objects of each user's namespace, as a YAML list: the values', and the policy of the jobs. */}}
{{- define "kbatch.userObjects" -}}
{{- $objects := .Values.jobs.userNamespaces.objects }}
{{- if .Values.networkPolicy.jobs.enabled }}
{{- $policy := dict "apiVersion" "networking.k8s.io/v1" "kind" "NetworkPolicy" "metadata" (dict "name" (printf "%s-jobs" (include "kbatch.name" .))) "spec" (include "kbatch.jobsPolicy" . | fromYaml) }}
{{- $objects = append $objects $policy }}
{{- end }}
{{- toYaml $objects }}
{{- end }}

{{- define "kbatch.hubToken" -}}
{{- .Values.app.jupyterhub_api_token | default .Values.hub.apiToken }}
{{- end }}

{{- define "kbatch.hubApiUrl" -}}
{{- .Values.app.jupyterhub_api_url | default .Values.hub.apiUrl | trimSuffix "/" }}
{{- end }}

{{- define "kbatch.hubNamespace" -}}
{{- .Values.hub.namespace | default .Release.Namespace }}
{{- end }}

{{/* With a slash at both ends. */}}
{{- define "kbatch.prefix" -}}
{{- $new := printf "%s/services/%s" (trimSuffix "/" .Values.hub.baseUrl) .Values.hub.serviceName }}
{{- .Values.app.service_prefix | default $new | trimSuffix "/" }}/
{{- end }}

{{- define "kbatch.serviceName" -}}
{{- include "kbatch.prefix" . | trimSuffix "/" | base }}
{{- end }}

{{/* With a slash at both ends: what is before services/NAME/ in the prefix. */}}
{{- define "kbatch.baseUrl" -}}
{{- regexReplaceAll "services/[^/]+/$" (include "kbatch.prefix" .) "" }}
{{- end }}

{{- define "kbatch.serviceType" -}}
{{- .Values.app.service.type | default .Values.service.type }}
{{- end }}

{{/* The service as pods reach it, without the prefix. */}}
{{- define "kbatch.address" -}}
http://{{ include "kbatch.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end }}

{{/* Not empty where the storage is the folder of the pod's volume. */}}
{{- define "kbatch.storesFiles" -}}
{{- $env := "" }}
{{- range include "kbatch.extraEnv" . | fromYamlArray }}
{{- if eq .name "DEFAULT_FILE_STORAGE" }}{{ $env = .value | default "unknown" }}{{ end }}
{{- end }}
{{- $storage := dig "KBatchServer" "storage_class" ($env | default "file") .Values.config }}
{{- if or (eq $storage "file") (contains "FileStorage" $storage) }}true{{ end }}
{{- end }}

{{/* Not empty where the volume, or the database in it, is for one pod at a time. */}}
{{- define "kbatch.alone" -}}
{{- if eq .Values.db.type "sqlite" }}SQLite is for one process: db.type must be postgresql
{{- else if and (include "kbatch.storesFiles" .) (not .Values.persistence.enabled) }}each replica would keep uploads for itself: persistence.enabled must be true, or config.KBatchServer.storage_class another storage than file
{{- else if and .Values.persistence.enabled (not (has "ReadWriteMany" .Values.persistence.accessModes)) }}the volume is for one node: persistence.accessModes must have ReadWriteMany, or persistence.enabled be false with another storage than file
{{- end }}
{{- end }}

{{/* The file with zero-to-jupyterhub's values in the service's pod; empty if there are none. */}}
{{- define "kbatch.hubValues" -}}
{{- with .Values.hub.existingValues }}
{{- if or .secret .configMap }}/etc/kbatch-hub/values.yaml{{ else if .singleuser }}/etc/kbatch/hub-values.json{{ end }}
{{- end }}
{{- end }}

{{/* extraEnv as a list, be it one or a map. */}}
{{- define "kbatch.extraEnv" -}}
{{- if kindIs "slice" .Values.extraEnv }}{{ toYaml .Values.extraEnv }}
{{- else }}
{{- $list := list }}
{{- range $name, $value := .Values.extraEnv }}
{{- $list = append $list (merge (dict "name" $name) (kindIs "string" $value | ternary (dict "value" $value) $value)) }}
{{- end }}
{{- toYaml $list }}
{{- end }}
{{- end }}

{{/* Refuse what would be rendered well and then not work; the schema refuses the rest. */}}
{{- define "kbatch.check" -}}
{{- $alone := include "kbatch.alone" . }}
{{- if and (gt (int .Values.replicas) 1) $alone }}{{ fail (printf "replicas: %d, but %s" (int .Values.replicas) $alone) }}{{ end }}
{{- if and (eq .Values.db.type "postgresql") (not .Values.db.existingSecret) }}{{ fail "db.existingSecret: must name the Secret with the URL of the PostgreSQL database" }}{{ end }}
{{- if and (eq .Values.db.type "sqlite") .Values.db.existingSecret }}{{ fail "db.existingSecret: is for db.type postgresql" }}{{ end }}
{{- if not (or (include "kbatch.hubToken" .) .Values.hub.existingSecret) }}{{ fail "hub.apiToken or hub.existingSecret: one of them must be set" }}{{ end }}
{{- if and (include "kbatch.hubToken" .) .Values.hub.existingSecret }}{{ fail "hub.apiToken and hub.existingSecret: only one of them can be set" }}{{ end }}
{{- with .Values.hub.existingValues }}
{{- if gt (len (compact (list .secret .configMap (empty .singleuser | ternary "" "inline")))) 1 }}{{ fail "hub.existingValues: only one of secret, configMap and singleuser can be set" }}{{ end }}
{{- end }}
{{- if and (include "kbatch.hubValues" .) (hasKey (.Values.config.KBatchServer | default dict) "spawner_config") }}{{ fail "config.KBatchServer.spawner_config: is set by hub.existingValues" }}{{ end }}
{{- if and .Values.keys.value .Values.keys.existingSecret }}{{ fail "keys.value and keys.existingSecret: only one of them can be set" }}{{ end }}
{{- with .Values.jobs }}
{{- if and .userNamespaces.enabled .namespace }}{{ fail "jobs.namespace and jobs.userNamespaces.enabled: only one of them can be set" }}{{ end }}
{{- if and .userNamespaces.enabled .userNamespaces.create .userNamespaces.existing }}{{ fail "jobs.userNamespaces.existing: is for jobs.userNamespaces.create: false" }}{{ end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs: must name a gateway" }}{{ end }}
{{- range $trait, $value := dict "KBatchServer.db_url" "db" "KBatchServer.bind_url" "service.port" "KBatchServer.service_prefix" "hub.baseUrl and hub.serviceName" "KubeJobLauncher.namespace" "jobs.namespace" "KubeJobLauncher.enable_user_namespaces" "jobs.userNamespaces" "KubeJobLauncher.user_namespace_template" "jobs.userNamespaces" "KubeJobLauncher.create_user_namespaces" "jobs.userNamespaces" "KubeJobLauncher.watch_all_namespaces" "jobs.userNamespaces" "KubeJobLauncher.user_namespace_objects" "jobs.userNamespaces" "KubeJobLauncher.kueue_version" "jobs.kueueVersion" }}
{{- $words := splitList "." $trait }}
{{- if hasKey (get $.Values.config (first $words) | default dict) (last $words) }}{{ fail (printf "config.%s: is set by %s" $trait $value) }}{{ end }}
{{- end }}
{{- range include "kbatch.extraEnv" . | fromYamlArray }}
{{- if has .name (list "JUPYTERHUB_API_TOKEN" "JUPYTERHUB_API_URL" "JUPYTERHUB_BASE_URL" "JUPYTERHUB_SERVICE_PREFIX" "JUPYTERHUB_SERVICE_URL" "KBATCH_KEYS" "KBATCH_DB_URL") }}{{ fail (printf "extraEnv.%s: is set by the values hub, keys and db" .name) }}{{ end }}
{{- end }}
{{- end }}

{{/* What the chart itself sets; a trait of the same name in `config` wins. */}}
{{- define "kbatch.config" -}}
{{- $config := dict
  "KBatchServer" (dict "launcher_class" "kubernetes")
  "KubeJobLauncher" (dict
    "kueue_version" .Values.jobs.kueueVersion
    "instance" .Release.Name)
  "FileStorage" (dict "root" "/srv/kbatch/storage")
  "InflightRequests" (dict "drain_seconds" (ternary 0 5 (ne (include "kbatch.alone" .) "")))
  "WebServer" (dict "trusted_downstream_ips" (list "127.0.0.0/8" "::1" "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" "100.64.0.0/10" "fc00::/7"))
  "SignedLinks" (dict "url_for_jobs" (printf "%s%s" (include "kbatch.address" .) (include "kbatch.prefix" .)))
  "JobConfig" dict
}}
{{- if include "kbatch.perUser" . }}
{{- with .Values.jobs.userNamespaces }}
{{- $_ := set $config.KubeJobLauncher "enable_user_namespaces" true }}
{{- $_ := set $config.KubeJobLauncher "user_namespace_template" .template }}
{{- $_ := set $config.KubeJobLauncher "create_user_namespaces" .create }}
{{- $_ := set $config.KubeJobLauncher "use_existing_user_namespaces" .useExisting }}
{{- $_ := set $config.KubeJobLauncher "user_namespace_labels" .labels }}
{{- $_ := set $config.KubeJobLauncher "user_namespace_annotations" .annotations }}
{{- end }}
{{- $_ := set $config.KubeJobLauncher "hub_namespace" (include "kbatch.hubNamespace" .) }}
{{- $_ := set $config.KubeJobLauncher "user_namespace_objects" (include "kbatch.userObjects" . | fromYamlArray) }}
{{- $_ := set $config.KubeJobLauncher "watch_all_namespaces" (ne (include "kbatch.clusterWide" .) "") }}
{{- else }}
{{- $_ := set $config.KubeJobLauncher "namespace" (include "kbatch.jobsNamespace" .) }}
{{- end }}
{{- if eq .Values.db.type "sqlite" }}
{{- $_ := set $config.KBatchServer "db_url" "sqlite:////srv/kbatch/jobs.sqlite" }}
{{- end }}
{{- with include "kbatch.hubValues" . }}
{{- $_ := set $config.KBatchServer "spawner_config" . }}
{{- end }}
{{- with .Values.jobs }}
{{- if .restricted }}
{{- $_ := set $config.JobConfig "pod_security_context" (dict "runAsNonRoot" true "runAsUser" (int .runAsUser) "runAsGroup" (int .runAsGroup) "fsGroup" (int .fsGroup)) }}
{{- $_ := set $config.JobConfig "container_security_context" (dict "capabilities" (dict "drop" (list "ALL"))) }}
{{- end }}
{{- end }}
{{- range $class, $traits := .Values.config }}
{{- $all := get $config $class | default dict }}
{{- range $name, $value := $traits }}
{{- $_ := set $all $name $value }}
{{- end }}
{{- $_ := set $config $class $all }}
{{- end }}
{{- if not .Values.jobs.serviceMesh }}
{{- $labels := merge dict ($config.JobConfig.extra_labels | default dict) (dict "sidecar.istio.io/inject" "false" "kuma.io/sidecar-injection" "disabled") }}
{{- $annotations := merge dict ($config.JobConfig.extra_annotations | default dict) (dict "sidecar.istio.io/inject" "false" "linkerd.io/inject" "disabled" "consul.hashicorp.com/connect-inject" "false") }}
{{- $_ := set $config.JobConfig "extra_labels" $labels }}
{{- $_ := set $config.JobConfig "extra_annotations" $annotations }}
{{- end }}
{{- if .Values.networkPolicy.jobs.allowHub }}
{{- $labels := merge (dict "hub.jupyter.org/network-access-hub" "true") ($config.JobConfig.extra_labels | default dict) }}
{{- $_ := set $config.JobConfig "extra_labels" $labels }}
{{- end }}
{{- $config | toPrettyJson }}
{{- end }}

{{/* The files of /etc/kbatch, by name, as the data of a Secret: what is not there any more is gone then. */}}
{{- define "kbatch.configFiles" -}}
kbatch_server_config.py: {{ .Files.Get "files/kbatch_server_config.py" | b64enc }}
values.json: {{ include "kbatch.config" . | b64enc }}
{{- with .Values.hub.existingValues.singleuser }}
hub-values.json: {{ dict "singleuser" . | toJson | b64enc }}
{{- end }}
{{- range $name, $text := .Values.extraConfig }}
extra-{{ $name }}.py: {{ $text | b64enc | quote }}
{{- end }}
{{- end }}

{{/* The spec of the jobs' NetworkPolicy. */}}
{{- define "kbatch.jobsPolicy" -}}
{{- $jobs := dict "app.kubernetes.io/managed-by" "kbatch-server" "kbatch.jupyter.org/instance" .Release.Name }}
{{- $hub := dict "kubernetes.io/metadata.name" (include "kbatch.hubNamespace" .) }}
podSelector:
  matchLabels: {{ toJson $jobs }}
policyTypes: [Ingress, Egress]
ingress: []
egress:
  # names: the cluster's DNS, which is a pod (on OpenShift in a namespace of its own, with another port), on the
  # node, or outside of the cluster, as zero-to-jupyterhub has it
  - ports:
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
      - {port: 5353, protocol: UDP}
      - {port: 5353, protocol: TCP}
    to:
      - namespaceSelector:
          matchExpressions:
            - {key: kubernetes.io/metadata.name, operator: In, values: [kube-system, openshift-dns]}
  - ports:
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
    to:
      # Google Kubernetes Engine with Cloud DNS: of the metadata server only this port
      - ipBlock: {cidr: 169.254.169.254/32}
      # NodeLocal DNSCache
      - ipBlock: {cidr: 169.254.20.10/32}
      - ipBlock: {cidr: 10.0.0.0/8}
      - ipBlock: {cidr: 172.16.0.0/12}
      - ipBlock: {cidr: 192.168.0.0/16}
      - ipBlock: {cidr: "fc00::/7"}
  # the service: code and results
  - ports:
      - {port: 8050, protocol: TCP}
    to:
      - namespaceSelector:
          matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
        podSelector:
          matchLabels:
            {{- include "kbatch.podSelector" . | nindent 12 }}
  {{- if .Values.networkPolicy.jobs.allowInternet }}
  {{- $v4 := list "0.0.0.0/8" "10.0.0.0/8" "100.64.0.0/10" "127.0.0.0/8" "168.63.129.16/32" "169.254.0.0/16" "172.16.0.0/12" "192.0.0.0/24" "192.168.0.0/16" "198.18.0.0/15" "224.0.0.0/4" "240.0.0.0/4" }}
  {{- /* those of IPv6, and how NAT64 says one of the above in an IPv6 address */}}
  {{- $v6 := list "::1/128" "64:ff9b::/104" "64:ff9b::a00:0/104" "64:ff9b::6440:0/106" "64:ff9b::7f00:0/104" "64:ff9b::a83f:8110/128" "64:ff9b::a9fe:0/112" "64:ff9b::ac10:0/108" "64:ff9b::c000:0/120" "64:ff9b::c0a8:0/112" "64:ff9b::c612:0/111" "64:ff9b:1::/48" "fc00::/7" "fe80::/10" "fec0::/10" "ff00::/8" }}
  {{- range .Values.networkPolicy.jobs.exceptCidrs }}
  {{- if contains ":" . }}{{ $v6 = append $v6 . }}{{ else }}{{ $v4 = append $v4 . }}{{ end }}
  {{- end }}
  # all but private, shared and link-local addresses, and what was named: not the cluster, not the metadata of a cloud
  - to:
      - ipBlock:
          cidr: 0.0.0.0/0
          except: {{ toJson $v4 }}
      - ipBlock:
          cidr: ::/0
          except: {{ toJson $v6 }}
  {{- end }}
  {{- with .Values.networkPolicy.jobs.allowCidrs }}
  - to:
      {{- range . }}
      - ipBlock: {cidr: {{ . | quote }}}
      {{- end }}
  {{- end }}
  {{- if .Values.networkPolicy.jobs.allowHub }}
  - ports:
      - {port: 8081, protocol: TCP}
    to:
      - namespaceSelector:
          matchLabels: {{ toJson $hub }}
        podSelector:
          matchLabels: {app: jupyterhub, component: hub}
  - ports:
      - {port: 8000, protocol: TCP}
    to:
      - namespaceSelector:
          matchLabels: {{ toJson $hub }}
        podSelector:
          matchLabels: {app: jupyterhub, component: proxy}
  {{- end }}
  {{- with .Values.networkPolicy.jobs.egress }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
