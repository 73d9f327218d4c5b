#!/usr/bin/env bats
# What clients do inside guests, through real servers: the real blix-agent behind a stand-in for a hypervisor's port.
# shellcheck disable=SC2034 # PIDS is of helpers.bash

bats_require_minimum_version 1.5.0

# become N ARGUMENT...: `on` for the background, where the process that is started is to be the client.
become() {
	local n=$1
	shift
	exec blix --endpoint "unix:$T/n$n/sock" "$@"
}

setup() {
	load helpers.bash
	servers_setup
	TMUX_SERVER=
}

teardown() {
	[ -z "$TMUX_SERVER" ] || tmux -S "$TMUX_SERVER" kill-server 2>/dev/null || true
	servers_teardown
	[ -z "${NET:-}" ] || ip netns del "$NET" 2>/dev/null || true
}

has_agent() { on "$1" vm exec "$2" -- true 2>/dev/null; }

# guest_vm SERVER NODE NAME: a VM whose guest has the agent
guest_vm() {
	echo agent >"$T/n$2/microvms/.fake/$3"
	on "$1" vm create "$3" --flake "$BASE#demo" --node "n$2" 2>/dev/null
	until_true has_agent "$1" "$3"
}

@test "a guest behind Cloud Hypervisor's vsock loads its agent over each connection, from the host alone" {
	cluster_up 3
	echo vsock >"$T/n1/microvms/.fake/web"
	echo "vsock stranger" >"$T/n1/microvms/.fake/odd"
	echo "vsock deaf" >"$T/n1/microvms/.fake/deaf"
	for name in web odd deaf; do
		on 1 vm create "$name" --node n1 --flake 'path:/nix/store/x-gen5-source?narHash=sha256-fake#demo' 2>/dev/null
	done
	until_true has_agent 1 web
	[ "$(on 1 vm exec -i web -- sh -c 'cat; exit 3' <<<word; echo $?)" = $'word\n3' ]
	cmp "$T/n1/microvms/web/agent/blix-agent" "$BLIX_BUILD/libexec/blix-agent"
	server_kill 1
	server_start 1
	until_true has_agent 1 web
	[ "$(grep -c 'vm.agent.loaded vm=web' "$T/n1/log")" -ge 2 ]
	run ! grep -q 'vm.agent.loaded vm=odd\|vm.agent.loaded vm=deaf' "$T/n1/log"
	[ ! -e "$T/n1/microvms/odd/agent/blix-agent" ]
	run --separate-stderr on 1 vm exec deaf -- true
	[ "$status" = 125 ]
	[[ ${stderr_lines[0]} == "blix: vm deaf: no agent answers in the guest" ]]
	run ! grep -q 'something else' "$T"/n1/state/vms/*/console.log
}

# exec ARGUMENT...: through another server than the VM's
exec_there() { run --separate-stderr on 1 vm exec web "$@"; }

@test "vm exec: output, input, variables and the command's own exit code, through another server" {
	cluster_up 3
	guest_vm 1 2 web
	exec_there -- sh -c 'echo out; echo err >&2'
	[ "$status" = 0 ]
	[ "$output" = out ]
	[ "$stderr" = err ]
	exec_there -- sh -c 'exit 7'
	[ "$status" = 7 ]
	run -127 --separate-stderr on 1 vm exec web -- no-such-command
	[[ $stderr == *"no-such-command: No such file or directory" ]]
	exec_there -- "$T/n1/blix.json"
	[ "$status" = 126 ]
	exec_there -- sh -c 'kill -9 $$'
	[ "$status" = 137 ]
	MINE=here exec_there --env A=1 --env MINE --env 'B=x=y z' -- sh -c 'echo "$A $MINE $B"'
	[ "$output" = '1 here x=y z' ]
	run --separate-stderr on 3 vm exec web -i -- tr a-z A-Z <<<'typed in'
	[ "$output" = 'TYPED IN' ]
	# Without -i there is no input, and ours is not read.
	run --separate-stderr on 3 vm exec web -- cat <<<'not read'
	[ "$status" = 0 ]
	[ -z "$output" ]
	# What looks like an option of ours is the command's.
	exec_there -- printf '%s.' --help -- -o
	[ "$output" = '--help.--.-o.' ]
	server_stop 1 2 3
}

@test "vm exec: 100 MB in and out, with equal hashes; a reader that leaves ends it" {
	cluster_up 3
	guest_vm 1 2 web
	head -c 104857600 /dev/urandom >"$T/big"
	on 1 vm exec web -i -- cat <"$T/big" >"$T/back"
	cmp "$T/big" "$T/back"
	[ "$(on 2 vm exec web -- yes | head -n 1)" = y ]
	rm "$T/back"
	server_stop 1 2 3
}

@test "vm exec: signals reach the command, and a client that dies takes it along" {
	cluster_up 3
	guest_vm 1 2 web
	become 3 vm exec web -- sh -c 'trap "echo got-term; exit 9" TERM; echo up; while :; do sleep 0.05; done' >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q up "$T/out"
	kill -TERM "${PIDS[9]}"
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	[ "$status" = 9 ]
	grep -q got-term "$T/out"
	become 3 vm exec web -- sh -c 'echo $$; exec sleep 1000' >"$T/pid" &
	PIDS[9]=$!
	until_true test -s "$T/pid"
	kill -9 "${PIDS[9]}"
	wait "${PIDS[9]}" || true
	PIDS[9]=
	until_true ended "$(cat "$T/pid")"
	server_stop 1 2 3
}

@test "vm exec -t at a terminal: a size that follows, keys, and the terminal as before" {
	cluster_up 3
	guest_vm 1 2 web
	TMUX_SERVER=$T/tmux
	env -u TMUX tmux -S "$TMUX_SERVER" -f /dev/null new-session -d -x 91 -y 27 sh 3>&-
	tmux -S "$TMUX_SERVER" set-option -g status off
	keys() { tmux -S "$TMUX_SERVER" send-keys "$@"; }
	shows() { tmux -S "$TMUX_SERVER" capture-pane -p | sed 's/^\([$#] \)*//' | grep -qxF -- "$1"; }
	keys "blix --endpoint unix:$T/n1/sock vm exec web -it --env PS1='guest: ' -- sh" Enter
	until_true shows 'guest:'
	keys 'stty size; tty >/dev/null && echo at-tty' Enter
	until_true shows '27 91'
	until_true shows at-tty
	tmux -S "$TMUX_SERVER" resize-window -x 80 -y 20
	until_true eval 'keys "stty size" Enter; shows "20 80"'
	keys 'sleep 1000' Enter
	until_true pgrep -xf 'sleep 1000'
	keys C-c
	until_true eval 'keys "echo code \$?" Enter; shows "code 130"'
	keys 'exit 5' Enter
	keys 'echo ended $?; stty -a | grep -c " icanon" | sed s/^/cooked-/' Enter
	until_true shows 'ended 5'
	until_true shows cooked-1
}

