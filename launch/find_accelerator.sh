#!/usr/bin/env bash
# Print the accelerator of this machine: cuda, tpu, or nothing.
#
#   launch/find_accelerator.sh [ROOT]    ROOT is for tests: the folder that holds dev and sys
root=${1:-}
if nvidia-smi -L >/dev/null 2>&1; then
  echo cuda
  exit
fi
# TPUs up to v4 have the device accel0. Newer ones are behind VFIO, as devices of other vendors may
# be, so the vendor is checked too: 0x1ae0 is Google's PCI vendor ID.
for device in "$root"/dev/accel0 "$root"/dev/vfio/[0-9]*; do
  if [ -e "$device" ] &&
    { [ "$device" = "$root/dev/accel0" ] ||
      grep -qs 0x1ae0 "$root"/sys/bus/pci/devices/*/vendor; }; then
    echo tpu
    exit
  fi
done
