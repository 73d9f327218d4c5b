#!/usr/bin/env bats
# The real blix: usage, settings and completion without a daemon, everything else against a daemon
# whose answers are a script (fake_blixd.c).

setup_file() {
	export BLIX="${BLIX_BUILD:-$PWD/build/debug}/bin/blix"
	export FAKE="$BATS_FILE_TMPDIR/fake_blixd"
	"${CC:-cc}" -D_GNU_SOURCE -O1 -o "$FAKE" tests/cli/fake_blixd.c
}

setup() {
	DIR=$(mktemp -d)
	export XDG_CONFIG_HOME=$DIR/config BLIX_ENDPOINT=$DIR/sock
	unset BLIX_OUTPUT BLIX_TIMEOUT NO_COLOR NIX_CONFIG
	mkdir -p "$DIR/config/blix" "$DIR/s"
	FAKE_PID=
}

teardown() {
	[ -z "$FAKE_PID" ] || kill "$FAKE_PID" 2>/dev/null || true
	rm -rf "$DIR"
}

# serve [SOCKET [SCRIPTS]]: starts the daemon and waits until it listens.
serve() {
	"$FAKE" "${1:-$DIR/sock}" "${2:-$DIR/s}" 3>&- &
	FAKE_PID=$!
	until [ -S "${1:-$DIR/sock}" ]; do sleep 0.02; done
}

# answer N STATUS BODY
answer() {
	printf '%s\n\n%s' "$2" "$3" >"$DIR/s/$1"
}

# vm PHASE REVISION [MORE-STATUS [MORE-SPEC]]
vm() {
	printf '{"kind":"VM","metadata":{"name":"web","uid":"7","revision":%s},"spec":{"flake":"github:a/b"%s},"status":{"phase":"%s","operation":{"id":"42"}%s}}' \
		"$2" "${4:+,$4}" "$1" "${3:+,$3}"
}

blix() {
	run --separate-stderr "$BLIX" "$@"
}

bats_require_minimum_version 1.5.0

@test "no command is a usage error" {
	blix
	[ "$status" -eq 64 ]
	[ -z "$output" ]
	[ "${stderr_lines[0]}" = "blix: a command is missing" ]
}

@test "unknown nouns, verbs and options are named, with a near one" {
	blix mv list
	[ "$status" -eq 64 ]
	[ "${stderr_lines[1]}" = "hint: did you mean 'blix vm'?" ]
	blix vm craete web
	[ "$status" -eq 64 ]
	[ "${stderr_lines[0]}" = "blix: unknown verb 'craete'" ]
	[ "${stderr_lines[1]}" = "hint: did you mean 'blix vm create'?" ]
	blix vm list --colums name
	[ "$status" -eq 64 ]
	[ "${stderr_lines[1]}" = "hint: did you mean '--columns'?" ]
	blix vm list --cpus 2
	[ "$status" -eq 64 ]
	blix vm create web --memory
	[ "${stderr_lines[0]}" = "blix: --memory needs a value" ]
}

@test "bad names and values die before the network" {
	for name in Web -- ../x 'a;b' a_b "$(printf 'a%.0s' {1..64})"; do
		blix vm show "$name"
		[ "$status" -eq 64 ]
	done
	blix vm create web --flake github:a/b --cpus 0
	[ "$status" -eq 64 ]
	blix vm create web --flake github:a/b --memory 1.5G
	[ "$status" -eq 64 ]
	blix vm create web --flake 'github:a/b;c'
	[ "$status" -eq 64 ]
	blix vm stop web --grace 30
	[ "$status" -eq 64 ]
	blix wait web --for=running
	[ "$status" -eq 64 ]
	[ "${stderr_lines[1]}" = "hint: did you mean 'vm/web'?" ]
	blix wait vm/web --for=happy
	[ "$status" -eq 64 ]
	blix vm stop web --all
	[ "$status" -eq 64 ]
}

@test "an error is one JSON object with -o json, wherever it stands" {
	blix -o json vm lst
	[ "$status" -eq 64 ]
	[ "$(jq -r .reason <<<"$stderr")" = unknown-verb ]
	blix vm list --bogus --output=json
	[ "$(jq -r .code <<<"$stderr")" = invalid ]
	blix vm show web -o json
	[ "$status" -eq 69 ]
	[ "$(jq -r '[.code,.details.name,.retryable]|join(" ")' <<<"$stderr")" = "unavailable web true" ]
}

