#!/usr/bin/env bats
# blix-agent on this machine, over a Unix socket in place of the port: what it runs and copies, how it ends that,
# and that nothing a host sends or leaves out ends the agent. Shutdown and freeze are for real guests only.

bats_require_minimum_version 1.5.0

setup_file() {
	export HOST=$BATS_FILE_TMPDIR/agent_host
	cd "$BATS_TEST_DIRNAME/../.." || exit 1
	"${CC:-cc}" -D_GNU_SOURCE -std=gnu11 -O1 -Ilib -o "$HOST" tests/cli/agent_host.c lib/base/{frame,buf,alloc,error}.c
}

setup() {
	load ../until.bash
	BUILD=$(realpath "${BLIX_BUILD:-$BATS_TEST_DIRNAME/../../build/debug}")
	PATH=$BUILD/bin:$PATH
	T=$(mktemp -d)
	cd "$T" || exit 1
	agent_start
}

teardown() {
	kill "$AGENT" 2>/dev/null && until_true ended "$AGENT"
	cd / && rm -rf "$T"
}

agent_start() {
	blix-agent --port "$T/port" --run "$T/run" 2>>agent.log 3>&- &
	AGENT=$!
}

# host ARGUMENT...: stdout and stderr are the guest's, `frames` holds the rest.
host() {
	timeout 60 "$HOST" --listen "$T/port" "$@" 3>frames
}

# exec JSON-ARGV [MORE-OF-THE-REQUEST]
exec_request() {
	echo "{\"kind\":\"exec\",\"argv\":$1${2:+,$2}}"
}

last() { # FIELD of EXIT or ERROR
	grep -E '^(EXIT|ERROR) ' frames | cut -d' ' -f2- | jq -c ".$1"
}

@test "a command has its own streams and exit code" {
	out=$(echo hi | host "$(exec_request '["sh","-c","cat; echo no >&2; exit 7"]')" 2>err)
	[ "$out" = hi ]
	[ "$(cat err)" = no ]
	[ "$(last exitCode)" = 7 ]
	host "$(exec_request '["true"]')" </dev/null
	[ "$(last exitCode)" = 0 ]
}

@test "what cannot be run is 127 or 126, and says why" {
	host "$(exec_request '["no-such-command"]')" </dev/null
	[ "$(last exitCode)" = 127 ]
	[ "$(last message)" = '"no-such-command: No such file or directory"' ]
	echo true >plain
	chmod 644 plain
	host "$(exec_request "[\"$T/plain\"]")" </dev/null
	[ "$(last exitCode)" = 126 ]
	host "$(exec_request '["true"]' '"cwd":"/nowhere"')" </dev/null
	[ "$(last exitCode)" = 126 ]
	[ "$(last message)" = '"/nowhere: No such file or directory"' ]
}

@test "a command ended by a signal says which" {
	host "$(exec_request '["sh","-c","kill -9 $$"]')" </dev/null
	[ "$(last signal)" = 9 ]
	host "$(exec_request '["sleep","1000"]')" signal:15 </dev/null
	[ "$(last signal)" = 15 ]
}

@test "environment, directory and user are as asked" {
	mkdir dir
	out=$(host "$(exec_request '["sh","-c","echo $A $HOME; pwd; echo $PATH"]' "\"env\":{\"A\":\"b c\"},\"cwd\":\"$T/dir\"")" </dev/null)
	[ "$(sed -n 1p <<<"$out")" = "b c /root" ]
	[ "$(sed -n 2p <<<"$out")" = "$T/dir" ]
	[[ $(sed -n 3p <<<"$out") == *:/usr/bin:* ]]
	[ "$(id -u)" = 0 ] || skip "not root"
	[ "$(host "$(exec_request '["id","-un"]' '"user":"nobody","cwd":"/"')" </dev/null)" = nobody ]
	run host "$(exec_request '["id"]' '"user":"no-such-user"')" </dev/null
	[ "$status" = 1 ]
	[ "$(last reason)" = '"no-user"' ]
}

