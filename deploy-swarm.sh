#!/usr/bin/env bash
# Deploys the stack to Docker Swarm. See ./deploy-swarm.sh --help.
set -euo pipefail

if ((BASH_VERSINFO[0] < 4)); then
    echo "deploy-swarm.sh: this script needs bash 4 or newer, but this is $BASH_VERSION; on macOS, run: brew install bash" >&2
    exit 3
fi

readonly OK=0 FAILED=1 USAGE=2 NOT_READY=3 NOT_CONVERGED=4
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly ROOT
# The parts of the stack are the services in swarm.yml. GITHUB_PULL_API_IMAGE is the image of github-pull-api.
mapfile -t PARTS < <(sed -n 's/^    image: ${\([A-Z_]*\)_IMAGE:.*/\1/p' "$ROOT/swarm.yml" | tr 'A-Z_' 'a-z-')
readonly PARTS

STACK=${STACK_NAME:-workflow-stack}
ENV_FILE=
BUILD=yes
REGISTRY=
ACTION=deploy
DRAIN=yes
ALLOW_LOCAL_VOLUME=no
ADVERTISE=
TIMEOUT=300
WITH_TOKENS=no
# The arguments of this run, to repeat in hints.
GIVEN=
declare -A FROM_FILE=()

usage() {
    cat <<'END'
Deploys the stack to Docker Swarm, or updates a deployed stack. A second run changes only what you have changed.

Usage: ./deploy-swarm.sh [OPTIONS]

  --env-file FILE        read settings and credentials from FILE (default: .env beside this script, then ../.env,
                         then only the environment)
  --no-build             deploy the existing images instead of building them
  --registry HOST/PATH   push the images to this registry and deploy them from there; needed for several nodes
  --stack NAME           name of the stack (default: STACK_NAME, then workflow-stack)
  --advertise-addr ADDR  address of this node, if the script creates the swarm and the machine has several addresses
  --allow-local-volume   deploy to several nodes although the volume is local to one of them
  --with-tokens          let in only callers with a token: make that of an administrator, and print it once
  --timeout SECONDS      how long to wait for the services to start (default: 300)
  --down                 remove the stack after its running jobs have ended; the volume stays
  --now                  with --down: do not wait for running jobs
  -h, --help             print this help

Credentials: set one of these in .env or in the environment. The first one that is set is used.
  CLAUDE_CODE_CREDENTIALS_SECRET   a file with {"apiKey": "sk-ant-..."} or {"claudeAiOauth": {...}}
  CLAUDE_CODE_CREDENTIALS_JSON     the same JSON itself
  ANTHROPIC_API_KEY, CLAUDE_CODE_OAUTH_TOKEN
For private repositories, set GITHUB_TOKEN_SECRET (a file) or GITHUB_TOKEN, or, for a GitHub App, GITHUB_APP_ID and
GITHUB_APP_PRIVATE_KEY_SECRET (a file with its key, in PEM). Credentials become Docker secrets.
To let in only callers with a token, use --with-tokens, or set ADMIN_TOKEN_SECRET (a file that contains the token of an
administrator). For https, set TLS_CERT and TLS_KEY (files in PEM: the certificate with its chain, and its key).

Settings: every ${NAME} in swarm.yml, such as WORKFLOW_REPLICAS, CLAUDE_MEMORY_LIMIT or WORKFLOW_PORT.

Exit codes:
  0  done
  1  a step failed
  2  an option or a setting is wrong
  3  this machine is not ready, for example because Docker is missing
  4  not all services started in time

Example:
  echo 'ANTHROPIC_API_KEY=sk-ant-...' > .env && chmod 600 .env
  ./deploy-swarm.sh
END
}

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
note() { printf 'note: %s\n' "$*"; }

# Prints what is wrong and what to do about it, and exits.
# Usage: die CODE LINE...
die() {
    local code=$1 line
    shift
    for line in "$@"; do printf 'deploy-swarm.sh: %s\n' "$line" >&2; done
    exit "$code"
}

# --- options and settings

value_of() { # OPTION ARGUMENTS_LEFT NEXT
    if (($2 < 2)) || [[ -z $3 ]]; then die "$USAGE" "$1 needs a value; see --help"; fi
    printf '%s' "$3"
}

parse_options() {
    while (($#)); do
        case $1 in
            -h | --help) usage; exit "$OK" ;;
            --env-file) ENV_FILE=$(value_of "$1" $# "${2-}"); shift ;;
            --registry) REGISTRY=$(value_of "$1" $# "${2-}"); shift ;;
            --stack) STACK=$(value_of "$1" $# "${2-}"); shift ;;
            --advertise-addr) ADVERTISE=$(value_of "$1" $# "${2-}"); shift ;;
            --timeout) TIMEOUT=$(value_of "$1" $# "${2-}"); shift ;;
            --no-build) BUILD=no ;;
            --allow-local-volume) ALLOW_LOCAL_VOLUME=yes ;;
            --with-tokens) WITH_TOKENS=yes ;;
            --down) ACTION=down ;;
            --now) DRAIN=no ;;
            *) die "$USAGE" "unknown option $1; see --help" ;;
        esac
        shift
    done
    [[ $STACK =~ ^[a-z0-9][a-z0-9_-]{0,40}$ ]] || die "$USAGE" "--stack: use lower-case letters, digits, - and _"
    [[ $TIMEOUT =~ ^[1-9][0-9]{0,5}$ ]] || die "$USAGE" "--timeout: must be a number of seconds"
    [[ -z $REGISTRY || $REGISTRY =~ ^[A-Za-z0-9._:/-]+$ ]] || die "$USAGE" "--registry: must be HOST or HOST/PATH"
    REGISTRY=${REGISTRY%/}
    if [[ $DRAIN == no && $ACTION != down ]]; then die "$USAGE" "--now works only together with --down"; fi
}