@test "without a daemon: 69 at once, with a hint" {
	blix vm list
	[ "$status" -eq 69 ]
	[ -z "$output" ]
	[ "${stderr_lines[0]}" = "blix: no daemon answers at $DIR/sock" ]
	[ "${stderr_lines[1]}" = "hint: is blixd running?" ]
	blix version
	[ "$status" -eq 0 ]
	[ "${lines[1]}" = "blixd not reached" ]
}

@test "config.json: unknown keys and bad values are 78 and name the key" {
	echo '{"endpont":"/x"}' >"$DIR/config/blix/config.json"
	blix vm list
	[ "$status" -eq 78 ]
	[[ ${stderr_lines[0]} == *"config/blix/config.json: unknown key 'endpont'" ]]
	[ "${stderr_lines[1]}" = "hint: did you mean 'endpoint'?" ]
	echo '{"output":"xml"}' >"$DIR/config/blix/config.json"
	blix vm list
	[ "$status" -eq 78 ]
	echo '{' >"$DIR/config/blix/config.json"
	blix vm list
	[ "$status" -eq 78 ]
}

@test "flags win over the environment, that over config.json" {
	echo "{\"endpoint\":\"$DIR/file\"}" >"$DIR/config/blix/config.json"
	blix vm list
	[[ $stderr == *"$DIR/sock"* ]]
	blix vm list --endpoint "unix:$DIR/flag"
	[[ $stderr == *"$DIR/flag"* ]]
	unset BLIX_ENDPOINT
	blix vm list
	[[ $stderr == *"$DIR/file"* ]]
	BLIX_OUTPUT=xml blix vm list
	[ "$status" -eq 78 ]
	blix vm list -o xml
	[ "$status" -eq 64 ]
	blix vm list --endpoint relative
	[ "$status" -eq 78 ]
}

@test "help knows every verb, and each verb its help" {
	blix help
	[ "$status" -eq 0 ]
	[[ $output == *"vm create"* ]]
	[[ $output == *"cluster status"* ]]
	blix help vm
	[ "$status" -eq 0 ]
	[[ $output != *"node list"* ]]
	blix help vm create
	one=$output
	blix vm create --help
	[ "$status" -eq 0 ]
	[ "$output" = "$one" ]
	blix help exit-codes
	[[ $output == *"124"* ]]
	blix help nonsense
	[ "$status" -eq 64 ]
}

@test "completion scripts parse, and bash completes verbs, options and names" {
	blix completion bash
	[ "$status" -eq 0 ]
	bash -n <<<"$output"
	source /dev/stdin <<<"$output"
	COMP_WORDS=(blix vm st) COMP_CWORD=2
	_blix blix st vm
	[ "${COMPREPLY[*]}" = "start stop" ]
	COMP_WORDS=(blix vm create --mem) COMP_CWORD=3
	_blix blix --mem create
	[ "${COMPREPLY[*]}" = "--memory" ]
	COMP_WORDS=(blix cl) COMP_CWORD=1
	_blix blix cl blix
	[ "${COMPREPLY[*]}" = "cluster" ]
	blix completion zsh
	[ "$status" -eq 0 ]
	! command -v zsh || zsh -n <<<"$output"
	blix completion fish
	[ "$status" -eq 0 ]
	! command -v fish || fish -n <<<"$output"
	blix completion tcsh
	[ "$status" -eq 64 ]
}

@test "a flake that is not there: 8, flake-missing" {
	blix vm create web --flake "$DIR/none" -o json
	[ "$status" -eq 8 ]
	[ "$(grep '^{' <<<"$stderr" | jq -r .reason)" = flake-missing ]
	mkdir "$DIR/empty"
	blix vm create web --flake "path:$DIR/empty" -q
	[ "$status" -eq 8 ]
	[ "${stderr_lines[0]}" = "blix: flake $DIR/empty: it has no readable flake.nix" ]
}

