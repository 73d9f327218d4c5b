# What every tier of bats tests waits with: for a condition, with a deadline, never for a time.

# until_true CONDITION...: succeeds when it does, within $WITHIN seconds (30).
until_true() {
	local until=$((SECONDS + ${WITHIN:-30}))
	until "$@"; do
		if [ "$SECONDS" -ge "$until" ]; then
			echo "not true within ${WITHIN:-30} s: $*" >&2
			return 1
		fi
		sleep 0.02
	done
}

# A zombie has ended too.
ended() { # PID
	local stat=
	read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
	case ${stat##*) } in Z* | X*) return 0 ;; esac
	return 1
}
