#!/usr/bin/env bash
# Installs the Debian packages that a cluster needs and brings kube-all into the cache, or does nothing when all is
# there. kube-all is unpacked from kube-all.xz, found here or in ../shared/cluster beside the repository; without
# that file it is built by build.sh. KUBE_ALL=FILE uses that binary instead. Usage: setup.sh
set -euo pipefail
. "$(dirname "$(realpath "$0")")/lib.sh"

packages=(
  containerd runc containernetworking-plugins iproute2 iptables procps util-linux # node
  openssl xz-utils                                                                # certificates, kube-all.xz
  docker-registry skopeo                                                          # images
  busybox-static python3                                                          # the pause image, the self-test's image
)
missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  need_root
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2 ||
    { apt-get update -qq >&2 && apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2; }
fi

if [[ -n ${KUBE_ALL:-} ]]; then
  [[ -x $KUBE_ALL ]] || die "KUBE_ALL=$KUBE_ALL is not an executable file"
  exit
fi
packed=''
for file in "$here/kube-all.xz" "$here/../../../shared/cluster/kube-all.xz"; do
  [[ ! -f $file ]] || { packed=$(realpath "$file") && break; }
done

# the checksum goes in last: it stands for a whole binary
if ! cmp -s "$here/kube-all.sha256" "$kube_all.sha256"; then
  mkdir -p "${kube_all%/*}"
  part=$(mktemp "$kube_all.XXXXXX")
  trap 'rm -f "$part"' EXIT
  if [[ -n $packed ]]; then
    say "unpacking $packed to $kube_all"
    xz -dc "$packed" >"$part"
  elif command -v go >/dev/null; then
    say "building $kube_all, which takes some minutes"
    "$here/build.sh" "$part" >&2
  else
    die "no kube-all.xz in $here or in ../shared/cluster beside the repository, and no Go to build it with"
  fi
  [[ $(sha256sum <"$part") == "$(<"$here/kube-all.sha256")" ]] || die "$kube_all would not match kube-all.sha256"
  chmod 755 "$part"
  mv "$part" "$kube_all"
  cp "$here/kube-all.sha256" "$kube_all.sha256"
fi