@test "a local flake is packed and sent first, without Nix; then it is named by what is in it" {
	mkdir "$DIR/flake" "$DIR/nothing"
	echo '{ outputs = { self }: { }; }' >"$DIR/flake/flake.nix"
	answer 1 201 '{}'
	answer 2 201 "$(vm Running 5)"
	serve
	cd "$DIR/flake"
	run --separate-stderr /usr/bin/env PATH="$DIR/nothing" "$BLIX" vm create web --flake .#demo
	[ "$status" -eq 0 ]
	[[ ${stderr_lines[0]} =~ ^"packed .: 1 file, "[0-9]+B$ ]]
	hash=$(nix-store --dump "$DIR/flake" | sha256sum | cut -d' ' -f1)
	mapfile -t log < <(grep -aE '^(PUT|POST)' "$DIR/s/log")
	[[ ${log[0]} == "PUT /v1/sources/$hash session=0 "* ]]
	[[ ${log[1]} == *'"flake":"path:/nix/store/'*'-source?narHash=sha256-'*'","attr":"demo"'* ]]
	base64=$(grep -o 'sha256-[^"]*' <<<"${log[1]}" | sed 's/sha256-//; s/%2B/+/g; s/%2F/\//g; s/%3D/=/g')
	[ "$(base64 -d <<<"$base64" | od -An -tx1 | tr -d ' \n')" = "$hash" ]
}

@test "a flake that cannot be sent is not created" {
	mkdir "$DIR/flake"
	echo '{ }' >"$DIR/flake/flake.nix"
	answer rest 507 '{"code":"disk-full","reason":"sources-full","message":"no room"}'
	serve
	blix vm create web --flake "$DIR/flake#demo" -q
	[ "$status" -eq 75 ]
	[ "${stderr_lines[0]}" = "blix: no room" ]
	run ! grep -a '^POST' "$DIR/s/log"
	mkfifo "$DIR/flake/pipe"
	blix vm create web --flake "$DIR/flake#demo" -q
	[ "$status" -eq 64 ]
	[[ ${stderr_lines[0]} == *"/flake/pipe is neither a file, a folder nor a link" ]]
}

@test "a dry run sends nothing of a local flake" {
	mkdir "$DIR/flake"
	echo '{ }' >"$DIR/flake/flake.nix"
	answer 1 200 '{"name":"web","node":"n1","placeable":true}'
	serve
	blix vm create web --flake "$DIR/flake#demo" --dry-run -q
	[ "$status" -eq 0 ]
	[[ $(cat "$DIR/s/log") == "POST /v1/vms?dryRun=true "* ]]
}

@test "create sends the spec, waits for Running, tells each phase once" {
	answer 1 201 "$(vm Pending 5)"
	answer 2 200 "$(vm Building 6)"
	answer 3 200 "$(vm Building 7)"
	answer 4 200 "$(vm Running 8 '"node":"n2"')"
	serve
	blix vm create web --flake github:a/b --cpus 2 --memory 1GiB --label tier=web
	[ "$status" -eq 0 ]
	[ -z "$output" ]
	[ "${stderr_lines[0]}" = "vm web: Pending" ]
	[ "${stderr_lines[1]}" = "vm web: Building" ]
	[[ ${stderr_lines[2]} == "vm web: Running on n2 ("* ]]
	[ "${#stderr_lines[@]}" -eq 3 ]
	head -1 "$DIR/s/log" | grep -q '"memoryBytes":1073741824'
	head -1 "$DIR/s/log" | grep -q '"tier":"web"'
	sed -n 2p "$DIR/s/log" | grep -q '^GET /v1/vms/web?revision=5&wait=30000ms session=0'
}

@test "create --ready waits for ready; -o json prints the object" {
	answer 1 201 "$(vm Running 5 '"ready":false' '"ready":"console:up"')"
	answer 2 200 "$(vm Running 6 '"ready":true' '"ready":"console:up"')"
	serve
	blix vm create web --flake github:a/b --ready console:up -o json
	[ "$status" -eq 0 ]
	[ "$(jq -r .metadata.revision <<<"$output")" = 6 ]
}

@test "--no-wait prints the operation id, -o name the names" {
	answer rest 200 "$(vm Pending 5)"
	serve
	blix vm start web --no-wait
	[ "$status" -eq 0 ]
	[ "$output" = 42 ]
	blix vm start web --no-wait -o name
	[ "$output" = web ]
}