@test "vm exec: what fails before the command is 125, with its reason" {
	cluster_up 3
	on 1 vm create bare --flake "$BASE#demo" --node n2 2>/dev/null
	run --separate-stderr on 1 vm exec bare -- true
	[ "$status" = 125 ]
	[[ ${stderr_lines[0]} == "blix: vm bare: "*agent* ]]
	[[ $stderr == *"blix vm console bare"* ]]
	on 1 vm stop bare 2>/dev/null
	until_true eval '[ "$(on 2 vm show bare -o json | jq -r .status.phase)" = Stopped ]'
	run --separate-stderr on 1 vm exec bare -- true
	[ "$status" = 125 ]
	[ "${stderr_lines[0]}" = "blix: vm bare: it does not run, it is Stopped" ]
	run --separate-stderr on 1 vm exec none -- true
	[ "$status" = 125 ]
	[ "${stderr_lines[0]}" = "blix: vm none: no such VM" ]
	run --separate-stderr blix --endpoint "unix:$T/none" vm exec bare -- true
	[ "$status" = 125 ]
	for wrong in 'bare' 'bare --' '-- true' 'bare true'; do
		# shellcheck disable=SC2086 # several words
		run --separate-stderr on 1 vm exec $wrong
		[ "$status" = 64 ]
	done
	run --separate-stderr on 1 vm exec bare --env =x -- true
	[ "$status" = 64 ]
	run --separate-stderr on 1 vm exec bare -t -- true </dev/null
	[ "$status" = 64 ]
	server_stop 1 2 3
}

