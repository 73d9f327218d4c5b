# What is on the host of one run, comparable between runs. Sourced by enumerate and churn, inside tests/crash/apart: all
# processes, links, mounts and control groups are of this run.

# In words that do not depend on the run.
neutral() {
	sed -E "s|$T|T|g; s|$BUILD|B|g; s|$PWD|.|g; s|orphans/web-[0-9]+|orphans/web-N|; s|secrets/[0-9]+|secrets/N|; s|/blix/[^/ ]*-([0-9]+)-([0-9]+)|/blix/G-\2|g" "$@"
}

# Every process but those of the test, with its control group.
processes() {
	local dir words group
	for dir in /proc/[0-9]*; do
		mapfile -d '' words 2>/dev/null <"$dir/cmdline"
		[ "${#words[@]}" -gt 0 ] || continue # it has ended
		case ${words[*]} in *tests/crash/enumerate* | *tests/crash/churn*) continue ;; esac
		group=$(grep '^0::' "$dir/cgroup" 2>/dev/null) && echo "${words[0]##*/} ${group#0::}"
	done
}

files() {
	find "$T/n1" -mindepth 1 \( -path '*/.fake' -o -path '*/state/raft*' -o -path '*/raft*' \) -prune -o \
		! -path '*/state/journal' ! -name log ! -path "$T/n1/sock" -printf '%p %y %l\n' 2>/dev/null
}

contents() {
	sed -E 's/"uid":[0-9]*/"uid":N/; s/"endedAt":[0-9]*/"endedAt":N/' "$T/n1/microvms/web/.blix.json" \
		"$T/n1/state/vms/web/claim.json" "$T/n1/run/vms/web/exit.json" \
		"$T/n1/state/vms/web/console.log" 2>/dev/null
	# What the host can accelerate is found out while it starts.
	sed -E 's/(uid |BLIX_UID=)[0-9]+/\1N/; s/(BLIX_ACCEL=).*/\1A/' "$T/n1/systemd/microvm@web.service.d/50-blix.conf" 2>/dev/null | neutral
}

# The machine's own differ from run to run.
MOUNTS=$(</proc/self/mountinfo)
mounts_since() { grep -vxF "$1" /proc/self/mountinfo | cut -d' ' -f5 | sort; }

host_state() {
	local list
	files | neutral | sort
	contents
	[ "$FOREIGN" = "$(foreign)" ] || foreign
	on 1 vm list -o json | jq -cS '.items[] | [.metadata.name, .status.phase, .status.reason, .spec, .status.generation]'
	list=$(processes)
	echo "processes:"
	neutral <<<"$list" | sort
	echo "links, mounts and control groups:"
	ls /sys/class/net
	mounts_since "$MOUNTS" | neutral
	find /sys/fs/cgroup -mindepth 1 -type d | neutral | sort
	echo "doubled: $(grep -c DOUBLE "$T/n1/microvms/.fake/witness")"
	grep -h 'event=.*\(leak\|fatal\)\|ERROR: .*Sanitizer' "$T/n1/log" || true
}
