#!/usr/bin/env bash
# Deploys the stack to Docker Swarm: ./deploy-swarm.sh --help
set -euo pipefail

if ((BASH_VERSINFO[0] < 4)); then
    echo "deploy-swarm.sh: this bash is too old ($BASH_VERSION): it needs 4 or newer (macOS: brew install bash)" >&2
    exit 3
fi

readonly OK=0 FAILED=1 USAGE=2 LACKING=3 NOT_CONVERGED=4
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly ROOT
# The parts of the stack are the services of swarm.yml: GITHUB_PULL_API_IMAGE is the image of github-pull-api.
mapfile -t PARTS < <(sed -n 's/^    image: ${\([A-Z_]*\)_IMAGE:.*/\1/p' "$ROOT/swarm.yml" | tr 'A-Z_' 'a-z-')
readonly PARTS

STACK=${STACK_NAME:-workflow-stack}
ENV_FILE=
BUILD=yes
REGISTRY=
ACTION=deploy
DRAIN=yes
LOCAL_VOLUME_ANYWAY=no
ADVERTISE=
TIMEOUT=300
declare -A FROM_FILE=()

usage() {
    cat <<'END'
Deploys the stack to Docker Swarm, or brings what is deployed up to date. Running it again changes only what has changed.

Usage: ./deploy-swarm.sh [OPTIONS]

  --env-file FILE        settings and credentials (default: .env here, else ../.env, else the environment alone)
  --no-build             deploy the images that are there
  --registry HOST/PATH   push the images there and deploy those: what several nodes need
  --stack NAME           the stack's name (default: STACK_NAME, else workflow-stack)
  --advertise-addr ADDR  the address of this node, if a swarm has to be made and the machine has several
  --allow-local-volume   deploy to several nodes although the volume is on one of them
  --timeout SECONDS      how long to wait for the services (default: 300)
  --down                 take the stack away: running jobs end first, the volume stays
  --now                  with --down: do not wait for running jobs
  -h, --help             this

Credentials, in .env or the environment, the first of: CLAUDE_CODE_CREDENTIALS_SECRET (a file with
{"apiKey": "sk-ant-..."} or {"claudeAiOauth": {...}}), CLAUDE_CODE_CREDENTIALS_JSON (the same JSON), ANTHROPIC_API_KEY,
CLAUDE_CODE_OAUTH_TOKEN; for private repositories GITHUB_TOKEN_SECRET (a file) or GITHUB_TOKEN. They become Docker
secrets. Every other setting is a ${NAME} of swarm.yml, such as WORKFLOW_REPLICAS, CLAUDE_MEMORY_LIMIT, WORKFLOW_PORT.

Exit codes: 0 done, 1 a step failed, 2 wrong options or settings, 3 this machine lacks something, 4 not all services
came up in time.

Example:
  echo 'ANTHROPIC_API_KEY=sk-ant-...' > .env && chmod 600 .env
  ./deploy-swarm.sh
END
}

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
note() { printf 'note: %s\n' "$*"; }

# die CODE LINE...: what is wrong, then what to do about it.
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
            --allow-local-volume) LOCAL_VOLUME_ANYWAY=yes ;;
            --down) ACTION=down ;;
            --now) DRAIN=no ;;
            *) die "$USAGE" "no such option: $1; see --help" ;;
        esac
        shift
    done
    [[ $STACK =~ ^[a-z0-9][a-z0-9_-]{0,40}$ ]] || die "$USAGE" "--stack: use small letters, digits, - and _"
    [[ $TIMEOUT =~ ^[1-9][0-9]{0,5}$ ]] || die "$USAGE" "--timeout: give a number of seconds"
    [[ -z $REGISTRY || $REGISTRY =~ ^[A-Za-z0-9._:/-]+$ ]] || die "$USAGE" "--registry: give HOST or HOST/PATH"
    REGISTRY=${REGISTRY%/}
    if [[ $DRAIN == no && $ACTION != down ]]; then die "$USAGE" "--now goes with --down"; fi
}

readonly CREDENTIALS=(CLAUDE_CODE_CREDENTIALS_SECRET CLAUDE_CODE_CREDENTIALS_JSON ANTHROPIC_API_KEY
    CLAUDE_CODE_OAUTH_TOKEN GITHUB_TOKEN_SECRET GITHUB_TOKEN)
readonly OWN_SETTINGS=(BUILD_IMAGE NODE_IMAGE RUNTIME_IMAGE)