@test "a wait that cannot succeed ends at once with its code" {
	answer 1 200 "$(vm Failed 5 '"code":"image-failed","reason":"build-failed","message":"build failed:\n> line 1\n> line 2\nhint: mend it"')"
	answer 2 200 "$(vm Pending 5 '"reason":"unplaceable","code":"unplaceable","message":"3 nodes rejected"')"
	answer 3 200 "$(vm Deleting 5)"
	answer 4 200 "$(vm Failed 5 '"reason":"exited"')"
	answer 5 404 '{"code":"not-found","message":"vm web: no such VM"}'
	answer 6 200 "$(vm CrashLoop 5 '"code":"start-failed","message":"last words","exitCode":1,"crashes":{"count":3}')"
	serve
	blix wait vm/web --for=running
	[ "$status" -eq 8 ]
	[ "${stderr_lines[0]}" = "blix: vm web: build failed:" ]
	[ "${stderr_lines[1]}" = "  > line 1" ]
	[ "${stderr_lines[3]}" = "hint: mend it" ]
	blix wait vm/web --for=ready
	[ "$status" -eq 6 ]
	[ "${stderr_lines[0]}" = "blix: vm web: 3 nodes rejected" ]
	blix wait vm/web --for=stopped
	[ "$status" -eq 5 ]
	blix wait vm/web --for=running
	[ "$status" -eq 9 ]
	blix wait vm/web --for=running
	[ "$status" -eq 3 ]
	[ "${stderr_lines[0]}" = "blix: vm web: no such VM" ]
}

@test "deleted: gone is success, before or while waiting" {
	answer 1 404 '{"code":"not-found","message":"no such VM"}'
	answer 2 200 "$(vm Deleting 5)"
	answer 3 404 '{"code":"not-found","message":"no such VM"}'
	answer 4 200 '{"deleted":true}'
	serve
	blix wait vm/web --for=deleted
	[ "$status" -eq 0 ]
	blix vm delete web
	[ "$status" -eq 0 ]
	[ "${stderr_lines[0]}" = "vm web: Deleting" ]
	sed -n 2p "$DIR/s/log" | grep -q '^DELETE /v1/vms/web?graceMs=30000 '
	blix vm rm web --force -o json
	[ "$status" -eq 0 ]
	[ "$(jq -c '[.metadata.name,.deleted]' <<<"$output")" = '["web",true]' ]
	sed -n 4p "$DIR/s/log" | grep -q '^DELETE /v1/vms/web?graceMs=0 '
}

@test "time is up: 124, or 10 for a VM that runs but is not ready" {
	answer rest 200 "$(vm Running 5 '"ready":false' '"ready":"console:up"')"
	serve
	blix wait vm/web --for=stopped --timeout 100ms
	[ "$status" -eq 124 ]
	[ "${stderr_lines[-1]}" = "hint: wait again with 'blix wait vm/web --for=stopped'" ]
	blix wait vm/web --for=ready --timeout 100ms
	[ "$status" -eq 10 ]
	echo hang >"$DIR/s/rest"
	blix wait vm/web --for=ready --timeout 200ms
	[ "$status" -eq 124 ]
}

@test "Ctrl-C detaches: 130, and says how to wait again" {
	answer 1 200 "$(vm Building 5)"
	echo hang >"$DIR/s/2"
	serve
	# A background child of a shell without job control has SIGINT ignored: env resets it.
	env --default-signal=INT "$BLIX" wait vm/web --for=running 2>"$DIR/talk" 3>&- &
	pid=$!
	until [ "$(wc -l <"$DIR/s/log" 2>/dev/null)" = 2 ]; do sleep 0.02; done
	kill -INT "$pid"
	code=0
	wait "$pid" || code=$?
	[ "$code" -eq 130 ]
	grep -q "^blix: vm web: detached; the work continues$" "$DIR/talk"
	grep -q "^hint: wait again with 'blix wait vm/web --for=running'$" "$DIR/talk"
}

@test "unsettled answers and lost connections are tried again under one number" {
	answer 1 503 '{"code":"outcome-unknown","message":"leadership was lost"}'
	echo drop >"$DIR/s/2"
	answer 3 503 '{"code":"no-leader","message":"no leader"}'
	answer 4 200 "$(vm Running 9)"
	answer 5 200 "$(vm Running 10)"
	serve
	blix vm start web db
	[ "$status" -eq 0 ]
	[ "$(grep -c 'POST /v1/vms/web/start .* request=1 ' "$DIR/s/log")" -eq 4 ]
	[ "$(grep -c 'POST /v1/vms/db/start .* request=2 ' "$DIR/s/log")" -eq 1 ]
	[ "$(grep -o 'session=[0-9]*' "$DIR/s/log" | sort -u | wc -l)" -eq 1 ]
	! grep -q session=0 "$DIR/s/log"
}

