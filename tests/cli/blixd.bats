#!/usr/bin/env bats
# blixd from the outside: what it says and how it ends when it cannot start, and what it refuses.

bats_require_minimum_version 1.5.0

setup() {
	BLIX_BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	PATH=$BLIX_BUILD/bin:$PATH
	DIR=$(mktemp -d)
	blixd_pid=''
}

teardown() {
	local pid
	for pid in $blixd_pid; do
		kill "$pid" 2>/dev/null || :
		wait "$pid" || :
	done
	for pid in $(jq -r '.shimPid, .pid' "$DIR"/*/r/vms/*/status.json 2>/dev/null); do
		kill -9 "$pid" 2>/dev/null || :
	done
	rm -rf "$DIR"
}

await() { # COMMAND...: until it succeeds
	local until=$((SECONDS + 30))
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$until" ]; then
			echo "never true: $*" >&2
			return 1
		fi
		read -r -t 0.05 <> <(:) || :
	done
}

@test "a configuration that cannot be read is a bad configuration: 78" {
	run --separate-stderr blixd --config "$DIR/none.json" --check
	[ "$status" = 78 ]
	[[ $stderr == *"$DIR/none.json: No such file or directory"* ]]
	run --separate-stderr blixd --config "$DIR" --check
	[ "$status" = 78 ]
	[[ $stderr == *"$DIR: Is a directory"* ]]
	: >"$DIR/empty.json"
	run --separate-stderr blixd --config "$DIR/empty.json" --check
	[ "$status" = 78 ]
	[ "$stderr" = "blixd: $DIR/empty.json: JSON is empty" ]
}

@test "an unknown key is named, with its file: 78" {
	echo '{"stateDirr":"/x"}' >"$DIR/blix.json"
	run --separate-stderr blixd --config "$DIR/blix.json" --check
	[ "$status" = 78 ]
	[[ ${stderr_lines[0]} == "blixd: $DIR/blix.json: unknown key 'stateDirr'" ]]
}

@test "a second blixd on a state directory is refused: 75; a relative one is the same directory" {
	cd "$DIR"
	blixd --dev --state-dir s </dev/null >log 2>&1 3>&- &
	blixd_pid=$!
	await test -S "$DIR/s/blix.sock"
	run --separate-stderr blixd --dev --state-dir "$DIR/s"
	[ "$status" = 75 ]
	[[ $stderr == *"hint: another blixd uses this state directory" ]]
	kill "$blixd_pid"
	wait "$blixd_pid" # with 0: nothing leaks, in a build that looks for it
	blixd_pid=''
	run ! test -e "$DIR/s/blix.sock"
}

@test "blixd ends cleanly while its probe of KVM will not end" {
	mkdir "$DIR/tools"
	cat >"$DIR/tools/qemu-system-x86_64" <<-SH
		#!/bin/bash
		trap : TERM
		echo \$\$ >$DIR/probe
		while [ -d $DIR ]; do read -r -t 0.05 <> <(:) || :; done
	SH
	chmod +x "$DIR/tools/qemu-system-x86_64"
	jq -n --arg dir "$DIR" '{path: "\($dir)/tools:/usr/bin:/bin"}' >"$DIR/blix.json"
	blixd --dev --state-dir "$DIR/s" --config "$DIR/blix.json" </dev/null 2>"$DIR/log" 3>&- &
	blixd_pid=$!
	await test -s "$DIR/probe"
	await test -S "$DIR/s/blix.sock"
	kill "$blixd_pid"
	wait "$blixd_pid"
	blixd_pid=''
	run ! kill -0 "$(cat "$DIR/probe")"
}

@test "usage errors are 64" {
	run --separate-stderr blixd --dev
	[ "$status" = 64 ]
	run --separate-stderr blixd --state-dir "$DIR/s"
	[ "$status" = 64 ]
	run --separate-stderr blixd --bogus
	[ "$status" = 64 ]
	run --separate-stderr blixd word
	[ "$status" = 64 ]
}

# A daemon whose PATH is $DIR/tools, and the fake microvm there.
serve() { # MICROVM
	local fake=$BLIX_BUILD/tests/fake
	mkdir -p "$DIR/tools"
	ln -s /bin/false "$DIR/tools/qemu-system-x86_64"
	jq -n --arg dir "$DIR" --arg microvm "$1" '{path: "\($dir)/tools", microvm: $microvm,
		gcrootsDir: "\($dir)/gcroots", retryMs: 10}' >"$DIR/blix.json"
	cp -r "$fake/microvm" "$fake/runner" "$fake/store" "$DIR/"
	blixd --dev --name host --state-dir "$DIR/s" --config "$DIR/blix.json" </dev/null 2>"$DIR/log" 3>&- &
	blixd_pid=$!
	export BLIX_ENDPOINT=$DIR/s/blix.sock BLIX_TIMEOUT=30s
	await blix node show host
}

base='path:/nix/store/x?narHash=sha256-x'

@test "a node without nix, or without microvm, says what to install: 8" {
	serve "$DIR/none/microvm"
	run --separate-stderr blix vm create web --flake "$base"
	[ "$status" = 8 ]
	[[ $stderr == *"blix: vm web: nix: not found in PATH ($DIR/tools)"*'hint: install it on the node'* ]]
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	run --separate-stderr blix vm start web
	[ "$status" = 8 ]
	[[ $stderr == *"$DIR/none/microvm: No such file or directory"*'hint: install it on the node'* ]]
	[ "$(blix vm show web -o json | jq -r '.status.reason')" = program-missing ]
}