@test "vm exec: a daemon that goes away in the middle is told, and the VM's own still serves" {
	cluster_up 3
	guest_vm 1 2 web
	become 1 vm exec web -- sh -c 'echo up; exec sleep 1000' >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q up "$T/out"
	server_kill 1 3
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	[ "$status" = 69 ]
	grep -q 'connection to blixd was lost' "$T/err"
	until_true cluster 2 'select(.quorum | not)'
	[ "$(on 2 vm exec web -- echo alone)" = alone ]
	server_stop 2
}

# tree DIR: everything in it with type, mode and contents
tree() { (cd "$1" && find . -printf '%y %m %p %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }

@test "vm cp: files and trees both ways, modes kept, 100 MB with equal hashes" {
	cluster_up 3
	guest_vm 1 2 web
	mkdir -p "$T/a/sub/deep" "$T/a/empty" "$T/guest"
	head -c 104857600 /dev/urandom >"$T/a/big"
	echo run >"$T/a/sub/run"
	chmod 750 "$T/a/sub/run"
	chmod 700 "$T/a/sub"
	: >"$T/a/sub/deep/none"
	ln -s ../big "$T/a/sub/link"
	run --separate-stderr on 1 vm cp "$T/a" "web:$T/guest"
	[ "$status" = 0 ]
	[[ $stderr == "vm web: copied 8 files, 100.0MiB" ]]
	[ "$(tree "$T/a")" = "$(tree "$T/guest/a")" ]
	on 3 vm cp "web:$T/guest/a" "$T/back"
	[ "$(tree "$T/a")" = "$(tree "$T/back")" ]
	on 2 vm cp "$T/a/sub/run" "web:$T/guest/other"
	[ "$(cat "$T/guest/other") $(stat -c %a "$T/guest/other")" = 'run 750' ]
	server_stop 1 2 3
}

@test "vm cp: what cannot be copied says why, and usage is checked first" {
	cluster_up 1
	guest_vm 1 1 web
	run --separate-stderr on 1 vm cp "$T/none" web:/tmp
	[ "$status" = 3 ]
	run --separate-stderr on 1 vm cp "web:$T/none" "$T"
	[ "$status" = 3 ]
	[[ $stderr == *"$T/none: No such file or directory"* ]]
	run --separate-stderr on 1 vm cp "$T/n1/blix.json" "web:$T/no/such/dir"
	[ "$status" = 3 ]
	for wrong in 'a b' 'web:/a web:/b' 'web:a /tmp/x' './web:a /b'; do
		# shellcheck disable=SC2086 # two words
		run --separate-stderr on 1 vm cp $wrong
		[ "$status" = 64 ]
	done
	server_stop 1
}

# guests_for SERVER...: every guest there has the agent
guests_for() {
	local n
	for n; do echo agent >"$T/n$n/microvms/.fake/default"; done
}

# nothing is left of any VM, in the state and on the hosts
all_gone() { [ -z "$(on "$1" vm list -o name)" ] && [ -z "$(remains)" ]; }

@test "blix run: a fresh VM, files in, the command's own end, files out, and nothing left" {
	cluster_up 3
	guests_for 1 2 3
	mkdir -p "$T/suite" "$T/guest"
	printf '#!/bin/sh\necho "suite says $1 $A"\necho log >%s/guest/log\nexit $2\n' "$T" >"$T/suite/run"
	chmod +x "$T/suite/run"
	run --separate-stderr on 1 run "$BASE#demo" --copy "$T/suite:$T/guest" --copy-out "$T/guest/log:$T/log" \
		--env A=b -- "$T/guest/suite/run" hello 0
	[ "$status" = 0 ]
	[ "$output" = 'suite says hello b' ]
	[ "$(cat "$T/log")" = log ]
	until_true all_gone 1
	# A suite that fails, as it failed; its log comes out all the same.
	rm "$T/log"
	run --separate-stderr on 2 run "$BASE#demo" --copy "$T/suite:$T/guest" --copy-out "$T/guest/log:$T/log" \
		-- "$T/guest/suite/run" hello 3
	[ "$status" = 3 ]
	[ "$(cat "$T/log")" = log ]
	[ "$(on 3 run "$BASE#demo" -q -i -- cat <<<'through it' 2>&1)" = 'through it' ]
	until_true all_gone 1
	server_stop 1 2 3
}

@test "blix run: 125 for what failed before, and that leaves nothing either" {
	cluster_up 1
	echo fail >"$T/n1/microvms/.fake/default"
	run --separate-stderr on 1 run "$BASE#demo" -- true
	[ "$status" = 125 ]
	[[ $stderr == *'fake: told to fail'* ]]
	until_true all_gone 1
	guests_for 1
	# What is wrong with the copies shows before there is a VM.
	run --separate-stderr on 1 run "$BASE#demo" --copy "$T/none:/tmp" -- true
	[ "$status" = 125 ]
	[ "$stderr" = "blix: --copy $T/none: No such file or directory" ]
	run --separate-stderr on 1 run "$BASE#demo" --copy "$T/n1" -- true
	[ "$status" = 64 ]
	[ "${stderr_lines[0]}" = "blix: --copy '$T/n1' is not SRC:DST" ]
	run --separate-stderr on 1 run "$BASE#demo" --memory 1TiB -- true
	[ "$status" = 125 ]
	until_true all_gone 1
	# A VM that has the name already is not ours to delete.
	on 1 vm create web --flake "$BASE#demo" 2>/dev/null
	run --separate-stderr on 1 run "$BASE#demo" --name web --keep always -- true
	[ "$status" = 125 ]
	[[ $stderr != *kept* ]]
	run --separate-stderr on 1 run "$BASE#demo" --name web -- true
	[ "$status" = 125 ]
	[ "$(on 1 vm list -o name)" = web ]
	# What is deleted is not named as a thing to look at.
	echo >"$T/n1/microvms/.fake/default"
	run --separate-stderr on 1 run "$BASE#demo" --timeout 2s -- true
	[ "$status" = 125 ]
	[[ $stderr == *"no agent in the guest said in time that it is ready"*"hint: 'blix run' needs blix-agent"* ]]
	[[ $stderr != *'vm logs'* ]]
	[ "$(on 1 vm list -o name)" = web ]
	for wrong in "$BASE -- true" "$BASE#demo" "$BASE#demo --keep x -- true" "$BASE#demo --name X -- true"; do
		# shellcheck disable=SC2086 # several words
		run --separate-stderr on 1 run $wrong
		[ "$status" = 64 ]
	done
	server_stop 1
}

@test "blix run: --keep keeps the VM when it is to" {
	cluster_up 1
	guests_for 1
	run --separate-stderr on 1 run "$BASE#demo" --keep on-failure --name good -- true
	[ "$status" = 0 ]
	run --separate-stderr on 1 run "$BASE#demo" --keep on-failure --name bad -- false
	[ "$status" = 1 ]
	[[ $stderr == *"vm bad: kept"* ]]
	run --separate-stderr on 1 run "$BASE#demo" --keep always --name kept -- true
	[ "$status" = 0 ]
	[ "$(on 1 vm list -o name | tr '\n' ' ')" = 'bad kept ' ]
	# An interrupted run has not failed.
	become 1 run "$BASE#demo" --keep on-failure -- sh -c 'echo up; exec sleep 1000' >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q up "$T/out"
	kill -TERM "${PIDS[9]}"
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	[ "$status" = 143 ]
	[ "$(on 1 vm list -o name | tr '\n' ' ')" = 'bad kept ' ]
	server_stop 1
}

@test "blix run: a VM that ends while the command runs is 9, and no copy is tried" {
	cluster_up 1
	guests_for 1
	run --separate-stderr on 1 run "$BASE#demo" --name dies --copy-out "/none:$T/none" -- \
		sh -c "echo up; kill \$(jq .pid '$T/n1/run/vms/dies/status.json'); exec sleep 1000"
	[ "$status" = 9 ]
	[ "$output" = up ]
	[[ $stderr == *"blix: vm dies: it ended while the command ran: the runner ended (killed by signal 15)"* ]]
	[[ $stderr == *"hint: with '--keep on-failure' the VM stays, to be looked at"* ]]
	[[ $stderr != *"$T/none"* ]]
	all_gone 1
	server_stop 1
}

@test "blix run: SIGINT and SIGTERM delete the VM, in every phase; a second one ends it and says what is left" {
	local signal code
	cluster_up 1
	guests_for 1
	for signal in INT TERM; do
		code=$((128 + $(kill -l "$signal")))
		become 1 run "$BASE#demo" -- sh -c 'echo up; exec sleep 1000' >"$T/out" 2>"$T/err" &
		PIDS[9]=$!
		until_true grep -q up "$T/out"
		kill "-$signal" "${PIDS[9]}"
		status=0
		wait "${PIDS[9]}" || status=$?
		PIDS[9]=
		[ "$status" = "$code" ]
		all_gone 1
	done
	# While it builds.
	echo hang >"$T/n1/microvms/.fake/default"
	become 1 run "$BASE#demo" -- true >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q Building "$T/err"
	kill -TERM "${PIDS[9]}"
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	[ "$status" = 143 ]
	all_gone 1
	# The daemon is gone: the first signal waits for it, the second does not.
	guests_for 1
	become 1 run "$BASE#demo" --name left -- sh -c 'echo up; exec sleep 1000' >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q up "$T/out"
	kill -STOP "${PIDS[1]}"
	kill -TERM "${PIDS[9]}"
	until_true eval 'kill -TERM "${PIDS[9]}" 2>/dev/null; ended "${PIDS[9]}"'
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	kill -CONT "${PIDS[1]}"
	[ "$status" = 143 ]
	grep -q "it may still be there: 'blix vm delete --volumes left' deletes it" "$T/err"
	server_stop 1
}

@test "blix run: a daemon that goes away and comes back costs the run, and leaves nothing" {
	cluster_up 1
	guests_for 1
	become 1 run "$BASE#demo" -- sh -c 'echo up; exec sleep 1000' >"$T/out" 2>"$T/err" &
	PIDS[9]=$!
	until_true grep -q up "$T/out"
	server_kill 1
	until_true grep -q 'connection to blixd was lost' "$T/err"
	server_start 1
	status=0
	wait "${PIDS[9]}" || status=$?
	PIDS[9]=
	[ "$status" = 69 ]
	all_gone 1
	server_stop 1
}

# A stand-in for ssh that notes its arguments, one a line, and ends with 7.
fake_ssh() {
	mkdir -p "$T/ssh-bin"
	printf '#!/bin/sh\nprintf "%%s\\n" "$@" >"%s/argv"\nexit 7\n' "$T" >"$T/ssh-bin/ssh"
	chmod +x "$T/ssh-bin/ssh"
	PATH=$T/ssh-bin:$PATH
}

ssh_there() { run --separate-stderr on 1 vm ssh "$@"; }

# ssh_had WORD...: what the last ssh was given
ssh_had() { diff "$T/argv" <(printf '%s\n' "$@"); }

@test "vm ssh: to the address that the agent tells, with ssh's own arguments and exit code" {
	NET=blixssh-$$
	[ "$(id -u)" -eq 0 ] && [ -c /dev/net/tun ] && ip netns add "$NET" ||
		skip "taps: needs root, network namespaces and /dev/net/tun"
	ip -n "$NET" tuntap add name guest0 mode tap
	ip -n "$NET" address add 192.0.2.77/24 dev guest0
	INSIDE=(ip netns exec "$NET")
	cluster_up 2
	guest_vm 1 2 web
	fake_ssh
	ssh_there web
	[ "$status" = 7 ]
	ssh_had 192.0.2.77 -l root
	ssh_there web -- -p 2222 ls -l
	ssh_had 192.0.2.77 -l root -p 2222 ls -l
	ssh_there web -- -A -lme id
	ssh_had 192.0.2.77 -l me -A -lme id
	ssh_there web -- -o 'User=you' -- id
	ssh_had 192.0.2.77 -l you -o User=you -- id
	server_stop 1 2
}

@test "vm ssh: by the vsock of a VM of this node, which asks no agent" {
	local from=$FAKE
	FAKE=$T/fake
	mkdir -p "$FAKE/store/bin" "$FAKE/store/share/microvm"
	cp "$from/nix" "$from/microvm" "$FAKE"
	echo 42 >"$FAKE/store/share/microvm/vsock-cid"
	# As a hypervisor is called by its runner, by which `microvm -s` knows that it runs.
	printf '#!/bin/bash\nexec -a "microvm@${PWD##*/}" "%s/runner"\n' "$from" >"$FAKE/store/bin/microvm-run"
	chmod +x "$FAKE/store/bin/microvm-run"
	configure 2 ".microvm = \"$T/microvm\""
	# The stand-in for microvm builds and runs; logging in is the real script's.
	printf '#!/bin/sh\n[ "$1" != -s ] || exec "%s" "$@"\nexec "%s/microvm" "$@"\n' \
		"$BATS_TEST_DIRNAME/../../scripts/microvm" "$FAKE" >"$T/microvm"
	chmod +x "$T/microvm"
	server_start 1 2
	until_true agree 1 2
	until_true nodes_are_ready 1 2
	on 1 vm create web --flake "$BASE#demo" --node n1 2>/dev/null
	fake_ssh
	ln -sfn "$FAKE/store" "$T/n1/microvms/web/booted"
	ssh_there web -- uptime
	[ "$status" = 7 ]
	ssh_had vsock/42 -l root uptime
	# From another node it is a number of a host that this is not.
	run --separate-stderr on 2 vm ssh web
	[ "$status" = 5 ]
	server_stop 1 2
}

@test "vm ssh and vm exec: a guest without an agent, a VM that does not run, a host without ssh" {
	cluster_up 1
	on 1 vm create mute --flake "$BASE#demo" 2>/dev/null
	ssh_there mute
	[ "$status" = 5 ]
	[ "${stderr_lines[0]}" = "blix: vm mute: no agent in the guest tells its address, and it has no vsock here that ssh could use" ]
	[[ ${stderr_lines[1]} == "hint: "*"blix vm console mute"*"blix vm exec"*"--ready agent"* ]]
	for verb in "exec mute -- true" "cp $T/n1/blix.json mute:/tmp"; do
		# shellcheck disable=SC2086 # words
		run --separate-stderr on 1 vm $verb
		[[ ${stderr_lines[0]} == *": no agent answers in the guest" ]]
		[[ ${stderr_lines[1]} == "hint: 'blix vm console mute'"*"'blix vm ssh mute'"* ]]
	done
	on 1 vm stop mute --force 2>/dev/null
	ssh_there mute
	[ "$status" = 5 ]
	[ "${stderr_lines[0]}" = "blix: vm mute: it is Stopped, not Running" ]
	[ "${stderr_lines[1]}" = "hint: 'blix vm start mute' starts it" ]
	ssh_there none
	[ "$status" = 3 ]
	guest_vm 1 1 web
	if [ "$(on 1 vm show web -o json | jq '.status.agent.addresses | length')" -gt 0 ]; then
		run --separate-stderr env PATH="$T" "$(command -v blix)" --endpoint "unix:$T/n1/sock" vm ssh web
		[ "$status" = 1 ]
		[ "${stderr_lines[0]}" = "blix: vm web: ssh cannot be run: No such file or directory" ]
		[[ ${stderr_lines[1]} == *"'blix vm exec web -- COMMAND' needs none" ]]
	fi
	server_stop 1
}