@test "without a leader: 69 when the time is up" {
	answer rest 503 '{"code":"no-leader","message":"no leader can be reached"}'
	serve
	blix vm start web --timeout 300ms
	[ "$status" -eq 69 ]
	[ "${stderr_lines[0]}" = "blix: vm web: no leader can be reached" ]
	[ "$(sort -u "$DIR/s/log" | wc -l)" -eq 1 ]
	[ "$(wc -l <"$DIR/s/log")" -gt 1 ]
}

@test "several endpoints: the first that answers" {
	answer 1 200 '{"items":[]}'
	serve
	BLIX_ENDPOINT=$DIR/none,unix:$DIR/sock blix vm list -o jsonl
	[ "$status" -eq 0 ]
}

@test "errors of the daemon keep their exit code" {
	answer 1 409 '{"code":"exists","reason":"vm-exists","message":"vm web: it exists already"}'
	answer 2 403 '{"code":"denied","message":"not permitted"}'
	answer 3 200 '{"kind":'
	answer 4 500 'oops'
	serve
	blix vm create web --flake github:a/b
	[ "$status" -eq 4 ]
	[ "${stderr_lines[0]}" = "blix: vm web: it exists already" ]
	blix vm start web
	[ "$status" -eq 77 ]
	blix vm list
	[ "$status" -eq 1 ]
	blix vm list
	[ "$status" -eq 1 ]
}

