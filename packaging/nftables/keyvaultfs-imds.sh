#!/bin/sh
# keyvaultfs-imds.sh up|check|down: the fence of the token endpoint, and a line that says whether it stands.
#
# Whatever flushes nftables' rules (a reload of nftables.service, another firewall, a person) takes the fence along and
# tells nobody. So `check` looks every half minute and puts it back. What it found is in /run/keyvaultfs/imds-fence, for
# processes that may not look at rules themselves, such as the file system's worker:
#
#     in-force SECONDS RESTORED      or      lost SECONDS RESTORED
#
# SECONDS is the time of the check since boot, as /proc/uptime counts it, and RESTORED how often the fence has been put
# back. src/keyvaultfs/fence.py reads it.
set -eu

rules=$(dirname "$0")/keyvaultfs-imds.nft
folder=/run/keyvaultfs
state=$folder/imds-fence

stands() {
	[ "$(nft list table inet keyvaultfs_imds 2>/dev/null | grep -c 'ip daddr 169.254.169.254 .*reject')" = 2 ]
}

# say STATE RESTORED: replaced as a whole, so that no reader sees half of it.
say() {
	read -r uptime _ </proc/uptime
	mkdir -p "$folder"
	echo "$1 $uptime $2" >"$state.new"
	mv "$state.new" "$state"
}

restored=0
[ ! -r "$state" ] || read -r _ _ restored <"$state" || restored=0

case $1 in
up)
	nft -f "$rules" || {
		say lost "$restored"
		exit 1
	}
	say in-force "$restored"
	;;
check)
	if ! stands; then
		restored=$((restored + 1))
		nft -f "$rules" || true
		if ! stands; then
			say lost "$restored"
			echo "the fence of the token endpoint was gone, and nft did not put it back" >&2
			exit 1
		fi
		echo "the fence of the token endpoint was gone: something flushed the rules; it is back"
	fi
	say in-force "$restored"
	;;
down)
	rm -f "$state"
	! stands || nft delete table inet keyvaultfs_imds
	;;
*)
	echo "usage: $0 up|check|down" >&2
	exit 2
	;;
esac