@test "a terminal is one: size, resize, end of file, hangup" {
	out=$(host "$(exec_request '["sh","-c","test -t 0 && test -t 2 && stty size; exit 3"]' '"tty":true,"rows":33,"cols":99')" </dev/null)
	[ "$out" = $'33 99\r' ]
	[ "$(last exitCode)" = 3 ]
	out=$(host "$(exec_request '["sh","-c","until stty size | grep 77; do sleep 0.05; done"]' '"tty":true')" resize:7:77 </dev/null)
	[ "$out" = $'7 77\r' ]
	out=$(echo word | host "$(exec_request '["cat"]' '"tty":true')")
	[ "$(last exitCode)" = 0 ]
	[[ $out == *word* ]]
}

@test "100 MB go through a command and come back the same" {
	head -c 100000000 /dev/urandom >data
	host "$(exec_request '["cat"]')" <data >back
	cmp data back
	[ "$(last exitCode)" = 0 ]
}

@test "output before the end is complete, a left-over child is not waited for" {
	out=$(host "$(exec_request '["sh","-c","sleep 1000 & echo $!; seq 100000"]')" </dev/null)
	kill "$(head -n 1 <<<"$out")"
	[ "$(tail -n 1 <<<"$out")" = 100000 ]
}

@test "a closed stream ends its command, one deaf to SIGHUP too" {
	host --linger "$T/pids" "$(exec_request "[\"sh\",\"-c\",\"trap '' HUP; echo \$\$ >$T/deaf; mv $T/deaf $T/pids; while :; do sleep 0.1; done\"]")" </dev/null
	until_true ended "$(cat pids)"
}

@test "a host that goes away takes its commands along, and the next one is served" {
	"$HOST" --listen "$T/port" "$(exec_request "[\"sh\",\"-c\",\"echo \$\$ >$T/pid; sleep 1000\"]")" </dev/null 3>/dev/null &
	until_true [ -s pid ]
	kill -9 $!
	until_true ended "$(cat pid)"
	host "$(exec_request '["true"]')" </dev/null
	[ "$(last exitCode)" = 0 ]
}

@test "a tree goes in and out with its modes, 100 MB with equal hashes" {
	mkdir -p src/dir
	head -c 100000000 /dev/urandom >src/large
	echo run >src/dir/run
	chmod 751 src/dir/run
	ln -s dir/run src/link
	host '{"kind":"copy-out","path":"'"$T/src"'"}' </dev/null >tree
	[ "$(last bytes)" = 100000004 ]
	host '{"kind":"copy-in","path":"'"$T/dst"'"}' <tree
	[ "$(last files)" = 5 ]
	diff -r src dst
	[ "$(stat -c %a dst/dir/run)" = 751 ]
	[ "$(readlink dst/link)" = dir/run ]
	host '{"kind":"copy-in","path":"'"$T"'","name":"again"}' <tree
	cmp src/large again/large
}

@test "a copy that fails says why" {
	run host '{"kind":"copy-out","path":"/no/such"}' </dev/null
	[ "$status" = 1 ]
	[ "$(last code)" = '"not-found"' ]
	run host '{"kind":"copy-in","path":"'"$T/dst"'"}' <<<"this is no copy of files, but long enough to be looked at"
	[ "$status" = 1 ]
	[ "$(last code)" = '"corrupt"' ]
	[ ! -e dst ]
	run host '{"kind":"copy-in","path":"'"$T/dst"'"}' </dev/null
	[ "$(last message)" = '"the copy was cut off"' ]
}

@test "a secret becomes a file of root's alone, or is refused" {
	mkdir s
	kill "$AGENT"
	until_true ended "$AGENT"
	blix-agent --port "$T/port" --run "$T/run" --secrets "$T/s/secrets" 2>>agent.log 3>&- &
	AGENT=$!
	printf 'one\0two' | host '{"kind":"secret","name":"db"}'
	[ "$(last exitCode)" = 0 ]
	cmp s/secrets/db <(printf 'one\0two')
	[ "$(stat -c %a s/secrets s/secrets/db | xargs)" = '700 400' ]
	printf three | host '{"kind":"secret","name":"db"}'
	[ "$(cat s/secrets/db)" = three ]
	for name in '' . .. .db ../db a/b db.tmp; do
		run host '{"kind":"secret","name":"'"$name"'"}' </dev/null
		[ "$(last code)" = '"invalid"' ] || return 1
	done
	run host '{"kind":"secret","name":"large"}' < <(head -c 65537 /dev/zero)
	[ "$(last code)" = '"too-big"' ]
	[ "$(ls s/secrets)" = db ]
}