@test "list: table, columns, names, JSON; control characters are not passed on" {
	answer rest 200 '{"kind":"VMList","revision":3,"stale":true,"stalenessMs":900,"server":"n2","items":[{"metadata":{"name":"a","createdAt":"2026-01-01T00:00:00.000Z"},"status":{"phase":"Running","ready":true,"node":"n1","resolved":{"cpus":2,"memoryBytes":536870912}}},{"metadata":{"name":"b"},"status":{"phase":"Failed","reason":"bad\u001b[31m"}}]}'
	serve
	blix vm list
	[ "$status" -eq 0 ]
	[[ ${lines[0]} == NAME*PHASE*READY*NODE*CPUS*MEMORY*AGE*REASON ]]
	[[ ${lines[1]} == a*Running*yes*n1*2*512MiB* ]]
	[[ ${lines[2]} == *'bad\x1b[31m'* ]]
	[ "$stderr" = "note: stale, as n2 knew it 900 ms ago" ]
	grep -q 'view=summary' "$DIR/s/log"
	blix vm ls --columns phase,name --no-headers -q
	[ "$output" = "a
b" ]
	blix vm ls --columns phase,name --no-headers -o wide
	[[ ${lines[0]} == Running*a ]]
	blix vm list -q -l a=b,c=d
	[ "${lines[*]}" = "a b" ]
	tail -1 "$DIR/s/log" | grep -q 'labels=a%3Db%2Cc%3Dd '
	blix vm list -o json
	[ "$(jq -r '.kind,(.items|length)' <<<"$output" | xargs)" = "VMList 2" ]
	blix vm list -o jsonl
	[ "$(jq -r .metadata.name <<<"$output" | xargs)" = "a b" ]
	blix vm list --columns nonsense
	[ "$status" -eq 64 ]
}

@test "selectors: all that match; deleting them must be confirmed" {
	answer 1 200 '{"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}'
	answer 2 200 "$(vm Stopped 5)"
	answer 3 200 "$(vm Stopped 5)"
	answer 4 200 '{"items":[{"metadata":{"name":"a"}}]}'
	answer 5 200 '{"items":[]}'
	serve
	blix vm stop -l tier=web
	[ "$status" -eq 0 ]
	sed -n 2p "$DIR/s/log" | grep -q '^POST /v1/vms/a/stop .*request=1 {"graceMs":30000}'
	sed -n 3p "$DIR/s/log" | grep -q '^POST /v1/vms/b/stop .*request=2 '
	blix vm delete --all
	[ "$status" -eq 64 ]
	[ "${stderr_lines[1]}" = "hint: add --yes" ]
	blix vm delete --all --yes
	[ "$status" -eq 0 ]
	[ "$stderr" = "no VM matches" ]
}

@test "logs: bytes as they are, the tail, and -f until the VM ends" {
	printf '200\nBlix-Offset: 12\n\none\ntwo\r\n\033[1m' >"$DIR/s/1"
	printf '200\nBlix-Offset: 12\n\n' >"$DIR/s/2"
	printf '200\nBlix-Offset: 8\n\none\ntwo\n' >"$DIR/s/3"
	printf '200\nBlix-Offset: 8\n\n' >"$DIR/s/4"
	printf '200\nBlix-Offset: 12\n\nend\n' >"$DIR/s/5"
	printf '200\nBlix-Offset: 12\nBlix-Ended: true\n\n' >"$DIR/s/6"
	serve
	"$BLIX" vm logs web >"$DIR/out"
	printf 'one\ntwo\r\n\033[1m' | cmp - "$DIR/out"
	blix vm logs web -f --tail 1
	[ "$status" -eq 0 ]
	[ "${lines[*]}" = "two end" ]
	sed -n 5p "$DIR/s/log" | grep -q 'offset=8&wait=30s '
}

@test "why, events, nodes, cluster and status print what the daemon says" {
	answer 1 200 '{"name":"web","phase":"Pending","placeable":false,"chain":[{"reason":"unplaceable","message":"1 node rejected"},{"reason":"foreign-directory","message":"m"}],"nodes":[{"name":"n1","fits":false,"reason":"memory","need":"2GiB","have":"1GiB"}],"hint":"lower --memory"}'
	answer 2 200 '{"revision":9,"items":[{"revision":9,"time":"2026-01-01T00:00:00.000Z","kind":"vm","name":"web","reason":"vm-created","message":"m"}]}'
	answer 3 200 '{"items":[{"metadata":{"name":"n1","id":"1"},"spec":{"role":"server"},"status":{"phase":"Ready","vms":2,"capacity":{"cpus":4,"memoryBytes":1073741824}}}]}'
	answer 4 200 '{"metadata":{"name":"n1","id":"1"},"status":{"phase":"Ready","microvmCommand":"/usr/bin/microvm"}}'
	answer 5 200 '{"cluster":"c1","leader":"n1","quorum":true,"servers":[{"id":"1","name":"n1","role":"leader","online":true}]}'
	answer 6 200 '{"version":"9.9"}'
	answer 7 200 '{"cluster":"c1","leader":"n1","quorum":true,"servers":[{"name":"n2","online":false}]}'
	answer 8 200 '{"items":[{"metadata":{"name":"n1"},"status":{"phase":"Ready"}}]}'
	answer 9 200 '{"items":[{"metadata":{"name":"web"},"status":{"phase":"Failed","reason":"exited"}}]}'
	serve
	blix vm why web
	[ "$status" -eq 0 ]
	[[ $output == *"1 node rejected"*"  foreign-directory m"*"n1"*"memory"*"hint: lower --memory"* ]]
	blix vm events web
	[[ ${lines[1]} == 2026-01-01T00:00:00.000Z*web*vm-created* ]]
	blix node list
	[[ ${lines[1]} == n1*Ready*server*2*4* ]]
	blix node show n1
	[[ $output == *"/usr/bin/microvm"* ]]
	blix cluster status
	[[ $output == *"cluster c1"*"n1"*"leader"* ]]
	blix status
	[ "$status" -eq 0 ]
	[[ $output == *"blix 9.9"*"1 of 1 ready"*"1: 1 Failed"*"server n2: offline"*"vm web: Failed: exited"* ]]
}

@test "stdout that cannot be written is an error" {
	[ -c /dev/full ]
	run bash -c '"$BLIX" help 2>/dev/null >/dev/full'
	[ "$status" -eq 75 ]
}

@test "--dry-run: where it would run, or why not" {
	answer 1 200 '{"dryRun":true,"name":"web","exists":false,"node":"n2","placeable":true,"assumed":true,"nodes":[{"name":"n2","fits":true}]}'
	answer 2 200 '{"dryRun":true,"name":"web","exists":false,"placeable":false,"nodes":[{"name":"n2","fits":false,"reason":"memory","need":4294967296,"have":1048576}]}'
	answer 3 200 '{"dryRun":true,"name":"web","exists":true,"node":"n2","placeable":true,"nodes":[]}'
	serve
	blix vm create web --flake github:a/b --dry-run
	[ "$status" -eq 0 ]
	[ "$output" = "vm web: would run on n2" ]
	grep -q '^POST /v1/vms?dryRun=true ' "$DIR/s/log"
	blix vm create web --flake github:a/b --dry-run
	[ "$status" -eq 6 ]
	[[ ${lines[1]} == n2*no*memory*4GiB*1MiB ]]
	blix vm create web --flake github:a/b --dry-run -o json
	[ "$status" -eq 4 ]
	[ "$(jq .exists <<<"$output")" = true ]
}