readonly CREDENTIALS=(CLAUDE_CODE_CREDENTIALS_SECRET CLAUDE_CODE_CREDENTIALS_JSON ANTHROPIC_API_KEY
    CLAUDE_CODE_OAUTH_TOKEN GITHUB_TOKEN_SECRET GITHUB_TOKEN GITHUB_APP_PRIVATE_KEY_SECRET ADMIN_TOKEN_SECRET TLS_CERT TLS_KEY)
readonly OWN_SETTINGS=(BUILD_IMAGE NODE_IMAGE RUNTIME_IMAGE)

# Every setting that has an effect: those in the stack's files, and those of this script.
known_settings() {
    # shellcheck disable=SC2016 # grep must see the dollar sign
    grep -hoE '\$\{[A-Z_]+' "$ROOT/swarm.yml" "$ROOT"/docker/swarm.*.yml | tr -d '${' | sort -u
    printf '%s\n' "${CREDENTIALS[@]}" "${OWN_SETTINGS[@]}"
}

# Reads lines of the form NAME=value. The file is data: the script does not execute, expand or print any of it.
read_env_file() { # FILE
    local file=$1 line name value number=0 known
    known=$(known_settings)
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=${line%$'\r'}
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        if ! [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]]; then
            die "$USAGE" "$file, line $number: this is not a setting; write NAME=value"
        fi
        name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
        value=${value%"${value##*[![:space:]]}"}
        if [[ $value == \"*\" || $value == \'*\' ]] && ((${#value} > 1)); then
            value=${value:1:${#value}-2}
        elif [[ $value == [\"\']* ]]; then
            die "$USAGE" "$file, line $number: the value of $name starts with a quote but does not end with one; put comments on their own line"
        elif [[ $value =~ ^(|.*[^[:space:]])[[:space:]]+#.*$ ]]; then
            value=${BASH_REMATCH[1]}
        fi
        if ! grep -qx -- "$name" <<<"$known"; then
            note "$file, line $number: ignoring $name, which is not a setting of the stack"
            continue
        fi
        FROM_FILE[$name]=$value
    done <"$file"
}

# Prints the value of a setting. The environment takes precedence over the file.
setting() { # NAME
    if [[ -n ${!1-} ]]; then printf '%s' "${!1}"; else printf '%s' "${FROM_FILE[$1]-}"; fi
}

load_settings() {
    local name
    if [[ -n $ENV_FILE ]]; then
        [[ -r $ENV_FILE && ! -d $ENV_FILE ]] || die "$USAGE" "--env-file: cannot read $ENV_FILE"
    elif [[ -f $ROOT/.env ]]; then
        ENV_FILE=$ROOT/.env
    elif [[ -f $ROOT/../.env ]]; then
        ENV_FILE=$ROOT/../.env
    fi
    if [[ -n $ENV_FILE ]]; then
        say "settings: $ENV_FILE"
        read_env_file "$ENV_FILE"
        if [[ -n $(find -L "$ENV_FILE" -perm /044 2>/dev/null) ]]; then
            note "other users can read $ENV_FILE; run: chmod 600 $ENV_FILE"
        fi
    fi
    # Credentials stay in this shell. The programs it starts must not see them in their environment.
    for name in "${CREDENTIALS[@]}"; do
        FROM_FILE[$name]=$(setting "$name")
        unset "$name"
    done
    while read -r name; do
        [[ -n ${FROM_FILE[$name]-} && -z ${!name-} ]] || continue
        [[ " ${CREDENTIALS[*]} " == *" $name "* ]] || export "$name=${FROM_FILE[$name]}"
    done < <(known_settings)
}

# A longer job needs a longer grace period, for the replica and for Swarm.
derive_grace() {
    [[ -n ${JOB_TIMEOUT_SECONDS-} ]] || return 0
    [[ $JOB_TIMEOUT_SECONDS =~ ^[1-9][0-9]{0,7}$ ]] || die "$USAGE" "JOB_TIMEOUT_SECONDS: must be a number of seconds"
    export GRACE_SECONDS=${GRACE_SECONDS:-$((JOB_TIMEOUT_SECONDS + 60))}
    export STOP_GRACE_PERIOD=${STOP_GRACE_PERIOD:-$((JOB_TIMEOUT_SECONDS + 100))s}
}

# Prints the content of the file that a setting names.
secret_file() { # NAME
    local path=${FROM_FILE[$1]}
    [[ -r $path && -s $path ]] || die "$USAGE" "$1: cannot read $path, or the file is empty"
    cat -- "$path"
}

# Prints a plain key as the JSON that the service reads. The key must not need escaping.
key_json() { # NAME BEFORE AFTER
    local key=${FROM_FILE[$1]}
    [[ $key =~ ^[A-Za-z0-9._~+/=-]+$ ]] || die "$USAGE" "$1: this is not a key; it contains characters that are not allowed in keys"
    printf '%s%s%s' "$2" "$key" "$3"
}

claude_credentials() {
    local text
    if [[ -n ${FROM_FILE[CLAUDE_CODE_CREDENTIALS_SECRET]} ]]; then
        text=$(secret_file CLAUDE_CODE_CREDENTIALS_SECRET) || exit
    elif [[ -n ${FROM_FILE[CLAUDE_CODE_CREDENTIALS_JSON]} ]]; then
        text=${FROM_FILE[CLAUDE_CODE_CREDENTIALS_JSON]}
    elif [[ -n ${FROM_FILE[ANTHROPIC_API_KEY]} ]]; then
        text=$(key_json ANTHROPIC_API_KEY '{"apiKey": "' '"}') || exit
    elif [[ -n ${FROM_FILE[CLAUDE_CODE_OAUTH_TOKEN]} ]]; then
        text=$(key_json CLAUDE_CODE_OAUTH_TOKEN '{"claudeAiOauth": {"accessToken": "' '"}}') || exit
    else
        die "$USAGE" "the agent has no credential" \
            "add ANTHROPIC_API_KEY=sk-ant-... or CLAUDE_CODE_OAUTH_TOKEN=... (from: claude setup-token) to $ROOT/.env"
    fi
    if ! [[ $text =~ ^[[:space:]]*\{.*\"(apiKey|claudeAiOauth)\"[[:space:]]*: ]]; then
        die "$USAGE" 'the credential must be JSON like {"apiKey": "..."} or {"claudeAiOauth": {"accessToken": "..."}}'
    fi
    printf '%s' "$text"
}

git_token() {
    if [[ -n ${FROM_FILE[GITHUB_TOKEN_SECRET]} ]]; then
        secret_file GITHUB_TOKEN_SECRET
    else
        printf '%s' "${FROM_FILE[GITHUB_TOKEN]}"
    fi
}

# Prints the private key of the GitHub App, if there is one.
github_app_key() {
    local text id=${GITHUB_APP_ID-}
    [[ -n $id || -n ${FROM_FILE[GITHUB_APP_PRIVATE_KEY_SECRET]} ]] || return 0
    [[ $id =~ ^[A-Za-z0-9.]{1,64}$ ]] || die "$USAGE" "GITHUB_APP_ID: must be the ID or the client ID of a GitHub App, such as 123456"
    [[ -n ${FROM_FILE[GITHUB_APP_PRIVATE_KEY_SECRET]} ]] || die "$USAGE" "GITHUB_APP_PRIVATE_KEY_SECRET is not set: GITHUB_APP_ID needs the file of the App's private key"
    text=$(secret_file GITHUB_APP_PRIVATE_KEY_SECRET) || exit
    [[ $text == *'PRIVATE KEY-----'* ]] || die "$USAGE" "GITHUB_APP_PRIVATE_KEY_SECRET: the file does not contain a PRIVATE KEY in PEM"
    printf '%s' "$text"
}

admin_token() {
    local text
    [[ -n ${FROM_FILE[ADMIN_TOKEN_SECRET]} ]] || return 0
    text=$(secret_file ADMIN_TOKEN_SECRET) || exit
    [[ $text =~ ^wfs_[A-Za-z0-9]{8}_[A-Za-z0-9]{43,64}$ ]] || die "$USAGE" "ADMIN_TOKEN_SECRET: the file does not contain a token" \
        "make one: echo \"wfs_\$(openssl rand -hex 4)_\$(openssl rand -hex 32)\" > admin.token"
    printf '%s' "$text"
}

random() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; } # BYTES

new_token() { printf 'wfs_%s_%s' "$(random 4)" "$(random 32)"; }

# Prints the content of a file of TLS: `CERTIFICATE` or `PRIVATE KEY`.
tls_file() { # NAME WHAT
    local text
    [[ -n ${FROM_FILE[TLS_CERT]}${FROM_FILE[TLS_KEY]} ]] || return 0
    [[ -n ${FROM_FILE[$1]} ]] || die "$USAGE" "$1 is not set: set both TLS_CERT and TLS_KEY, or neither"
    text=$(secret_file "$1") || exit
    [[ $text == *"$2-----"* ]] || die "$USAGE" "$1: the file does not contain a $2 in PEM"
    [[ $text != *ENCRYPTED* ]] || die "$USAGE" "$1: the key is encrypted, and nobody could type its passphrase" \
        "decrypt it: openssl pkey -in encrypted.pem -out key.pem"
    printf '%s' "$text"
}

# --- the machine

check_docker() {
    command -v sha256sum >/dev/null || die "$NOT_READY" "sha256sum is not installed" "install the package coreutils (macOS: brew install coreutils)"
    command -v docker >/dev/null || die "$NOT_READY" "docker is not installed" \
        "install Docker Engine: https://docs.docker.com/engine/install (Debian, Ubuntu: sudo apt-get install docker.io)"
    local why
    why=$(docker version --format '{{.Server.Version}}' 2>&1) || die "$NOT_READY" "the Docker engine does not answer: ${why##*$'\n'}" \
        "start it (sudo systemctl start docker), or add yourself to its group (sudo usermod -aG docker \$USER) and log in again"
}

check_swarm() {
    local state why
    state=$(docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}')
    case $state in
        'active true') ;;
        'active false') die "$NOT_READY" "this node is a worker, not a manager" \
            "run this script on a manager, or promote this node from there: docker node promote $(docker info --format '{{.Name}}')" ;;
        'inactive '*)
            step "creating a swarm: docker swarm init"
            why=$(docker swarm init ${ADVERTISE:+--advertise-addr "$ADVERTISE"} 2>&1 >/dev/null) \
                || die "$NOT_READY" "docker swarm init failed: $why" "if the machine has several addresses, choose the one that other nodes use: --advertise-addr ADDR" ;;
        *) die "$NOT_READY" "the swarm on this node is not usable (state: ${state% *})" "look at docker info; docker swarm leave --force discards the swarm" ;;
    esac
}

# Succeeds if the engine runs on this machine, so that the script can look at its kernel.
engine_is_here() {
    local host=${DOCKER_HOST-}
    [[ -n $host ]] || host=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) || host=
    [[ $(uname -s) == Linux && ${host:-unix://} == unix://* ]]
}

has_ipvs() {
    local release
    [[ -e /proc/net/ip_vs ]] && return 0
    release=/lib/modules/$(uname -r)
    modprobe -nq ip_vs 2>/dev/null || grep -qs '/ip_vs\.ko' "$release/modules.builtin" "$release/modules.dep"
}

choose_publishing() {
    [[ -z ${PUBLISH_MODE-} ]] && engine_is_here && ! has_ipvs && {
        note "this kernel has no IPVS, so there is no ingress mesh: publishing the ports only on the node of the gateway"
        export PUBLISH_MODE=host
    }
    case ${PUBLISH_MODE:=ingress} in
        host) export GATEWAY_ENDPOINT_MODE=dnsrr ;;
        ingress) export GATEWAY_ENDPOINT_MODE=vip ;;
        *) die "$USAGE" "PUBLISH_MODE: must be host or ingress, not $PUBLISH_MODE" ;;
    esac
    export PUBLISH_MODE
}

nodes() { docker node ls --quiet; }

check_nodes() {
    local count
    count=$(nodes | wc -l)
    ((count > 1)) || return 0
    if [[ -z ${NFS_SERVER-} && $ALLOW_LOCAL_VOLUME == no ]]; then
        die "$USAGE" "the swarm has $count nodes, but the volume is local: each node would have its own, and jobs would be lost" \
            "set NFS_SERVER and NFS_PATH, or keep everything on one node (PLACEMENT and GATEWAY_PLACEMENT=node.hostname==...) and use --allow-local-volume"
    fi
    if [[ -z $REGISTRY && $ALLOW_LOCAL_VOLUME == no ]]; then
        die "$USAGE" "the swarm has $count nodes, but only this one has the images" "push them to a registry: --registry HOST/PATH"
    fi
}

# Swarm starts a replica only if its reservation fits on a node. The script lowers the default reservations until
# they fit. It does not change reservations that the operator has set.
readonly SHARES=(
    'GATEWAY 1 0.1 64M' 'WORKFLOW 5 0.25 256M' 'PULL 3 0.25 256M' 'CLAUDE 3 0.5 512M')

# Prints the CPUs and megabytes of all nodes that accept tasks.
capacity() {
    nodes | xargs docker node inspect --format \
        '{{.Status.State}} {{.Spec.Availability}} {{.Description.Resources.NanoCPUs}} {{.Description.Resources.MemoryBytes}}' \
        | awk '$1 == "ready" && $2 == "active" {cpu += $3 / 1e9; memory += $4 / 1048576} END {printf "%.2f %d", cpu, memory}'
}

# Prints one line per service: the setting's name, the highest number of replicas at a time, and what each reserves.
reservations() { # KIND EXTRA
    local share prefix replicas cpu memory name count
    for share in "${SHARES[@]}"; do
        read -r prefix replicas cpu memory <<<"$share"
        name=${prefix}_$1_RESERVATION
        count=${prefix}_REPLICAS
        [[ $1 == CPU ]] || cpu=$memory
        replicas=${!count:-$replicas}
        [[ $prefix == GATEWAY ]] || replicas=$((replicas + $2))
        printf '%s %s %s\n' "$name" "$replicas" "${!name:-$cpu}"
    done
}

# Reads reservations. If they exceed nine tenths of the capacity, prints smaller ones; the rest is for the machine itself.
plan_reservations() { # KIND CAPACITY
    awk -v kind="$1" -v there="$2" '
        function number(text) {
            if (kind == "CPU") return text + 0
            if (text ~ /[gG][bB]?$/) return text * 1024
            if (text ~ /[mM][bB]?$/) return text + 0
            if (text ~ /[kK][bB]?$/) return text / 1024
            return text / 1048576
        }
        { name[NR] = $1; want[NR] = number($3); sum += $2 * number($3) }
        END {
            split(there, have, " "); room = 0.9 * (kind == "CPU" ? have[1] : have[2])
            if (sum <= room) exit
            for (i = 1; i <= NR; i++) {
                fit = want[i] * room / sum
                if (kind == "CPU") { fit = int(fit * 100) / 100; if (fit < 0.01) fit = 0.01; printf "%s=%.2f\n", name[i], fit }
                else { fit = int(fit); if (fit < 6) fit = 6; printf "%s=%dM\n", name[i], fit }
            }
        }'
}

fit_reservations() {
    local there kind plan share line own extra=0
    for share in "${SHARES[@]}"; do
        line=${share%% *}_REPLICAS
        [[ ${!line-} =~ ^[0-9]{0,5}$ ]] || die "$USAGE" "$line: must be a number"
    done
    [[ ${UPDATE_PARALLELISM:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die "$USAGE" "UPDATE_PARALLELISM: must be a number, 1 or higher"
    there=$(capacity)
    # start-first needs room for new replicas beside the old ones. Without it, the update would wait forever.
    [[ ${UPDATE_ORDER:-start-first} != start-first ]] || extra=${UPDATE_PARALLELISM:-1}
    for kind in CPU MEMORY; do
        plan=$(reservations "$kind" "$extra" | plan_reservations "$kind" "$there")
        [[ -n $plan ]] || continue
        own=no
        for share in "${SHARES[@]}"; do
            line=${share%% *}_${kind}_RESERVATION
            [[ -z ${!line-} ]] || own=yes
        done
        if [[ $own == no ]]; then
            note "the swarm has ${there% *} CPUs and ${there#* } MB: lowering the reservations to fit (${plan//$'\n'/, })"
            while IFS= read -r line; do export "${line?}"; done <<<"$plan"
        elif [[ -z ${UPDATE_ORDER-} && -z $(reservations "$kind" 0 | plan_reservations "$kind" "$there") ]]; then
            note "the reservations leave no room for new replicas beside the old ones: updating stop-first, so each new replica waits for an old one to finish its job"
            export UPDATE_ORDER=stop-first
            extra=0
        else
            die "$USAGE" "the swarm has ${there% *} CPUs and ${there#* } MB, but the replicas together reserve more" \
                "lower *_${kind}_RESERVATION or *_REPLICAS in .env"
        fi
    done
}

# --- secrets

# Creates the secret unless one with this content exists, and prints its name. The name ends with a shortened hash
# of the content, salted with the ID of the swarm, so that new content has a new name.
ensure_secret() { # KIND CONTENT
    local name hash
    hash=$(printf '%s:%s' "$(docker info --format '{{.Swarm.Cluster.ID}}')" "$2" | sha256sum)
    name=${STACK}_$1_${hash:0:12}
    if ! docker secret inspect "$name" >/dev/null 2>&1; then
        # On standard input, because every user of the machine can read command lines.
        printf '%s' "$2" | docker secret create --label "workflow-stack.stack=$STACK" "$name" - >/dev/null \
            || die "$FAILED" "cannot create the secret $name"
    fi
    printf '%s' "$name"
}

# Prints the name of the secret with the token of an administrator that an earlier run has made, if there is one.
made_admin_token() {
    local made
    made=$(docker secret ls --filter "label=workflow-stack.stack=$STACK" --filter "name=${STACK}_made_admin_token_" \
        --format '{{.Name}}') || die "$FAILED" "docker secret ls failed"
    printf '%s' "${made%%$'\n'*}"
}

# Sets ADMIN_TOKEN_NAME to the secret with the token of an administrator, if there is one. A token that an earlier run has
# made stays, because nothing can print it again.
admin_token_secret() { # TOKEN
    local made token=$1
    unset ADMIN_TOKEN_NAME
    made=$(made_admin_token) || exit
    if [[ -n $token ]]; then
        ADMIN_TOKEN_NAME=$(ensure_secret admin_token "$token") || exit
    elif [[ -n $made ]]; then
        ADMIN_TOKEN_NAME=$made
        note "the token of the administrator is the one that an earlier run has printed; to replace it, set ADMIN_TOKEN_SECRET"
    elif [[ $WITH_TOKENS == yes ]]; then
        token=$(new_token)
        ADMIN_TOKEN_NAME=$(ensure_secret made_admin_token "$token") || exit
        say "The token of the administrator. This is the only time that it is shown; keep it in a file that only you can read:"
        say "  $token"
    else
        return 0
    fi
    export ADMIN_TOKEN_NAME
    say "$ADMIN_TOKEN_NAME (gateway)"
}

# Removes the secrets that a rotation has replaced. Docker refuses to remove those that are still in use.
remove_old_secrets() {
    local name
    while read -r name; do
        [[ $name == "${CLAUDE_CREDENTIALS_NAME-}" || $name == "${GIT_TOKEN_NAME-}" || $name == "${ADMIN_TOKEN_NAME-}" ]] && continue
        [[ $name == "${GITHUB_APP_KEY_NAME-}" ]] && continue
        [[ $name == "${TLS_CERT_NAME-}" || $name == "${TLS_KEY_NAME-}" ]] && continue
        docker secret rm "$name" >/dev/null 2>&1 && say "removed the old secret $name"
    done < <(docker secret ls --filter "label=workflow-stack.stack=$STACK" --format '{{.Name}}')
    return 0
}

# --- images

image_variable() { local name=${1//-/_}; printf '%s_IMAGE' "${name^^}"; }

build_images() {
    local part target variable name arguments=()
    [[ $BUILD == yes ]] || return 0
    for name in "${OWN_SETTINGS[@]}"; do
        [[ -z ${!name-} ]] || arguments+=(--build-arg "$name=${!name}")
    done
    arguments+=(--build-arg "REVISION=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null || echo unknown)")
    arguments+=(--build-arg "VERSION=$(grep -m 1 '^version = ' "$ROOT/Cargo.toml" | cut -d '"' -f 2)")
    for part in "${PARTS[@]}"; do
        variable=$(image_variable "$part")
        if [[ -n ${!variable-} ]]; then
            say "$part: using ${!variable} ($variable)"
            continue
        fi
        step "building $part"
        target=service
        ! grep -q "^FROM .* AS $part\$" "$ROOT/docker/Dockerfile" || target=$part
        docker build --file "$ROOT/docker/Dockerfile" --target "$target" --tag "workflow-stack/$part" \
            --build-arg "SERVICE=$part" "${arguments[@]}" "$ROOT" || die "$FAILED" "cannot build the image of $part"
    done
}

# Pins each image: sets its variable to an ID or a digest. With a tag, Swarm would ask a registry at every container
# start, and a later build would change what runs without Swarm noticing.
pin_images() {
    local part variable tag id
    for part in "${PARTS[@]}"; do
        variable=$(image_variable "$part")
        tag=${!variable:-workflow-stack/$part}
        id=$(docker image inspect --format '{{.Id}}' "$tag" 2>/dev/null) || {
            # An image that the operator has set may exist only in a registry.
            [[ -n ${!variable-} ]] && continue
            die "$FAILED" "the image $tag does not exist" "build it: run the script once without --no-build"
        }
        if [[ -n $REGISTRY && -z ${!variable-} ]]; then
            id=$(push_image "$part" "$id") || exit
        fi
        export "$variable=$id"
    done
}

push_image() { # PART ID
    local name=$REGISTRY/workflow-stack-$1 digest
    step "pushing $name" >&2
    docker tag "$2" "$name:latest"
    docker push "$name:latest" >&2 || die "$FAILED" "cannot push to $REGISTRY" "log in and try again: docker login ${REGISTRY%%/*}"
    digest=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$2" | grep -F -m 1 "$name@") \
        || die "$FAILED" "the registry did not return a digest for $name"
    printf '%s' "$digest"
}

print_sizes() {
    local part variable size base
    base=$(docker image inspect --format '{{.Size}}' "${RUNTIME_IMAGE:-debian:bookworm-slim}" 2>/dev/null) || base=0
    for part in "${PARTS[@]}"; do
        variable=$(image_variable "$part")
        size=$(docker image inspect --format '{{.Size}}' "${!variable}" 2>/dev/null) || continue
        say "image $part: $((size / 1000000)) MB$( ((base)) && echo ", $(((size - base) / 1000000)) MB of it on top of its base image")"
    done
}

# --- the stack

files() {
    printf '%s\n' --compose-file "$ROOT/swarm.yml"
    [[ -z ${GIT_TOKEN_NAME-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.git-token.yml"
    [[ -z ${GITHUB_APP_KEY_NAME-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.github-app.yml"
    [[ -z ${ADMIN_TOKEN_NAME-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.admin-token.yml"
    [[ -z ${TLS_CERT_NAME-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.tls.yml"
    [[ -z ${NFS_SERVER-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.nfs.yml"
}

deploy_stack() {
    local arguments
    mapfile -t arguments < <(files)
    [[ -z $REGISTRY ]] || arguments+=(--with-registry-auth)
    # Newer clients warn without this option; older ones do not have it.
    if docker stack deploy --help 2>/dev/null | grep -q -- --detach; then arguments+=(--detach=true); fi
    # `never`, because the images are already pinned, and a registry cannot resolve an image ID.
    docker stack deploy "${arguments[@]}" --prune --resolve-image never "$STACK" \
        || die "$FAILED" "docker stack deploy failed"
}

services() { docker stack services "$STACK" --format '{{.Name}} {{.Replicas}}'; }

# Prints the state of one service: "up", "waiting" or "rolled back".
progress_of() { # NAME REPLICAS
    local state running wanted
    state=$(docker service inspect --format '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}' "$1" 2>/dev/null) || state=
    running=${2%%/*} wanted=${2#*/} wanted=${wanted%% *}
    case $state in
        updating | rollback_started) echo waiting ;;
        paused | rollback_paused | rollback_completed) echo "rolled back" ;;
        # While jobs are served, some replica is always starting. Swarm's own verdict is enough then.
        completed) if ((running > 0 || wanted == 0)); then echo up; else echo waiting; fi ;;
        *) if [[ $running == "$wanted" ]]; then echo up; else echo waiting; fi ;;
    esac
}

wait_for_services() {
    local started=$SECONDS calm=0 line last='' name replicas progress all
    while :; do
        all=yes line=
        while read -r name replicas; do
            progress=$(progress_of "$name" "$replicas")
            line+="${name#"${STACK}_"} ${replicas%% *}  "
            [[ $progress != "rolled back" ]] || die "$NOT_CONVERGED" \
                "the new version of $name did not start, and Swarm rolled back to the previous one" \
                "look for the cause: docker service ps --no-trunc $name; docker service logs $name"
            [[ $progress == up ]] || all=no
        done < <(services)
        if [[ -t 1 ]]; then
            printf '\r\033[K%s(%d s)' "$line" "$((SECONDS - started))"
        elif [[ $line != "$last" ]]; then
            say "$line"
        fi
        last=$line
        # Three times in a row, because right after the deployment Swarm may still report the old state.
        if [[ $all == yes && -n $line ]]; then calm=$((calm + 1)); else calm=0; fi
        if ((calm >= 3)); then break; fi
        if ((SECONDS - started > TIMEOUT)); then
            [[ ! -t 1 ]] || echo
            report_failures
            die "$NOT_CONVERGED" "not all services started within $TIMEOUT s" \
                "look for the cause: docker stack ps --no-trunc $STACK; docker service logs ${STACK}_gateway" \
                "if they only need more time, use a longer --timeout"
        fi
        sleep 1
    done
    [[ ! -t 1 ]] || echo
}

# Prints what Swarm reports about tasks that do not run, without duplicates.
report_failures() {
    docker stack ps --no-trunc --format '{{.Name}}: {{.CurrentState}} {{.Error}}' "$STACK" 2>/dev/null \
        | grep -v -E ': (Running|Shutdown|Complete) ' | sed 's/ [a-z0-9 ]* ago / /' | sort -u | head -n 8 >&2 || true
}

# Prints the answer of the gateway to a health check, which it also answers unencrypted.
health() {
    # shellcheck disable=SC2016 # the inner bash expands it
    timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" &&
        printf "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3 && cat <&3' bash "${WORKFLOW_PORT:-5000}"
}

# Succeeds if callers need no token, or if that is likely and the gateway cannot be asked.
is_open() {
    local answer=
    if engine_is_here; then answer=$(health 2>/dev/null) || true; fi
    if [[ $answer == *'"timestamp"'* ]]; then
        [[ $answer == *'"open":true'* ]]
    else
        [[ -z ${ADMIN_TOKEN_NAME-} || ${ALLOW_ANONYMOUS:-0} != 0 ]]
    fi
}

print_next() {
    local base=http://localhost open=no own='' at=''
    # A certificate is for a name that only the operator knows.
    if [[ -n ${TLS_CERT_NAME-} ]]; then
        base=https://YOUR-HOST
        at=" --url $base:${WORKFLOW_PORT:-5000}"
    fi
    [[ $STACK == workflow-stack ]] || own=" --stack $STACK"
    ! is_open || open=yes
    say
    say "workflows:  $base:${WORKFLOW_PORT:-5000}/api/workflow"
    say "pulls:      $base:${PULL_PORT:-4000}/api/pull"
    say "agents:     $base:${CLAUDE_PORT:-3000}/api/execute"
    say
    [[ $open == yes ]] || say "Callers:    stackctl token create --url $base:${WORKFLOW_PORT:-5000} --token-file admin.token --name ci > ci.token"
    [[ $open == yes || -n ${ADMIN_TOKEN_NAME-} ]] || say "            (if nobody has the token of an administrator: $(with_tokens))"
    say "Try it:     curl -N $base:${WORKFLOW_PORT:-5000}/api/workflow -H 'Content-Type: application/json' \\"
    [[ $open == yes ]] || say "              -H \"Authorization: Bearer \$(cat ci.token)\" \\"
    say "              -d '{\"prompt\": \"Add a README file\", \"repoUrl\": \"https://github.com/user/repo.git\"}'"
    say "Watch it:   stackctl ps --watch$own$at      or: docker stack services $STACK"
    say "Logs:       stackctl logs --follow$own   or: docker service logs -f ${STACK}_workflow-api"
    say "Scale it:   stackctl scale workflow=10$own"
    say "            (permanently: set WORKFLOW_REPLICAS=10 in .env and run this script again)"
    say "Remove it:  ./deploy-swarm.sh --down$own"
    [[ $open == no ]] || print_open "$base"
}

# Prints the command that deploys the same again with a token of an administrator.
with_tokens() {
    local own=
    [[ $STACK == workflow-stack || " $GIVEN " == *' --stack '* ]] || own=" --stack $STACK"
    printf './deploy-swarm.sh%s%s --no-build --with-tokens' "$GIVEN" "$own"
}

print_open() { # BASE
    say
    say "WARNING: THIS STACK IS OPEN. Anybody who can reach $1:${WORKFLOW_PORT:-5000}, or one of its other ports, can run jobs"
    say "with your credentials, and can read and cancel the jobs of others."
    if [[ ${ALLOW_ANONYMOUS:-0} != 0 ]]; then
        say "To let in only callers with a token, remove ALLOW_ANONYMOUS and run this script again."
    else
        say "To let in only callers with a token, run: $(with_tokens)"
    fi
}

deploy() {
    local credentials token app admin certificate key
    # Check all settings first. Nothing may change while one of them is wrong.
    load_settings
    derive_grace
    credentials=$(claude_credentials) || exit
    token=$(git_token) || exit
    app=$(github_app_key) || exit
    admin=$(admin_token) || exit
    certificate=$(tls_file TLS_CERT CERTIFICATE) || exit
    key=$(tls_file TLS_KEY 'PRIVATE KEY') || exit
    check_docker
    check_swarm
    check_nodes
    choose_publishing
    fit_reservations
    build_images
    pin_images
    print_sizes
    step "secrets"
    CLAUDE_CREDENTIALS_NAME=$(ensure_secret claude_credentials "$credentials") || exit
    export CLAUDE_CREDENTIALS_NAME
    say "$CLAUDE_CREDENTIALS_NAME (claude-code-api)"
    unset GIT_TOKEN_NAME
    if [[ -n $token ]]; then
        GIT_TOKEN_NAME=$(ensure_secret git_token "$token") || exit
        export GIT_TOKEN_NAME
        say "$GIT_TOKEN_NAME (github-pull-api)"
    fi
    unset GITHUB_APP_KEY_NAME
    if [[ -n $app ]]; then
        GITHUB_APP_KEY_NAME=$(ensure_secret github_app_key "$app") || exit
        export GITHUB_APP_KEY_NAME
        say "$GITHUB_APP_KEY_NAME (github-pull-api)"
    fi
    admin_token_secret "$admin"
    unset TLS_CERT_NAME TLS_KEY_NAME
    if [[ -n $certificate ]]; then
        TLS_CERT_NAME=$(ensure_secret tls_cert "$certificate") || exit
        TLS_KEY_NAME=$(ensure_secret tls_key "$key") || exit
        export TLS_CERT_NAME TLS_KEY_NAME
        say "$TLS_CERT_NAME, $TLS_KEY_NAME (gateway)"
    fi
    step "docker stack deploy $STACK"
    deploy_stack
    step "waiting for the services"
    wait_for_services
    remove_old_secrets
    print_next
}

# Prints how many tasks of some services still run, on all nodes. It uses no `--filter desired-state`: a task that is
# being stopped counts as neither "running" nor "shutdown" there.
tasks_left() { # SERVICE...
    local name
    for name in "$@"; do
        docker service ps --format '{{.CurrentState}}' "$name" 2>/dev/null || true
    done | grep -c -E '^(Running|Starting|Preparing|Ready|New|Pending|Assigned|Accepted)' || true
}

drain() { # SERVICE...
    local name left last=''
    for name in "$@"; do
        docker service scale --detach "$name=0" >/dev/null 2>&1 || true
    done
    while left=$(tasks_left "$@"); ((left > 0)); do
        [[ $left == "$last" ]] || say "waiting for $left replicas of ${*#"${STACK}_"} to finish their jobs (to end the jobs: Ctrl-C, then --down --now)"
        last=$left
        sleep 1
    done
}

down() {
    local left token=''
    check_docker
    [[ $(docker info --format '{{.Swarm.ControlAvailable}}') == true ]] \
        || die "$NOT_READY" "this node is not a manager of a swarm, so it has no stack to remove" "run this script on a manager"
    if [[ -z $(services 2>/dev/null) ]]; then
        say "the stack $STACK does not exist, so there is nothing to remove"
        return
    fi
    if [[ $DRAIN == yes ]]; then
        # Workflows first: they need the other services and the gateway until they are done.
        step "waiting for running workflows"
        drain "${STACK}_workflow-api"
        step "waiting for running pulls and agents"
        drain "${STACK}_github-pull-api" "${STACK}_claude-code-api"
    fi
    step "docker stack rm $STACK"
    docker stack rm "$STACK" || die "$FAILED" "docker stack rm failed"
    # The network disappears after the last container. Until then, the same stack name cannot be deployed again.
    while left=$(docker network ls --quiet --filter "label=com.docker.stack.namespace=$STACK"); [[ -n $left ]]; do
        sleep 1
        docker network rm "${STACK}_stack" >/dev/null 2>&1 || true
    done
    # Without it, a later deployment would lock its operator out: the volume remembers that the stack was closed.
    ADMIN_TOKEN_NAME=$(made_admin_token) || exit
    remove_old_secrets
    if [[ -n $ADMIN_TOKEN_NAME ]]; then
        say "The secret $ADMIN_TOKEN_NAME still exists: the token of the administrator is valid again after the next deployment."
        token=" && docker secret rm $ADMIN_TOKEN_NAME"
    fi
    say "Removed. The volume ${STACK}_workspace still exists; to delete all jobs and checkouts, run: docker volume rm ${STACK}_workspace$token"
}

main() {
    local argument
    for argument in "$@"; do
        [[ $argument == --no-build || $argument == --with-tokens ]] || GIVEN+=" $(printf '%q' "$argument")"
    done
    parse_options "$@"
    "$ACTION"
}

# When sourced, the script only defines its functions.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
    # Exit here, so that bash does not read further in a file that may have changed meanwhile.
    exit
fi