# Every setting that means something: what the stack's files ask for, and what this script does.
known_settings() {
    # shellcheck disable=SC2016 # the dollar is the files' own
    grep -hoE '\$\{[A-Z_]+' "$ROOT/swarm.yml" "$ROOT"/docker/swarm.*.yml | tr -d '${' | sort -u
    printf '%s\n' "${CREDENTIALS[@]}" "${OWN_SETTINGS[@]}"
}

# Reads NAME=value lines. The file is data: nothing in it is executed, expanded or printed.
read_env_file() { # FILE
    local file=$1 line name value number=0 known
    known=$(known_settings)
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        line=${line%$'\r'}
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        if ! [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]]; then
            die "$USAGE" "$file, line $number: not a setting; write NAME=value"
        fi
        name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
        value=${value%"${value##*[![:space:]]}"}
        if [[ $value == \"*\" || $value == \'*\' ]] && ((${#value} > 1)); then
            value=${value:1:${#value}-2}
        elif [[ $value == [\"\']* ]]; then
            die "$USAGE" "$file, line $number: $name begins with a quote that does not end its line; comments have lines of their own"
        elif [[ $value =~ ^(|.*[^[:space:]])[[:space:]]+#.*$ ]]; then
            value=${BASH_REMATCH[1]}
        fi
        if ! grep -qx -- "$name" <<<"$known"; then
            note "$file, line $number: $name is no setting of the stack, and is left alone"
            continue
        fi
        FROM_FILE[$name]=$value
    done <"$file"
}

# The value of a setting: the environment goes before the file.
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
            note "others can read $ENV_FILE: chmod 600 it"
        fi
    fi
    # Credentials stay in this shell: no program it starts finds them in its environment.
    for name in "${CREDENTIALS[@]}"; do
        FROM_FILE[$name]=$(setting "$name")
        unset "$name"
    done
    while read -r name; do
        [[ -n ${FROM_FILE[$name]-} && -z ${!name-} ]] || continue
        [[ " ${CREDENTIALS[*]} " == *" $name "* ]] || export "$name=${FROM_FILE[$name]}"
    done < <(known_settings)
}

# A longer job needs a longer grace, in both places.
derive_grace() {
    [[ -n ${JOB_TIMEOUT_SECONDS-} ]] || return 0
    [[ $JOB_TIMEOUT_SECONDS =~ ^[1-9][0-9]{0,7}$ ]] || die "$USAGE" "JOB_TIMEOUT_SECONDS: give a number of seconds"
    export GRACE_SECONDS=${GRACE_SECONDS:-$((JOB_TIMEOUT_SECONDS + 60))}
    export STOP_GRACE_PERIOD=${STOP_GRACE_PERIOD:-$((JOB_TIMEOUT_SECONDS + 100))s}
}

# The content of the file that one setting names.
secret_file() { # NAME
    local path=${FROM_FILE[$1]}
    [[ -r $path && -s $path ]] || die "$USAGE" "$1: cannot read $path, or it is empty"
    cat -- "$path"
}

# A bare key as the JSON the service takes; nothing in it may need escaping.
key_json() { # NAME BEFORE AFTER
    local key=${FROM_FILE[$1]}
    [[ $key =~ ^[A-Za-z0-9._~+/=-]+$ ]] || die "$USAGE" "$1: that is no key; it has characters that keys do not have"
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
        die "$USAGE" "there is no credential for the agent" \
            "put ANTHROPIC_API_KEY=sk-ant-... or CLAUDE_CODE_OAUTH_TOKEN=... (from: claude setup-token) into $ROOT/.env"
    fi
    if ! [[ $text =~ ^[[:space:]]*\{.*\"(apiKey|claudeAiOauth)\"[[:space:]]*: ]]; then
        die "$USAGE" 'the credential must be {"apiKey": "..."} or {"claudeAiOauth": {"accessToken": "..."}}'
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

# --- the machine

check_docker() {
    command -v sha256sum >/dev/null || die "$LACKING" "there is no sha256sum here" "install it: coreutils (macOS: brew install coreutils)"
    command -v docker >/dev/null || die "$LACKING" "there is no docker here" \
        "install the engine: https://docs.docker.com/engine/install (Debian, Ubuntu: sudo apt-get install docker.io)"
    local why
    why=$(docker version --format '{{.Server.Version}}' 2>&1) || die "$LACKING" "the Docker engine does not answer: ${why##*$'\n'}" \
        "start it (sudo systemctl start docker), or join its group (sudo usermod -aG docker \$USER, then log in again)"
}

check_swarm() {
    local state why
    state=$(docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}')
    case $state in
        'active true') ;;
        'active false') die "$LACKING" "this node is a worker of its swarm" \
            "run this on a manager, or make it one there: docker node promote $(docker info --format '{{.Name}}')" ;;
        'inactive '*)
            step "there is no swarm yet: docker swarm init"
            why=$(docker swarm init ${ADVERTISE:+--advertise-addr "$ADVERTISE"} 2>&1 >/dev/null) \
                || die "$LACKING" "docker swarm init failed: $why" "give the address other nodes would use: --advertise-addr ADDR" ;;
        *) die "$LACKING" "the swarm is not usable (${state% *})" "see: docker info; docker swarm leave --force forgets it" ;;
    esac
}

# Whether this machine is the engine's, so that its kernel can be looked at.
engine_is_here() {
    [[ $(uname -s) == Linux && ${DOCKER_HOST:-unix://} == unix://* ]]
}

has_ipvs() {
    local release
    [[ -e /proc/net/ip_vs ]] && return 0
    release=/lib/modules/$(uname -r)
    modprobe -nq ip_vs 2>/dev/null || grep -qs '/ip_vs\.ko' "$release/modules.builtin" "$release/modules.dep"
}

choose_publishing() {
    [[ -z ${PUBLISH_MODE-} ]] && engine_is_here && ! has_ipvs && {
        note "this kernel has no IPVS, so no ingress mesh: the gateway's ports are published on its own node alone"
        export PUBLISH_MODE=host
    }
    case ${PUBLISH_MODE:=ingress} in
        host) export GATEWAY_ENDPOINT_MODE=dnsrr ;;
        ingress) export GATEWAY_ENDPOINT_MODE=vip ;;
        *) die "$USAGE" "PUBLISH_MODE: host or ingress, not $PUBLISH_MODE" ;;
    esac
    export PUBLISH_MODE
}

nodes() { docker node ls --quiet; }

check_nodes() {
    local count
    count=$(nodes | wc -l)
    ((count > 1)) || return 0
    if [[ -z ${NFS_SERVER-} && $LOCAL_VOLUME_ANYWAY == no ]]; then
        die "$USAGE" "the swarm has $count nodes, but the volume is local: each node would have one of its own, and jobs would be lost" \
            "set NFS_SERVER and NFS_PATH, or keep all on one node (PLACEMENT and GATEWAY_PLACEMENT=node.hostname==...) and say --allow-local-volume"
    fi
    if [[ -z $REGISTRY && $LOCAL_VOLUME_ANYWAY == no ]]; then
        die "$USAGE" "the swarm has $count nodes, and only this one has the images" "push them: --registry HOST/PATH"
    fi
}

# What Swarm sets aside for replicas must be there, or it does not start them. Nobody's own numbers are
# changed; the defaults are made to fit.
readonly SHARES=(
    'GATEWAY 1 0.1 64M' 'WORKFLOW 5 0.25 256M' 'PULL 3 0.25 256M' 'CLAUDE 3 0.5 512M')

# What all nodes have that take tasks: CPUs and megabytes.
capacity() {
    nodes | xargs docker node inspect --format \
        '{{.Status.State}} {{.Spec.Availability}} {{.Description.Resources.NanoCPUs}} {{.Description.Resources.MemoryBytes}}' \
        | awk '$1 == "ready" && $2 == "active" {cpu += $3 / 1e9; memory += $4 / 1048576} END {printf "%.2f %d", cpu, memory}'
}

# One line for each service: the setting's name, how many replicas there may be at once, what each reserves.
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

# Smaller reservations, if those read do not fit into nine tenths of what is there; the rest is the machine's.
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
        [[ ${!line-} =~ ^[0-9]{0,5}$ ]] || die "$USAGE" "$line: give a number"
    done
    [[ ${UPDATE_PARALLELISM:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die "$USAGE" "UPDATE_PARALLELISM: give a number from 1"
    there=$(capacity)
    # start-first needs room for new replicas beside the old ones, or the update waits for ever.
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
            note "the swarm has ${there% *} CPUs and ${there#* } MB: replicas reserve less than usual (${plan//$'\n'/, })"
            while IFS= read -r line; do export "${line?}"; done <<<"$plan"
        elif [[ -z ${UPDATE_ORDER-} && -z $(reservations "$kind" 0 | plan_reservations "$kind" "$there") ]]; then
            note "the reservations leave no room for new replicas beside old ones: updates go stop-first, one job's end after another"
            export UPDATE_ORDER=stop-first
            extra=0
        else
            die "$USAGE" "the swarm has ${there% *} CPUs and ${there#* } MB, less than all replicas together reserve" \
                "lower *_${kind}_RESERVATION or *_REPLICAS in .env"
        fi
    done
}

# --- secrets

# Makes the secret if there is none of this content, and prints its name. The name tells contents apart, by
# a hash that is salted with the swarm's own id and cut short.
ensure_secret() { # KIND CONTENT
    local name hash
    hash=$(printf '%s:%s' "$(docker info --format '{{.Swarm.Cluster.ID}}')" "$2" | sha256sum)
    name=${STACK}_$1_${hash:0:12}
    if ! docker secret inspect "$name" >/dev/null 2>&1; then
        # By standard input: a command line can be read by every user of the machine.
        printf '%s' "$2" | docker secret create --label "workflow-stack.stack=$STACK" "$name" - >/dev/null \
            || die "$FAILED" "cannot make the secret $name"
    fi
    printf '%s' "$name"
}

# Removes what rotation has left; Docker keeps those that are in use.
remove_old_secrets() {
    local name
    while read -r name; do
        [[ $name == "${CLAUDE_CREDENTIALS_NAME-}" || $name == "${GIT_TOKEN_NAME-}" ]] && continue
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
            say "$part: as $variable says, ${!variable}"
            continue
        fi
        step "building $part"
        target=service
        ! grep -q "^FROM .* AS $part\$" "$ROOT/docker/Dockerfile" || target=$part
        docker build --file "$ROOT/docker/Dockerfile" --target "$target" --tag "workflow-stack/$part" \
            --build-arg "SERVICE=$part" "${arguments[@]}" "$ROOT" || die "$FAILED" "the image of $part cannot be built"
    done
}

# Sets the variable of each image to what pins its bytes: with a mere tag, every start of a container would
# first ask a registry, and a later build would change what runs behind Swarm's back.
pin_images() {
    local part variable tag id
    for part in "${PARTS[@]}"; do
        variable=$(image_variable "$part")
        tag=${!variable:-workflow-stack/$part}
        id=$(docker image inspect --format '{{.Id}}' "$tag" 2>/dev/null) || {
            # One of the operator's own may be in a registry only.
            [[ -n ${!variable-} ]] && continue
            die "$FAILED" "there is no image $tag" "leave --no-build out once"
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
    docker push "$name:latest" >&2 || die "$FAILED" "cannot push to $REGISTRY" "log in first: docker login ${REGISTRY%%/*}"
    digest=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$2" | grep -F -m 1 "$name@") \
        || die "$FAILED" "the registry gave no digest for $name"
    printf '%s' "$digest"
}

print_sizes() {
    local part variable size base
    base=$(docker image inspect --format '{{.Size}}' "${RUNTIME_IMAGE:-debian:bookworm-slim}" 2>/dev/null) || base=0
    for part in "${PARTS[@]}"; do
        variable=$(image_variable "$part")
        size=$(docker image inspect --format '{{.Size}}' "${!variable}" 2>/dev/null) || continue
        say "image $part: $((size / 1000000)) MB$( ((base)) && echo ", $(((size - base) / 1000000)) MB of it above its base")"
    done
}

# --- the stack

files() {
    printf '%s\n' --compose-file "$ROOT/swarm.yml"
    [[ -z ${GIT_TOKEN_NAME-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.git-token.yml"
    [[ -z ${NFS_SERVER-} ]] || printf '%s\n' --compose-file "$ROOT/docker/swarm.nfs.yml"
}

deploy_stack() {
    local arguments
    mapfile -t arguments < <(files)
    [[ -z $REGISTRY ]] || arguments+=(--with-registry-auth)
    # Newer clients ask for it to be said; older ones do not know it.
    if docker stack deploy --help 2>/dev/null | grep -q -- --detach; then arguments+=(--detach=true); fi
    # never: the images are pinned already, and no registry knows an image ID.
    docker stack deploy "${arguments[@]}" --prune --resolve-image never "$STACK" \
        || die "$FAILED" "docker stack deploy failed"
}

services() { docker stack services "$STACK" --format '{{.Name}} {{.Replicas}}'; }

# How far one service is: "up", "waits" or "rolled back".
progress_of() { # NAME REPLICAS
    local state running wanted
    state=$(docker service inspect --format '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}' "$1" 2>/dev/null) || state=
    running=${2%%/*} wanted=${2#*/} wanted=${wanted%% *}
    case $state in
        updating | rollback_started) echo waits ;;
        paused | rollback_paused | rollback_completed) echo "rolled back" ;;
        # While jobs are served, some replica is always just starting; Swarm's own word is enough then.
        completed) if ((running > 0 || wanted == 0)); then echo up; else echo waits; fi ;;
        *) if [[ $running == "$wanted" ]]; then echo up; else echo waits; fi ;;
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
                "$name did not come up as it was meant to, and Swarm went back to what was there before" \
                "see: docker service ps --no-trunc $name; docker service logs $name"
            [[ $progress == up ]] || all=no
        done < <(services)
        if [[ -t 1 ]]; then
            printf '\r\033[K%s(%d s)' "$line" "$((SECONDS - started))"
        elif [[ $line != "$last" ]]; then
            say "$line"
        fi
        last=$line
        # For three looks in a row: right after the deployment the old state may still show.
        if [[ $all == yes && -n $line ]]; then calm=$((calm + 1)); else calm=0; fi
        if ((calm >= 3)); then break; fi
        if ((SECONDS - started > TIMEOUT)); then
            [[ ! -t 1 ]] || echo
            report_failures
            die "$NOT_CONVERGED" "not all services came up within $TIMEOUT s" \
                "look further: docker stack ps --no-trunc $STACK; docker service logs ${STACK}_gateway; --timeout gives it longer"
        fi
        sleep 1
    done
    [[ ! -t 1 ]] || echo
}

# What Swarm says of tasks that do not run, once each.
report_failures() {
    docker stack ps --no-trunc --format '{{.Name}}: {{.CurrentState}} {{.Error}}' "$STACK" 2>/dev/null \
        | grep -v -E ': (Running|Shutdown|Complete) ' | sed 's/ [a-z0-9 ]* ago / /' | sort -u | head -n 8 >&2 || true
}

print_next() {
    local host=localhost
    say
    say "workflows:  http://$host:${WORKFLOW_PORT:-5000}/api/workflow"
    say "pulls:      http://$host:${PULL_PORT:-4000}/api/pull"
    say "agents:     http://$host:${CLAUDE_PORT:-3000}/api/execute"
    say
    say "Try it:     curl -N http://$host:${WORKFLOW_PORT:-5000}/api/workflow -H 'Content-Type: application/json' \\"
    say "              -d '{\"prompt\": \"Add a README file\", \"repoUrl\": \"https://github.com/user/repo.git\"}'"
    say "Watch it:   stackctl ps --watch      or: docker stack services $STACK"
    say "Logs:       stackctl logs --follow   or: docker service logs -f ${STACK}_workflow-api"
    say "Scale it:   stackctl scale workflow=10"
    say "            (for good: WORKFLOW_REPLICAS=10 in .env, and this script again)"
    say "Remove it:  ./deploy-swarm.sh --down$([[ $STACK == workflow-stack ]] || echo " --stack $STACK")"
}

deploy() {
    local credentials token
    # Everything that can be wrong with settings first: nothing is changed before they are right.
    load_settings
    derive_grace
    credentials=$(claude_credentials) || exit
    token=$(git_token) || exit
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
    step "docker stack deploy $STACK"
    deploy_stack
    step "waiting for the services"
    wait_for_services
    remove_old_secrets
    print_next
}

# How many tasks of some services still run, on all nodes. Without a filter: one that is to go, but has not
# gone yet, is neither "running" nor "shutdown" to `--filter desired-state`.
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
        [[ $left == "$last" ]] || say "waiting for $left replicas of ${*#"${STACK}_"} to finish (Ctrl-C, then --down --now, ends their jobs)"
        last=$left
        sleep 1
    done
}

down() {
    local left
    check_docker
    [[ $(docker info --format '{{.Swarm.ControlAvailable}}') == true ]] \
        || die "$LACKING" "this node is no manager of a swarm, so there is no stack to take away"
    if [[ -z $(services 2>/dev/null) ]]; then
        say "there is no stack $STACK"
        return
    fi
    if [[ $DRAIN == yes ]]; then
        # Workflows first: they need the other two, and the gateway, until they are done.
        step "running workflows end"
        drain "${STACK}_workflow-api"
        step "running pulls and agents end"
        drain "${STACK}_github-pull-api" "${STACK}_claude-code-api"
    fi
    step "docker stack rm $STACK"
    docker stack rm "$STACK" || die "$FAILED" "docker stack rm failed"
    # Its network goes when its last container has gone; until then the same name cannot be deployed again.
    while left=$(docker network ls --quiet --filter "label=com.docker.stack.namespace=$STACK"); [[ -n $left ]]; do
        sleep 1
        docker network rm "${STACK}_stack" >/dev/null 2>&1 || true
    done
    remove_old_secrets
    say "gone. The volume ${STACK}_workspace is still there: docker volume rm ${STACK}_workspace removes all jobs and checkouts"
}

main() {
    parse_options "$@"
    "$ACTION"
}

# Sourced, it only defines its functions.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
    # Here, so that nothing is read any more from a file that may have changed meanwhile.
    exit
fi
