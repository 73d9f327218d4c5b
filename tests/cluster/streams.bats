#!/usr/bin/env bats
# Streams through real servers: consoles from any node, with stand-ins for nix and microvm and with /bin/sh for a guest.
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
	if [ -n "$TMUX_SERVER" ] && [ "${BATS_TEST_COMPLETED:-}" != 1 ]; then
		tmux -S "$TMUX_SERVER" capture-pane -p | grep . || true
	fi
	[ -z "$TMUX_SERVER" ] || tmux -S "$TMUX_SERVER" kill-server 2>/dev/null || true
	servers_teardown
}

# shell_vm SERVER NODE NAME: a VM whose guest is a shell at its console
shell_vm() {
	echo shell >"$T/n$2/microvms/.fake/$3"
	on "$1" vm create "$3" --flake "$BASE#demo" --node "n$2" 2>/dev/null
}

# A terminal of 91 x 27 with a shell in it.
terminal_open() {
	TMUX_SERVER=$T/tmux
	env -u TMUX PS1='$ ' tmux -S "$TMUX_SERVER" -f /dev/null new-session -d -x 91 -y 27 sh 3>&-
	tmux -S "$TMUX_SERVER" set-option -g status off
}

keys() { tmux -S "$TMUX_SERVER" send-keys "$@"; }

shows() { # TEXT: as a whole line of the screen, but for prompts before it
	tmux -S "$TMUX_SERVER" capture-pane -p -J | sed 's/^\([$#] \)*//' | grep -qxF -- "$1"
}

shows_part() { tmux -S "$TMUX_SERVER" capture-pane -p -J | grep -qF -- "$1"; }

# resident PID: KiB
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }

@test "vm console: from any server, and without a quorum from the VM's own" {
	cluster_up 3
	shell_vm 1 2 web
	for n in 1 2 3; do
		echo "echo at-$n-\$((40 + $n))" | become "$n" vm console web >"$T/out.$n" 2>/dev/null &
		PIDS[9]=$!
		until_true grep -q "^at-$n-4$n" "$T/out.$n"
		kill "${PIDS[9]}"
		wait "${PIDS[9]}" || [ "$?" = 143 ]
		PIDS[9]=
	done
	server_kill 1 3
	until_true cluster 2 'select(.quorum | not)'
	on 2 vm console web <<<'echo "alone $((6 * 7))"; exit' >"$T/out" 2>"$T/err"
	grep -q '^alone 42' "$T/out"
	grep -q 'its console has ended' "$T/err"
}

@test "vm console: what does not run, and whose node is gone, is refused at once" {
	cluster_up 3
	shell_vm 1 2 web
	on 1 vm create idle --flake "$BASE#demo" --node n1 --stopped 2>/dev/null
	until_true eval '[ "$(on 3 vm show idle -o json | jq -r .status.phase)" = Stopped ]'
	run --separate-stderr on 3 vm console idle </dev/null
	[ "$status" = 5 ]
	[ "${stderr_lines[0]}" = "blix: vm idle: it does not run, it is Stopped" ]
	[ "${stderr_lines[1]}" = "hint: 'blix vm start idle' starts it" ]
	run --separate-stderr on 3 vm console none </dev/null
	[ "$status" = 3 ]
	for wrong in '' ctrl- ctrl-1 x 'ctrl-ab'; do
		run --separate-stderr on 1 vm console web --escape "$wrong" </dev/null
		[ "$status" = 64 ]
		[ "${stderr_lines[0]}" = "blix: --escape: '$wrong' is no key" ]
	done
	server_kill 2
	run --separate-stderr on 3 vm console web </dev/null
	[ "$status" = 69 ]
	[ "${stderr_lines[0]}" = "blix: vm web: its node cannot be reached" ]
	server_stop 1 3
}

@test "vm console at a terminal: its size, the guest's keys, Ctrl-] detaches and puts the terminal back" {
	local pid
	cluster_up 3
	shell_vm 1 2 web
	terminal_open
	keys "blix --endpoint unix:$T/n1/sock vm console web" Enter
	until_true shows_part 'vm web: attached; Ctrl-] detaches'
	keys 'stty size; echo $((6 * 7))' Enter
	until_true shows '27 91'
	until_true shows 42
	tmux -S "$TMUX_SERVER" resize-window -x 80 -y 20
	until_true eval 'keys "stty size" Enter; shows "20 80"'
	keys C-]
	until_true shows 'vm web: detached'
	keys 'stty -a | grep -c " icanon" | sed s/^/cooked-/' Enter
	until_true shows 'cooked-1'
	# A signal puts it back too.
	keys "clear; blix --endpoint unix:$T/n2/sock vm console web" Enter
	until_true shows_part 'vm web: attached; Ctrl-] detaches'
	pid=$(pgrep -xf "blix --endpoint unix:$T/n2/sock vm console web")
	kill -TERM "$pid"
	until_true ended "$pid"
	keys 'echo "code $?"; stty -a | grep -c " icanon" | sed s/^/again-/' Enter
	until_true shows_part 'code 143'
	until_true shows 'again-1'
	# Another key, and then the guest gets Ctrl-].
	keys "clear; blix --endpoint unix:$T/n1/sock vm console web --escape ctrl-t" Enter
	until_true shows_part 'vm web: attached; Ctrl-T detaches'
	keys 'stty -icanon -echo; dd bs=1 count=1 2>/dev/null | od -An -tx1; stty icanon echo' Enter
	until_true eval 'keys C-]; shows_part " 1d"'
	keys C-t
	until_true shows 'vm web: detached'
	keys "clear; blix --endpoint unix:$T/n1/sock vm console web --escape none" Enter
	until_true shows_part 'vm web: attached until it ends; no key detaches'
	keys C-] Enter
	until_true eval 'keys "echo still-\$((6 * 7))" Enter; shows still-42'
	pid=$(pgrep -xf "blix --endpoint unix:$T/n1/sock vm console web --escape none")
	kill -TERM "$pid"
	until_true ended "$pid"
	# So does the end of the VM, and of the daemon.
	keys "clear; blix --endpoint unix:$T/n1/sock vm console web" Enter
	until_true shows_part 'vm web: attached; Ctrl-] detaches'
	keys 'exit' Enter
	until_true shows 'vm web: its console has ended'
	keys 'stty -a | grep -c " icanon" | sed s/^/third-/' Enter
	until_true shows 'third-1'
}

