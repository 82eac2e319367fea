#!/bin/busybox sh
# The first process of the small arm64 guest. It does, in short, what Ignition, udev and systemd do in a CoreOS image as
# far as the harness needs it: load modules, name virtio ports, take the channel's script out of the config that fw_cfg
# brings and start it, and have a login prompt on the console.

export PATH=/usr/bin:/bin
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
while read -r module; do insmod "/modules/$module"; done </modules/order

mkdir /dev/virtio-ports
until [ -e "/dev/virtio-ports/org.image-harness.channel" ]; do
    for port in /sys/class/virtio-ports/*; do
        [ -e "$port/name" ] && ln -sfn "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
    done
    sleep 0.1
done

# As after Ignition: what the first boot wrote is there in every later one, which may have no config.
mkdir -p /var
mount -t ext4 "$(findfs LABEL=boot)" /var
ln -s /var /etc/image-harness
config=/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw
script=/etc/image-harness/channel.sh
if [ -e $config ] && ! [ -e $script ]; then
    sed -n 's|.*"source":"data:;base64,\([^"]*\)"},[^{}]*"path":"'$script'".*|\1|p' $config | base64 -d >$script
    sync
fi
if [ -e $script ]; then
    setsid bash $script </dev/null >/dev/console 2>&1 &
fi

printf 'small login: '
read -r user
exec setsid sh -c 'exec sh -i </dev/ttyAMA0 >/dev/ttyAMA0 2>&1'