@test "an old Nix and a flake with inputs: one message with the way out, and nothing is built" {
	local flake
	serve "$DIR/microvm"
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	for flake in github:me/inputs#demo 'path:/nix/store/inputs?narHash=sha256-x'; do
		run --separate-stderr blix vm create web --flake "$flake"
		[ "$status" = 8 ]
		[[ $stderr == *'the flake has inputs, and those need Nix 2.18 or newer (this node has 2.8)'* ]]
		[ "$(grep -c hint: <<<"$stderr")" = 1 ]
		[[ $stderr == *'hint: install a newer Nix on the node, or use a flake without inputs'* ]]
		[ ! -e "$DIR/s/microvms/web" ]
		blix vm delete web
	done
}

@test "each refusal names its VM once" {
	serve "$DIR/microvm"
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	blix vm create web --flake "$base" --stopped
	run --separate-stderr blix vm create web --flake "$base"
	[ "$status" = 4 ]
	[ "${stderr_lines[0]}" = 'blix: vm web: a VM of this name exists' ]
	run --separate-stderr blix vm stop gone
	[ "$status" = 3 ]
	[ "${stderr_lines[0]}" = 'blix: vm gone: no such VM' ]
	run --separate-stderr blix vm show gone
	[ "$status" = 3 ]
	[ "${stderr_lines[0]}" = 'blix: vm gone: no such VM' ]
	run --separate-stderr blix node show gone
	[ "$status" = 3 ]
	[ "${stderr_lines[0]}" = 'blix: node gone: no such node' ]
}

@test "a node that nobody has is named: 6" {
	serve "$DIR/microvm"
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	run --separate-stderr blix vm create web --flake "$base" --node nosuch
	[ "$status" = 6 ]
	[[ $stderr == *"no node is called 'nosuch'"* ]]
}

@test "a directory that blix did not make is refused with one hint, and never touched" {
	serve "$DIR/microvm"
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	mkdir "$DIR/s/microvms/web"
	echo precious >"$DIR/s/microvms/web/file"
	run --separate-stderr blix vm create web --flake "$base"
	[ "$status" = 4 ]
	[ "$(grep -c hint: <<<"$stderr")" = 1 ]
	blix vm delete web
	[ "$(ls -A "$DIR/s/microvms/web")" = file ]
	[ "$(cat "$DIR/s/microvms/web/file")" = precious ]
	[ ! -e "$DIR/s/orphans" ]
}

@test "a console is read through another server, and begins anew there too" {
	local n fake=$BLIX_BUILD/tests/fake
	for n in 1 2; do
		mkdir -p "$DIR/$n"
		jq -n --arg dir "$DIR" --arg n "$n" --arg fake "$fake" '{id: ($n | tonumber), cluster: "c",
			servers: [1, 2 | {id: ., name: "n\(.)", raft: "\($dir)/\(.)/raft", api: "\($dir)/\(.)/sock"}],
			stateDir: "\($dir)/\($n)/s", runDir: "\($dir)/\($n)/r", socket: "\($dir)/\($n)/sock", group: "",
			microvmsDir: "\($dir)/\($n)/vms", gcrootsDir: "\($dir)/\($n)/roots", microvm: "\($fake)/microvm",
			path: "\($fake):/usr/bin:/bin", retryMs: 10}' >"$DIR/$n/blix.json"
		blixd --config "$DIR/$n/blix.json" </dev/null 2>"$DIR/$n/log" 3>&- &
		blixd_pid="$blixd_pid $!"
	done
	export BLIX_TIMEOUT=30s
	await blix node show n1 --endpoint "$DIR/1/sock"
	blix vm create web --flake "$base" --node n1 --endpoint "$DIR/1/sock"
	console=$DIR/1/s/vms/web/console.log
	await grep -q ready "$console"
	await blix vm show web --endpoint "$DIR/2/sock"
	[ "$(blix vm logs web --endpoint "$DIR/2/sock")" = "$(cat "$console")" ]
	curl -sS --unix-socket "$DIR/2/sock" -D "$DIR/head" -o "$DIR/body" 'http://x/v1/vms/web/logs?offset=1000000'
	cmp "$DIR/body" "$console"
	[ "$(tr -d '\r' <"$DIR/head" | sed -n 's/^Blix-Offset: //p')" = "$(stat -c %s "$console")" ]
	# The node that holds it never asks another one.
	curl -sS --unix-socket "$DIR/2/sock" -o "$DIR/body" 'http://x/v1/vms/web/logs?here=true'
	[ ! -s "$DIR/body" ]
	blix vm delete web --force --endpoint "$DIR/1/sock"
}

@test "requests that wait are answered 503 when the daemon ends, and nothing of them leaks" {
	local path polls=''
	serve "$DIR/microvm"
	cp "$BLIX_BUILD/tests/fake/nix" "$DIR/tools/"
	blix vm create web --flake "$base" --stopped -q
	for path in vms/web vms events; do
		curl -sS -o /dev/null -w '%{http_code}\n' --unix-socket "$DIR/s/blix.sock" \
			"http://x/v1/$path?revision=999999&wait=60s" >"$DIR/${path////-}.code" &
		polls="$polls $!"
	done
	# Its listener and three connections bear the name.
	await eval '[ "$(grep -c "$DIR/s/blix.sock" /proc/net/unix)" = 4 ]'
	blix vm show web -o name # whatever came before is handled
	kill "$blixd_pid"
	wait "$blixd_pid" # 0, in a build that looks for leaks too
	blixd_pid=''
	for path in $polls; do wait "$path"; done
	[ "$(cat "$DIR/vms-web.code" "$DIR/vms.code" "$DIR/events.code" | sort -u)" = 503 ]
}