@test "requests that are none are refused, and the session goes on" {
	for request in '{"kind":"no"}' '{"argv":["true"]}' '{"kind":"exec"}' '{"kind":"exec","argv":[]}' \
		'{"kind":"exec","argv":["true"],"surprise":1}' '{"kind":"exec","argv":[1]}' '{"kind":"exec","argv":["true"' \
		'{"kind":"exec","argv":["true"],"env":{"A":1}}' '{"kind":"freeze","timeoutMs":600000}' '{"kind":"copy-in"}'; do
		run host "$request" </dev/null
		[ "$status" = 1 ] || return 1
		[ "$(last code)" = '"invalid"' ] || return 1
	done
	run host '{"kind":"no"}' "$(exec_request '["true"]')" </dev/null
	[ "$(last exitCode | tail -n 1)" = 0 ]
}

@test "garbage ends the session, not the agent" {
	head -c 100000 /dev/zero >garbage
	run host --raw <garbage
	[ "$status" = 2 ]
	printf '\x40\0\0\0\1\0\0\0\2' >torn # the agent waits for the rest until the host hangs up
	run timeout 1 "$HOST" --listen "$T/port" --raw 3>frames <torn
	[ "$status" = 124 ]
	host "$(exec_request '["true"]')" </dev/null
	[ "$(last exitCode)" = 0 ]
	grep -q 'session ended' agent.log
	kill -0 "$AGENT"
}

@test "ready is what the guest says" {
	host "$(exec_request '["true"]')" </dev/null
	[ "$(grep HELLO frames | tail -n 1 | cut -d' ' -f2- | jq .ready)" = false ]
	blix-agent --run "$T/run" ready
	host "$(exec_request '["true"]')" </dev/null
	[ "$(grep HELLO frames | tail -n 1 | cut -d' ' -f2- | jq .ready)" = true ]
	[ "$(grep HELLO frames | tail -n 1 | cut -d' ' -f2- | jq -r .bootId)" = "$(cat /proc/sys/kernel/random/boot_id)" ]
	run blix-agent --run "$T/nowhere" ready
	[ "$status" = 1 ]
	run blix-agent raedy
	[ "$status" = 64 ]
	run blix-agent --fd 77
	[ "$status" = 64 ]
	[[ $output == *"--fd 77 is no open descriptor"* ]]
}

@test "a name of its own, in a namespace" {
	unshare --uts true 2>/dev/null || skip "not root"
	kill "$AGENT"
	until_true ended "$AGENT"
	unshare --uts blix-agent --port "$T/port" --run "$T/run" 2>>agent.log 3>&- &
	AGENT=$!
	out=$(host '{"kind":"identity","hostname":"web-7"}' "$(exec_request '["hostname"]')" </dev/null)
	[ "$out" = web-7 ]
	identity() { grep HELLO frames | sed -n "$1p" | cut -d' ' -f2- | jq .identity; }
	[ "$(identity 1)" = false ]
	[ "$(identity '$')" = true ]
	kill "$AGENT"
	until_true ended "$AGENT"
	agent_start # the next agent of this boot knows; one of another boot does not
	host "$(exec_request '["true"]')" </dev/null
	[ "$(identity 1)" = true ]
	kill "$AGENT"
	until_true ended "$AGENT"
	echo another-boot >run/identity
	agent_start
	host "$(exec_request '["true"]')" </dev/null
	[ "$(identity 1)" = false ]
	run host '{"kind":"identity","machineId":"../x"}' </dev/null
	[ "$(last code)" = '"invalid"' ]
}