@test "a reader that stands still costs its daemons nothing" {
	local before=() n
	export ASAN_OPTIONS=${ASAN_OPTIONS:-}:quarantine_size_mb=1 # what was freed is not to count
	cluster_up 3
	shell_vm 1 2 web
	mkfifo "$T/in" "$T/out"
	exec 8<>"$T/in" 9<>"$T/out"
	become 1 vm console web <"$T/in" >"$T/out" 2>/dev/null 8>&- 9>&- &
	PIDS[9]=$!
	for n in 1 2; do before[n]=$(resident "${PIDS[n]}"); done
	echo 'yes 0123456789012345678901234567890123456789 | head -c 30000000; echo all-out' >&8
	until_true eval 'on 1 vm logs web --tail 3 | grep -q "[0-9]all-out"'
	for n in 1 2; do
		[ "$(resident "${PIDS[n]}")" -lt $((before[n] + 12000)) ]
	done
	kill "${PIDS[9]}"
	wait "${PIDS[9]}" || true
	PIDS[9]=
	exec 8>&- 9<&-
	server_stop 1 2 3
}

# print_lines FIRST LAST: lines of nine bytes at the console of `web`, known to have come when a follower of it has them
print_lines() {
	echo "seq -f %07.0f $1 $2" >&8
	until_true eval '[ "$(tail -c 9 "$T/all" | tr -d "\r")" = "$(printf "%07d" '"$2"')" ]'
}

numbers() { tr -d '\r' <"$1" | grep -axE '[0-9]{7}'; }

# Four times 2.7 MB: the log is cut at 4 MiB twice, and its beginning is gone then.
@test "vm logs -f: nothing is lost where the log is cut, and what was is said" {
	local n slow skipped
	cluster_up 3
	shell_vm 1 2 web
	mkfifo "$T/in"
	exec 8<>"$T/in"
	become 1 vm console web <"$T/in" >/dev/null 2>&1 8>&- &
	PIDS[9]=$!
	become 3 vm logs web -f >"$T/all" 2>"$T/all.err" 8>&- &
	PIDS[8]=$!
	become 1 vm logs web -f >"$T/slow" 2>"$T/slow.err" 8>&- &
	slow=$!
	PIDS[7]=$slow
	echo 'stty -echo; PS1=; echo $((6 * 7))-begun' >&8
	until_true grep -aq '^42-begun' "$T/all"
	until_true grep -aq '^42-begun' "$T/slow"
	kill -STOP "$slow"
	for n in 0 1 2 3; do print_lines $((n * 300000 + 1)) $((n * 300000 + 300000)); done
	numbers "$T/all" | cmp - <(seq -f %07.0f 1200000)
	# Who begins now gets what is kept, in one piece up to the end.
	on 1 vm logs web >"$T/kept"
	[ "$(stat -c %s "$T/kept")" -gt $((4 << 20)) ]
	cmp "$T/kept" <(tail -c "$(stat -c %s "$T/kept")" "$T/all")
	kill -CONT "$slow"
	echo exit >&8
	for n in 7 8; do wait "${PIDS[n]}"; PIDS[n]=; done
	wait "${PIDS[9]}"
	PIDS[9]=
	exec 8>&-
	[ ! -s "$T/all.err" ]
	skipped=$(($(sed -n 's/^vm web: \([0-9]*\) bytes skipped.*/\1/p' "$T/slow.err" | paste -sd+)))
	[ "$skipped" -gt 0 ]
	[ $(($(stat -c %s "$T/slow") + skipped)) = "$(stat -c %s "$T/all")" ]
	server_stop 1 2 3
}

@test "a stream asks for an upgrade, a small body and whole numbers" {
	local ask=(curl -s --unix-socket "$T/n1/sock" -X POST)
	cluster_up 1
	shell_vm 1 1 web
	run "${ask[@]}" http://blix/v1/vms/web/console
	[ "$(jq -r .reason <<<"$output")" = upgrade-needed ]
	ask+=(-H 'Connection: Upgrade' -H 'Upgrade: blix-stream/1')
	for body in '{"rows":"x"}' '{"rows":70000}' '{"colums":1}' '[]' '{'; do
		run "${ask[@]}" -w '%{http_code}' -d "$body" http://blix/v1/vms/web/console
		[[ $output == *'"code":"invalid"'*400 ]]
	done
	run "${ask[@]}" -w '%{http_code}' -d "{\"rows\":$(printf '%070000d' 1)}" http://blix/v1/vms/web/console
	[[ $output == *'"code":"too-big"'*413 ]]
	server_stop 1
}
