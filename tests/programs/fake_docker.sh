#!/bin/bash
# A `docker` that isn't one: a container is a process of its own session that outlives its client.
#
#   fake_docker.sh run [--name NAME] [OPTIONS] IMAGE COMMAND...    OPTIONS without values
#   fake_docker.sh rm --force NAME
#
# Containers are remembered in the folder $FAKE_DOCKER, one file each with the process's number.

case $1 in
run)
    shift
    name=nameless
    # A container doesn't have its client's environment, but for what is passed on.
    without=(-u LLM_ROUTER_INSTANCE)
    while [[ $1 == -* ]]; do
        case $1 in
        --name) name=$2 && shift ;;
        --env=LLM_ROUTER_INSTANCE) without=() ;;
        --publish=*) without=(-u LLM_ROUTER_INSTANCE) ;; # then who listens is a proxy of the daemon's
        esac
        shift
    done
    if [ -e "$FAKE_DOCKER/$name" ]; then
        echo "docker: Error response from daemon: Conflict. The container name \"/$name\" is already in use." >&2
        exit 125
    fi
    shift
    env "${without[@]}" setsid "$@" &
    child=$!
    echo "$child" >"$FAKE_DOCKER/$name"
    trap 'kill -TERM "$child"' TERM
    until wait "$child"; do
        kill -0 "$child" 2>/dev/null || break
    done
    ;;
rm)
    name=${*: -1}
    if [ ! -e "$FAKE_DOCKER/$name" ]; then
        echo "Error response from daemon: No such container: $name" >&2
        exit 1
    fi
    child=$(cat "$FAKE_DOCKER/$name")
    kill -KILL "$child" 2>/dev/null && tail --pid="$child" -s 0.01 -f /dev/null
    rm "$FAKE_DOCKER/$name"
    ;;
esac
